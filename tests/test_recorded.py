"""Recording a step, with a make-believe GPU; tests/test_gpu.py does it on one."""

import gc
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from asym.recorded import FIRST, Recorded

CUDA = torch.device("cuda")


class Graph:
    """Calls again what was recorded."""

    def replay(self):
        self.step()


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda's streams and graphs; at_start is called when a recording starts."""
    told = SimpleNamespace(recording=False, at_start=lambda: None)

    @contextmanager
    def graph(made, stream):
        told.at_start()
        told.recording = made
        yield
        told.recording = None

    stream = SimpleNamespace(device=CUDA, wait_stream=lambda other: None)
    for name, make in {
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": nullcontext,
        "CUDAGraph": Graph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, make)
    return told


def test_the_fourth_call_is_recorded_and_replayed_on_the_input_of_each(gpu):
    calls, total = [], torch.zeros(())

    def step(input):
        calls.append(bool(gpu.recording))
        if gpu.recording:  # a GPU notes what to do and does nothing
            gpu.recording.step = lambda: total.add_(input)
        else:
            total.add_(input)

    recorded = Recorded(CUDA)
    for value in range(1, FIRST + 4):
        recorded(step, torch.tensor(float(value)))
    assert calls == [False] * FIRST + [True]
    assert total == sum(range(1, FIRST + 4))


def test_what_an_earlier_run_left_goes_before_a_recording_starts(gpu):
    """Its graph may hang in a cycle, which the collector ends at any moment; in the midst of a recording that breaks it."""

    class Run:
        def __init__(self):
            self.itself, self.graph = self, Graph()

    gc.disable()
    try:
        graph = weakref.ref(Run().graph)
        assert graph() is not None
        seen = []
        gpu.at_start = lambda: seen.append(graph())
        recorded = Recorded(CUDA)
        for _ in range(FIRST + 1):
            recorded(lambda input: gpu.recording and setattr(gpu.recording, "step", lambda: None), torch.zeros(()))
    finally:
        gc.enable()
    assert seen == [None]
