"""A training step on a GPU as one CUDA graph: these nets' kernels end sooner than the next one can be launched."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

FIRST = 3  # steps taken as they are: the first ones make the optimiser's state and choose the libraries' algorithms


class Recorded:
    """Calls a step; on a GPU it records the fourth call and replays the record from then on, to the same numbers.

    A step to be recorded always does the same work, on tensors that stay where they are; what it has to say it writes to some of
    them. It must not wait for the GPU or draw random numbers. recordable: whether it is so.
    """

    def __init__(self, device: torch.device, recordable: bool = True):
        self._recordable = recordable and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._recordable else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor | None = None
        self._calls = 0

    def __call__(self, step: Callable[[Tensor], None], input: Tensor) -> None:
        """step(input); the same step, and an input of the same shape, in every call."""
        if not self._recordable:
            return step(input)
        self._calls += 1
        if self._calls <= FIRST:
            callers = torch.cuda.current_stream(self._stream.device)
            self._stream.wait_stream(callers)
            with torch.cuda.stream(self._stream):
                step(input)
            callers.wait_stream(self._stream)
            return None
        if self._graph is None:
            self._input, self._graph = input.clone(), torch.cuda.CUDAGraph()
            gc.collect()  # now: the graph of an earlier run, if it went while this one is recorded, would break the recording
            with torch.cuda.graph(self._graph, stream=self._stream):
                step(self._input)
        self._input.copy_(input)
        self._graph.replay()
        return None
