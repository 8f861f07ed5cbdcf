"""Seeds trained in one program: each ends where it ends alone, but for rounding."""

import math
import time
from dataclasses import replace

import pytest
import torch

from asym import data, grid, stacked
from asym.config import Config, last
from asym.measures import MEASURES
from asym.results import Store
from asym.rules import RULES
from asym.train import Trainer, follow, train

SEEDS = (0, 3, 5)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]),
]
DENSE = Config(subset=300, test_subset=100, hidden=(12, 10), rules=last("fa", 2, 3), batch=50, epochs=2)
POGGIO = Config(
    subset=40, test_subset=40, net="poggio", rules=last("fa", 4, 5), batch=20, optimizer="sgd", lr=0.01
)  # lets rounding be
CASES = {
    **{rule: {"rules": last(rule, 2, 3), "weight_decay": 0.1 if RULES[rule].needs_decay else 0.0} for rule in RULES},
    "mixed rules": {"rules": ("bp", "shared_update", "fa")},
    "hinge": {"loss": "hinge"},
    "sgd": {"optimizer": "sgd", "lr": 0.1},
    "nesterov, shared_update": {"optimizer": "nesterov", "lr": 0.05, "rules": last("shared_update", 2, 3)},
    "l2": {"l2": 0.01},
    "clipped gradient": {"clip_value": 1e-3},
    "clipped norm": {"clip_norm": 0.05},
    "clipped weights and feedback": {"clip_weight": 0.05, "clip_feedback": True, "rules": last("shared_update", 2, 3)},
    "frozen": {"frozen": (0,)},
    "held out": {"validation": 100},
    "l2, clipped gradient": {"l2": 0.5, "clip_value": 1e-3},
    "clipped gradient, clipped norm": {"clip_value": 1e-3, "clip_norm": 0.01},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Full fp32 products on a GPU too, whose convolutions are in TF32 otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def seeds(config):
    return [replace(config, seed=seed) for seed in SEEDS]


def same(ours, theirs, tolerance=2e-3):
    assert ours.config == theirs.config and ours.diverged == theirs.diverged
    assert ours.data_fingerprint == theirs.data_fingerprint and len(ours.epochs) == len(theirs.epochs)
    for a, b in zip(ours.epochs, theirs.epochs, strict=True):
        assert a.keys() == b.keys()
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=tolerance, nan_ok=True)
        assert a["test_accuracy"] == pytest.approx(b["test_accuracy"], abs=2.1 / ours.config.test_subset)  # two images
        for name in set(MEASURES) & {"weight_angle", "drift", "feedback_ratio"}:
            assert a[name] == pytest.approx(b[name], rel=5e-3, abs=5e-3, nan_ok=True), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_every_seed_ends_where_it_ends_alone(case, device):
    configs = seeds(replace(DENSE, **CASES[case]))
    tolerance = 0.03 if case == "bf16" else 2e-3
    for together, config in zip(stacked.train(configs, device=device), configs, strict=True):
        same(together, train(config, device=device), tolerance)


def test_each_of_a_stack_is_told_its_share_of_the_time():
    start = time.perf_counter()
    made = grid.perform_task(tuple(seeds(DENSE)), threads=None)
    taken = time.perf_counter() - start
    assert sum(record.provenance["seconds"] for record in made) == pytest.approx(taken, rel=0.2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "fields", [{}, {"net": "poggio_untied", "l2": 10.0}, {"rules": last("dfa", 4, 5)}, {"pretrained": 1, "frozen": (0,)}], ids=str
)
def test_the_conv_nets_stack_too(fields, device):
    configs = seeds(replace(POGGIO, **fields))
    for together, config in zip(stacked.train(configs, device=device), configs, strict=True):
        same(together, train(config, device=device), 5e-3)


def test_the_first_step_is_the_same_to_rounding_in_every_weight():
    dataset = data.load("fashion_mnist")
    configs = seeds(replace(DENSE, subset=50, batch=50, rules=last("shared_update", 2, 3)))
    alone, together = ([Trainer(config, dataset) for config in configs] for _ in range(2))
    stack = stacked.Stack(together)
    for trainer in alone:
        trainer.epoch()
    stack.epoch()
    for a, b in zip(alone, together, strict=True):
        for (name, ours), theirs in zip(b.net.state_dict().items(), a.net.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5, msg=name)
    assert not torch.equal(*(trainer.net.layers[0].weight for trainer in together[:2]))


def test_a_stack_in_bf16_multiplies_in_it():
    trainers = [Trainer(config, data.load("fashion_mnist")) for config in seeds(replace(DENSE, precision="bf16"))]
    stack, made = stacked.Stack(trainers), set()
    trainers[0].net.layers[0].register_forward_hook(lambda layer, given, output: made.add(output.dtype))
    stack.epoch()
    assert made == {torch.bfloat16}


def test_a_seed_that_diverges_ends_and_leaves_the_others():
    dataset = data.load("fashion_mnist")
    trainers = [Trainer(config, dataset) for config in seeds(DENSE)]
    stack = stacked.Stack(trainers)
    trainers[1].net.layers[0].weight.data.fill_(math.nan)
    histories = follow(trainers, stack.epoch)
    assert [history.diverged for history in histories] == [False, True, False]
    assert [len(history.epochs) for history in histories] == [3, 1, 3] and histories[1].epochs[-1]["test_accuracy"] == 0.1
    for history in (histories[0], histories[2]):
        same(history, train(history.config))


@pytest.mark.parametrize(
    ("configs", "says"),
    [
        ([DENSE, replace(DENSE, lr=0.1)], "differ by their seed alone"),
        (seeds(replace(DENSE, dropout=0.5)), "dropout must be 0 for seeds to be stacked; got 0.5"),
    ],
    ids=["another rate", "dropout"],
)
def test_what_cannot_be_stacked_is_refused(configs, says):
    with pytest.raises(ValueError, match=says):
        stacked.train(configs)


def test_tasks_keep_the_order_and_every_config_once():
    other, dropped = replace(DENSE, lr=0.1), replace(DENSE, dropout=0.5)
    configs = [replace(config, seed=seed) for seed in SEEDS for config in (DENSE, other, dropped)]
    tasks = grid._tasks(configs, 2)
    assert tasks[0] == tuple(seeds(DENSE)[:2]) and tasks[1] == tuple(seeds(DENSE)[2:])
    assert all(len(task) == 1 for task in tasks if task[0].dropout)
    assert sorted(config.hash for task in tasks for config in task) == sorted(config.hash for config in configs)
    assert grid._tasks(configs, 1) == [(config,) for config in configs]


def test_a_grid_of_stacks_stores_what_a_plain_one_does(tmp_path):
    configs = [*seeds(replace(DENSE, subset=100, epochs=1)), *seeds(replace(DENSE, subset=100, epochs=1, dropout=0.5))]
    plain, together = Store(tmp_path / "plain"), Store(tmp_path / "stacked")
    grid.run(configs, plain, jobs=1)
    outcome = grid.run(configs, together, jobs=2, stack=3)
    assert (outcome.ran, outcome.left) == (6, 0)
    for config in configs:
        ours, theirs = together.load(config), plain.load(config)
        assert ours.epochs[-1]["train_loss"] == pytest.approx(theirs.epochs[-1]["train_loss"], rel=1e-4)
        assert ours.provenance.get("stacked") == (None if config.dropout else 3)
        assert ours.provenance["seconds"] > 0 and "stacked" not in theirs.provenance
