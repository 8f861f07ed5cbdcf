"""On a GPU: what the CPU gives, within rounding, and the same twice."""

import gc
from dataclasses import replace

import pytest
import reference
import torch

from asym import data, nets
from asym.config import Config, last
from asym.recorded import FIRST, Recorded
from asym.rules import RULES
from asym.train import Trainer, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
RUN = Config(subset=300, test_subset=100, hidden=(12, 10), rules=last("fa", 2, 3), batch=50, epochs=2)
POGGIO = Config(subset=200, test_subset=40, net="poggio", rules=last("fa", 4, 5), batch=20)
UNTIED = replace(POGGIO, net="poggio_untied")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Full fp32 products, on this file's own copy of the data."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_layer_gives_what_it_gives_on_the_cpu(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind)
    found = []
    for device in ("cpu", "cuda"):
        layer, x = layer.to(device), x.detach().to(device).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        y.backward(reference.draw(*y.shape, seed=7).to(y))
        found.append([t if t is None else t.cpu() for t in (y.detach(), x.grad, layer.weight.grad.clone())])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)  # both in float64


@pytest.mark.parametrize("pooling", nets.POOLINGS)
@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_every_weight_of_a_conv_net_gets_the_gradient_that_it_gets_on_the_cpu(layout, untied, pooling, monkeypatch):
    """Through everything that lies between the layers: CUDA's own average of a padded channels_last input has a wrong one."""
    expected = reference.poggio_gradients(untied, pooling)
    for ours, theirs in zip(reference.poggio_gradients(untied, pooling, layout=layout, device="cuda"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as runs have it
    as_trained = reference.poggio_gradients(untied, pooling, torch.float32, layout, "cuda")
    assert all((ours - theirs).norm() < 0.05 * theirs.norm() for ours, theirs in zip(as_trained, expected, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_short_run_ends_where_it_ends_on_the_cpu(rule):
    run = replace(RUN, rules=last(rule, 2, 3), weight_decay=0.1 if RULES[rule].needs_decay else 0.0)
    ours, theirs = train(run), train(run, device="cuda")
    for a, b in zip(ours.epochs[1:], theirs.epochs[1:], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=2e-3)
        assert b["test_accuracy"] == pytest.approx(a["test_accuracy"], abs=0.021)  # two images of the hundred


@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", [RUN, POGGIO, UNTIED], ids=lambda config: config.net)
def test_a_recorded_step_does_what_the_step_does(net, rule, optimizer):
    decay = 0.1 if RULES[rule].needs_decay else 0.0
    config = replace(net, rules=last(rule, len(net.rules) - 1, len(net.rules)), weight_decay=decay)
    if optimizer == "nesterov":
        config = replace(config, optimizer=optimizer, lr=0.01, clip_norm=1.0, clip_weight=0.5)
    found = []
    for recorded in (False, True):
        trainer = Trainer(config, data.load(config.dataset, device="cuda"), "cuda")
        trainer.recorded = Recorded(trainer.device, recorded)
        found.append([(trainer.epoch(), trainer.accuracies(), trainer.probe.measure()) for _ in range(2)])
        assert (trainer.recorded._graph is not None) == recorded
    assert repr(found[0]) == repr(found[1])


def test_two_runs_are_the_same_to_the_last_bit():
    first, second = ([{**row, "seconds": 0} for row in train(RUN, device="cuda").epochs] for _ in range(2))
    assert repr(first) == repr(second)


def test_the_graph_of_an_earlier_run_breaks_no_recording():
    """It hangs in a cycle, and the collector runs in the midst of the recording."""
    total, one = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")

    def step(input):
        if torch.cuda.is_current_stream_capturing():
            gc.collect()
        total.add_(input)

    gc.disable()
    try:
        for _ in range(2):
            recorded = Recorded(total.device)
            for _ in range(FIRST + 1):
                recorded(step, one)
            recorded.itself = recorded
            del recorded
    finally:
        gc.enable()
    assert total.tolist() == [2 * (FIRST + 1)] * 3
