"""Training: stored losses, and that every option of Config does what it says.

`python tests/test_train.py --write` stores the losses of today's code in tests/golden/ where they are not those stored;
look at the difference before committing.
"""

import json
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
import torch.nn.functional as F

import asym
from asym import data, nets
from asym.config import Config, last
from asym.measures import MEASURES
from asym.results import Record, Store
from asym.rules import RULES
from asym.train import _KERNELS, History, Trainer, _parts, build, follow, hinge, train

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 2e-4  # relative: some ten steps of fp32 on another processor
HIDDEN = (12, 10)
NAMES = {"dense": 3, "poggio": 5, "poggio_untied": 5}


def fashion() -> data.Dataset:
    """The first 120 training images of the embedded Fashion-MNIST, every third pixel of them: 10 x 10."""
    whole = data.load("fashion_mnist")
    small = {f"{part}_images": getattr(whole, f"{part}_images")[:120, :, ::3, ::3].contiguous() for part in ("train", "test")}
    labels = {f"{part}_labels": getattr(whole, f"{part}_labels")[:120] for part in ("train", "test")}
    return replace(whole, **small, **labels)


@pytest.fixture(scope="module")
def images():
    return fashion()


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    _KERNELS.clear()  # these small images go by the fingerprint of the whole set


def config(rule="fa", net="dense", **fields) -> Config:
    """A short run: two batches an epoch."""
    layers = NAMES[net]
    fields.setdefault("rules", last(rule, layers - 1, layers))
    if net == "dense":
        fields.setdefault("hidden", HIDDEN)
    if any(RULES[r].needs_decay for r in fields["rules"]):
        fields.setdefault("weight_decay", 1.0)
    return Config(net=net, **({"batch": 60, "lr": 3e-3} | fields))


def losses(config: Config, dataset: data.Dataset, epochs: int = 5) -> list[float]:
    trainer = Trainer(config, dataset)
    return [trainer.epoch()[0] for _ in range(epochs)]


def stored_runs() -> dict[str, Config]:
    """What tests/golden/ holds: every rule on the dense net, some on the others; the other loss, optimizers, nonlinearities."""
    runs = {f"dense {rule}": config(rule) for rule in RULES}
    runs |= {f"poggio {rule}": config(rule, "poggio", batch=20) for rule in ("bp", "fa", "dfa")}
    runs |= {f"poggio_untied {rule}": config(rule, "poggio_untied", batch=20) for rule in ("bp", "shared_update")}
    runs["dense fa hinge"] = config(loss="hinge")
    runs |= {f"dense kp {name}": config("kp", optimizer=name, lr=0.05, weight_decay=0.1) for name in ("sgd", "nesterov")}
    return runs | {f"dense fa {name}": config(activation=name) for name in ("tanh", "half_hardtanh")}


def steps(name: str) -> int:
    return 5 if name.startswith("dense") else 1


def golden(name: str) -> Path:
    return GOLDEN / f"{name.replace(' ', '-')}.json"


def write() -> None:
    for name, run in stored_runs().items():
        found = {"config": run.to_dict(), "losses": losses(run, fashion(), steps(name))}
        stored = json.loads(golden(name).read_text()) if golden(name).exists() else {}
        if stored.get("config") != found["config"] or stored["losses"] != pytest.approx(found["losses"], rel=TOLERANCE):
            golden(name).write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("name", stored_runs())
def test_losses_are_the_stored_ones(name, images):
    stored = json.loads(golden(name).read_text())
    run = stored_runs()[name]
    assert Config.from_dict(stored["config"]) == run, "the run has changed: python tests/test_train.py --write"
    assert losses(run, images, steps(name)) == pytest.approx(stored["losses"], rel=TOLERANCE)


def test_no_stored_losses_lie_about():
    assert set(GOLDEN.glob("*.json")) == set(map(golden, stored_runs()))


def test_losses_that_still_hold_are_not_stored_again(monkeypatch, tmp_path):
    """Another processor gives other last digits."""
    runs = {name: run for name, run in stored_runs().items() if name in ("dense bp", "dense fa", "dense usf", "dense kp")}
    kept = {name: json.loads(golden(name).read_text()) for name in runs}
    monkeypatch.setattr(sys.modules[__name__], "GOLDEN", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "stored_runs", lambda: runs)
    for name, run in kept.items():
        golden(name).write_text(json.dumps(run))  # in a line, which tells it from what is stored again
    golden("dense bp").unlink()
    golden("dense fa").write_text(json.dumps(kept["dense fa"] | {"losses": [2.5] * 5}))
    golden("dense usf").write_text(json.dumps(kept["dense usf"] | {"config": kept["dense bp"]["config"]}))
    write()
    assert [name for name in runs if golden(name).read_text().count("\n") > 1] == ["dense bp", "dense fa", "dense usf"]
    assert {name: json.loads(golden(name).read_text())["config"] for name in runs} == {n: r["config"] for n, r in kept.items()}


@pytest.mark.parametrize("rule", RULES)
def test_two_runs_are_equal_to_the_last_bit(rule, images):
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # the global generator has no say
        trainer = Trainer(config(rule, dropout=0.0), images)
        runs.append(([trainer.epoch() for _ in range(2)], trainer.net.state_dict(), trainer.probe.measure()))
    (ours, ours_state, ours_rows), (theirs, theirs_state, theirs_rows) = runs
    assert ours == theirs and repr(ours_rows) == repr(theirs_rows)
    assert all(torch.equal(tensor, theirs_state[name]) for name, tensor in ours_state.items())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_where_it_is_known_to(rule, images):
    """One wide hidden layer and plain gradient steps, as in Lillicrap et al. 2016."""
    rules = {"hidden": (200,), "rules": ("bp", rule), "activation": "tanh", "optimizer": "sgd", "lr": 0.02, "batch": 20}
    found = losses(config(**rules, weight_decay=1e-3 if rule == "kp" else 0.0), images, 15)
    assert found[-1] < 0.7 * found[0]


def test_seeds_differ_and_rules_share_the_data_order(images):
    assert losses(config(seed=0), images, 1) != losses(config(seed=1), images, 1)
    orders = [Trainer(config(rule), images).order.get_state() for rule in RULES]
    assert all(torch.equal(order, orders[0]) for order in orders)
    # the first loss is before any step: one W0, one batch, for every rule
    first = {losses(config(rule, batch=120), images, 1)[0] for rule in RULES}
    assert len(first) == 1


# train(): the public way


def test_history_of_a_run():
    rows = []
    run = Config(hidden=HIDDEN, rules=("bp", "usf", "bp"), subset=1000, batch=100, epochs=2)
    history = train(run, on_epoch=rows.append)
    assert isinstance(history, History) and history.config is run and history.epochs == rows
    assert [row["epoch"] for row in rows] == [0, 1, 2] and not history.diverged
    expected = {"epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds", *MEASURES}
    assert all(set(row) == expected for row in rows)
    assert math.isnan(rows[0]["train_loss"]) and math.isnan(rows[0]["train_accuracy"])
    assert rows[2]["train_loss"] < rows[1]["train_loss"]
    assert rows[0]["test_accuracy"] < rows[2]["test_accuracy"] < 1
    assert all(len(row[name]) == 3 for row in rows for name in MEASURES)
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert history.data_fingerprint == data.load("fashion_mnist").fingerprint
    again = train(run)
    for ours, theirs in zip(rows, again.epochs, strict=True):
        assert repr({**ours, "seconds": 0}) == repr({**theirs, "seconds": 0})


def test_a_run_that_diverges_ends_as_a_result():
    run = Config(hidden=HIDDEN, rules=("bp", "fa", "fa"), subset=1000, batch=250, epochs=5, optimizer="sgd", lr=1e30)
    history = train(run)
    assert history.diverged and [row["epoch"] for row in history.epochs] == [0, 1]
    assert not math.isfinite(history.epochs[-1]["train_loss"])
    assert history.epochs[-1]["test_accuracy"] == pytest.approx(1 / 10)
    assert set(history.epochs[-1]) == set(history.epochs[0])


@pytest.mark.parametrize("options", [{"l2": 1e5, "lr": 1e36}, {"lr": 1e20}, {"lr": 1e30}], ids=["weights", "logits", "more"])
def test_a_run_that_overflows_in_its_very_last_step_has_diverged(options):
    fields = {"hidden": HIDDEN, "rules": ("bp", "fa", "fa"), "subset": 120, "validation": 20, "batch": 100, "optimizer": "sgd"}
    run = Config(**fields, **options)
    history = train(run)
    last_row = history.epochs[-1]
    assert history.diverged and last_row["epoch"] == 1 and math.isfinite(last_row["train_loss"])
    assert last_row["test_accuracy"] == last_row["validation_accuracy"] == pytest.approx(1 / 10)
    assert not train(replace(run, lr=0.1)).diverged


def test_a_loss_that_is_not_finite_ends_a_run_whatever_its_logits(images):
    (history,) = follow([Trainer(config(epochs=3), images)], lambda: [(math.nan, 0.5)])
    assert history.diverged and [row["epoch"] for row in history.epochs] == [0, 1]


def test_dropout_draws_from_the_seed_and_leaves_the_global_generator():
    run = Config(hidden=HIDDEN, rules=("bp", "fa", "fa"), subset=500, dropout=0.5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = train(run).epochs[1]["train_loss"]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert train(run).epochs[1]["train_loss"] == first
    assert train(replace(run, dropout=0.0)).epochs[1]["train_loss"] != first
    assert train(replace(run, dropout=0.0)).epochs[0]["test_accuracy"] == train(run).epochs[0]["test_accuracy"]


def test_runs_with_dropout_are_the_same_beside_each_other_as_one_after_the_other():
    base = Config(hidden=HIDDEN, rules=("bp", "fa", "brsf"), subset=2000, test_subset=100, batch=20, epochs=3, dropout=0.5)
    runs = [replace(base, seed=seed) for seed in (0, 1)]
    barrier = threading.Barrier(2, timeout=60)

    def rows(run, on_epoch=lambda row: None):
        torch.set_num_threads(1)
        return repr([{**row, "seconds": 0} for row in train(run, on_epoch=on_epoch).epochs])

    alone = [rows(run) for run in runs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda run: rows(run, lambda row: barrier.wait()), runs))
    assert together == alone and alone[0] != alone[1]


# One step by hand: the batch is the whole set, so its order does not matter.


def one(images, steps=1, **fields):
    """A trainer after its steps, with W, B and the gradient of W as they were before the last one."""
    trainer = Trainer(config(batch=120, **({"optimizer": "sgd", "lr": 0.5} | fields)), images)
    for _ in range(steps):
        before = [(layer.weight.detach().clone(), _copy(layer.feedback)) for layer in trainer.net.layers]
        net = trainer.net.train()
        loss = trainer.criterion(net(trainer.images(images.train_images)), images.train_labels)
        weights = [layer.weight for layer in net.layers]
        found = torch.autograd.grad(loss, [w for w in weights if w.requires_grad])
        trainer.epoch()
    gradients = iter(found)
    return trainer, before, [next(gradients) if w.requires_grad else None for w in weights]


def _copy(feedback):
    return None if feedback is None else feedback.detach().clone()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_sgd_step(rule, images):
    trainer, before, gradients = one(images, rule=rule, weight_decay=0.1 if rule == "kp" else 0.0)
    decay = trainer.config.weight_decay
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        close(layer.weight, w - 0.5 * (g + decay * w))
        store = RULES[layer.rule].store
        if store == "parameter":
            close(layer.feedback, b - 0.5 * (g + decay * b))
        elif store and RULES[layer.rule].between_steps is None:
            assert torch.equal(layer.feedback, b)
        elif store:
            assert not torch.equal(layer.feedback, b)


def test_nesterov_step(images):
    """Two steps, v <- 0.9 v + g, W <- W - lr (g + 0.9 v): B that shares the update moves alike."""
    trainer, before, gradients = one(images, steps=2, optimizer="nesterov", lr=0.05, rule="shared_update")
    trained = Trainer(config("shared_update", batch=120, optimizer="nesterov", lr=0.05), images)
    start = [(layer.weight.detach().clone(), _copy(layer.feedback)) for layer in trained.net.layers]
    for layer, (w0, b0), (w1, _), g2 in zip(trainer.net.layers, start, before, gradients, strict=True):
        g1 = (w0 - w1) / (0.05 * 1.9)
        close(layer.weight, w1 - 0.05 * (1.9 * g2 + 0.81 * g1))
        if b0 is not None:
            close(layer.feedback - b0, layer.weight - w0)
            assert layer.weight.grad.data_ptr() != layer.feedback.grad.data_ptr(), "CUDA's Nesterov adds to gradients in place"


def test_adam_step_and_its_decoupled_decay(images):
    trainer, before, gradients = one(images, optimizer="adam", lr=0.01, rule="kp", weight_decay=2.0)
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        step = 0.01 * g / (g.abs() + 1e-8)
        mask = g.abs() > 1e-5  # elsewhere fp32 decides the sign
        close(layer.weight[mask], (w * (1 - 0.01 * 2) - step)[mask])
        if b is not None:
            close(layer.feedback[mask], (b * (1 - 0.01 * 2) - step)[mask])


@pytest.mark.parametrize("rule", ["fa", "shared_update"])
def test_l2_adds_lambda_w_to_the_gradient_of_w_and_of_what_shares_it(rule, images):
    trainer, before, gradients = one(images, rule=rule, l2=0.3)
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        close(layer.weight, w - 0.5 * (g + 0.3 * w))
        if b is not None:
            close(layer.feedback, b - 0.5 * (g + 0.3 * w) if rule == "shared_update" else b)


@pytest.mark.parametrize("rule", ["fa", "shared_update"])
@pytest.mark.parametrize("pretrained", [0, 1])
def test_l2_of_an_untied_net_is_of_its_untied_weights(rule, pretrained, images):
    """As in section 7 of the original; those of a fixed first layer, which is tied, do not move at all."""
    options = {"frozen": (0,), "pretrained": pretrained} if pretrained else {}
    trainer, before, gradients = one(images, net="poggio_untied", rule=rule, l2=0.3, lr=0.1, **options)
    for index, (layer, (w, b), g) in enumerate(zip(trainer.net.layers, before, gradients, strict=True)):
        if index == 0 and pretrained:
            assert g is None and torch.equal(layer.weight, w)
            continue
        penalty = 0.3 * w if index < 3 else 0
        close(layer.weight, w - 0.1 * (g + penalty))
        if b is not None:
            close(layer.feedback, b - 0.1 * (g + penalty) if rule == "shared_update" else b)


@pytest.mark.parametrize("rule", ["fa", "shared_update"])
def test_gradients_are_clipped_by_value(rule, images):
    bound = 1e-3
    trainer, before, gradients = one(images, rule=rule, clip_value=bound)
    assert any((g.abs() > bound).any() for g in gradients)
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        close(layer.weight, w - 0.5 * g.clamp(-bound, bound))
        if rule == "shared_update" and b is not None:
            close(layer.feedback, b - 0.5 * g.clamp(-bound, bound))


@pytest.mark.parametrize("rule", ["fa", "shared_update"])
def test_gradients_are_clipped_by_the_norm_over_all_weights(rule, images):
    bound = 1e-2
    trainer, before, gradients = one(images, rule=rule, clip_norm=bound)
    norm = math.sqrt(sum(g.pow(2).sum().item() for g in gradients))  # of W alone: a learned B does not count
    assert norm > bound
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        close(layer.weight, w - 0.5 * g * bound / norm)
        if rule == "shared_update" and b is not None:
            close(layer.feedback, b - 0.5 * g * bound / norm)
    loose, before, gradients = one(images, rule=rule, clip_norm=1e3)
    close(loose.net.layers[0].weight, before[0][0] - 0.5 * gradients[0])


@pytest.mark.parametrize("rule", ["fa", "shared_update", "frsf"])
@pytest.mark.parametrize("feedback", [False, True])
def test_weights_are_clipped_after_the_step_and_feedback_if_asked(rule, feedback, images):
    bound = 0.1
    trainer, before, gradients = one(images, rule=rule, clip_weight=bound, clip_feedback=feedback)
    for layer, (w, b), g in zip(trainer.net.layers, before, gradients, strict=True):
        close(layer.weight, (w - 0.5 * g).clamp(-bound, bound))
        if b is not None:
            moved = b - 0.5 * g if rule == "shared_update" else b
            assert moved.abs().max() > bound
            close(layer.feedback, moved.clamp(-bound, bound) if feedback else moved)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_frozen_layers_never_move(rule, frozen, images):
    decay = {"weight_decay": 0.5 if rule == "kp" else 0.0}
    trainer = Trainer(config(rule, frozen=frozen, l2=0.1, clip_weight=0.1, **decay), images)
    start = [(layer.weight.detach().clone(), _copy(layer.feedback)) for layer in trainer.net.layers]
    trainer.epoch()
    for index, (layer, (w, b)) in enumerate(zip(trainer.net.layers, start, strict=True)):
        assert torch.equal(layer.weight, w) == (index in frozen)
        if b is not None and RULES[rule].store == "parameter":
            assert torch.equal(layer.feedback, b) == (index in frozen)
    assert len(trainer.probe.measure()["gradient_angle"]) == 3


@pytest.mark.parametrize("net, precision", [("dense", "fp32"), ("dense", "bf16"), ("poggio", "fp32")])
def test_a_last_layer_that_learns_alone_gives_what_it_gives_in_the_whole_net(net, precision, images):
    """Its input is computed once; here again at every step, in batches as large: a processor may round by their size."""
    run = config("bp", net, frozen=tuple(range(NAMES[net] - 1)), precision=precision, validation=30, batch=30)
    fast, slow = Trainer(run, images), Trainer(run, images)
    assert fast.learner is fast.net.steps[-1] and fast.trained_on.shape == (90, fast.net.layers[-1].weight.shape[1])
    slow.learner, slow.taken, slow.trained_on = slow.net, slow.images, slow.dataset.train_images
    _, slow.evaluated = _parts(images, run)
    for _ in range(3):
        assert fast.epoch() == slow.epoch() and fast.accuracies() == slow.accuracies()
        assert repr(fast.probe.measure()) == repr(slow.probe.measure())
    assert all(torch.equal(a, b) for a, b in zip(fast.net.parameters(), slow.net.parameters(), strict=True))


def test_a_last_layer_computes_what_it_is_given_anew_where_dropout_changes_it(images):
    for run in (config("bp", frozen=(0, 1), dropout=0.2), config("bp", frozen=(0,)), config("bp", hidden=(), rules=("bp",))):
        trainer = Trainer(run, images)
        assert trainer.learner is trainer.net


# What is held out, and what is tested


def state(trainer):
    return {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def spoiled(dataset, part, start, stop):
    """The data set with these images and labels turned into others."""
    found = {name: getattr(dataset, f"{part}_{name}").clone() for name in ("images", "labels")}
    found["images"][start:stop] = 255 - found["images"][start:stop]
    found["labels"][start:stop] = (found["labels"][start:stop] + 1) % dataset.classes
    return replace(dataset, **{f"{part}_{name}": tensor for name, tensor in found.items()})


def right(trainer, images, labels):
    with torch.no_grad():
        logits = trainer.net.eval()(trainer.images(images))
    return sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)) / len(labels)


@pytest.mark.parametrize("net", ["dense", "poggio"])
@pytest.mark.parametrize(("subset", "first", "end"), [(None, 90, 120), (100, 70, 100)])
def test_held_out_images_have_no_part_in_training(net, subset, first, end, images):
    kernels = {} if net == "dense" else {"pretrained": 1, "frozen": (0,)}
    run = config("shared_update", net, validation=30, subset=subset, batch=30, **kernels)

    def trained(dataset):
        _KERNELS.clear()
        trainer = Trainer(run, dataset)
        measured = [repr((trainer.epoch(), trainer.probe.measure())) for _ in range(2)]
        return trainer, measured

    trainer, measured = trained(images)
    for start, stop, same in ((first, 120, True), (first - 30, first - 29, False), (0, 1, False)):
        other, theirs = trained(spoiled(images, "train", start, stop))
        assert (theirs == measured) == same and equal(state(trainer), state(other)) == same
        held = other.evaluated["validation_accuracy"]
        assert torch.equal(held[0], spoiled(images, "train", start, stop).train_images[first:end])
        found = other.accuracies()
        assert list(found) == ["test_accuracy", "validation_accuracy"]
        assert found["validation_accuracy"] == right(other, *held)
        assert found["test_accuracy"] == right(other, images.test_images, images.test_labels)


def test_validation_accuracy_is_that_of_the_last_training_images(images):
    trainer = Trainer(config(validation=40, batch=40), images)
    for _ in range(20):
        trainer.epoch()
    found = trainer.accuracies()["validation_accuracy"]
    assert found == right(trainer, images.train_images[-40:], images.train_labels[-40:])
    with torch.no_grad():
        predicted = trainer.net(trainer.images(images.train_images)).argmax(1)
    for labels, expected in ((predicted, 1.0), ((predicted + 1) % 10, 0.0)):
        known = Trainer(trainer.config, replace(images, train_labels=labels))
        known.learner = trainer.learner
        assert known.accuracies()["validation_accuracy"] == expected
    assert 0 < found < 1


def test_held_out_images_leave_a_batch(images):
    assert len(Trainer(config(validation=60), images).dataset.train_labels) == 60
    for held in (61, 120, 500):
        with pytest.raises(ValueError, match=f"^validation must be at most 60, to leave a batch; got {held}$"):
            Trainer(config(validation=held), images)


@pytest.mark.parametrize("count", [1, 50, 120])
def test_the_first_images_of_the_test_set_are_tested_and_no_other(count, images):
    trainer = Trainer(config(test_subset=count), images)
    for _ in range(5):
        trainer.epoch()
    found = trainer.accuracies()
    assert found == {"test_accuracy": right(trainer, images.test_images[:count], images.test_labels[:count])}
    with torch.no_grad():
        predicted = trainer.net(trainer.images(images.test_images)).argmax(1)
    others = torch.where(torch.arange(120) < count, predicted, (predicted + 1) % 10)
    known = Trainer(trainer.config, replace(images, test_labels=others))
    known.learner = trainer.learner
    assert known.accuracies() == {"test_accuracy": 1.0}
    assert losses(trainer.config, images, 2) == losses(config(), images, 2)


def test_more_test_images_than_there_are_are_refused(images):
    with pytest.raises(ValueError, match="^test_subset must be at most 120, of .*'s images; got 121$"):
        Trainer(config(test_subset=121), images)


def test_validation_accuracy_is_stored_with_each_epoch(tmp_path):
    run = Config(hidden=HIDDEN, rules=("bp", "fa", "fa"), subset=700, validation=200, test_subset=300, batch=100, epochs=2)
    history = train(run)
    found = [row["validation_accuracy"] for row in history.epochs]
    assert len(set(found)) > 1 and all(0 < value < 1 for value in found)
    assert all(value * 200 == pytest.approx(round(value * 200)) for value in found)
    store = Store(tmp_path)
    store.save(Record(run, history.epochs, history.diverged, {}))
    again = store.load(run)
    assert again.config == run and repr(again.epochs) == repr(history.epochs)


# A first convolution that another net has learned


def pretrained(net="poggio", rule="fa", **fields):
    return config(rule, net, **({"frozen": (0,), "pretrained": 2, "activation": "tanh"} | fields))


@pytest.mark.parametrize("net", ["poggio", "poggio_untied"])
def test_a_pretrained_convolution_is_that_of_a_tied_net_and_never_moves(net, images):
    run = pretrained(net, seed=3, frozen=(3, 0), dropout=0.2)
    trainer, plain = Trainer(run, images), build(replace(run, pretrained=0), images.shape, 10)
    tied = Trainer(config("bp", "poggio", seed=3), images)
    start = tied.net.layers[0].weight.detach().clone()
    for _ in range(2):
        tied.epoch()
    first, *others = trainer.net.layers
    kernels = first.weight.detach().clone()
    assert type(first) is asym.Conv2d and not first.weight.requires_grad
    assert torch.equal(kernels, tied.net.layers[0].weight) and not torch.equal(kernels, start)
    assert [type(step).__name__ for step in trainer.net.steps if isinstance(step, torch.nn.ReLU | torch.nn.Tanh)] == [
        "ReLU", "Tanh", "Tanh", "Tanh",
    ]  # fmt: skip
    for layer, other in zip(others, plain.layers[1:], strict=True):
        assert torch.equal(layer.weight, other.weight) and torch.equal(layer.feedback, other.feedback)
    trainer.epoch()
    moved = [not torch.equal(layer.weight, other.weight) for layer, other in zip(others, plain.layers[1:], strict=True)]
    assert torch.equal(first.weight, kernels) and moved == [True, True, False, True]
    assert len(trainer.weights) == 3


def test_the_probe_of_a_pretrained_net_knows_its_relu(images):
    trainer = Trainer(pretrained(), images)
    with torch.no_grad():
        output = trainer.net.layers[0](trainer.probe.images)
    idle = trainer.probe.measure()["idle"]
    assert idle[0] == pytest.approx((output <= 0).all(0).double().mean().item()) and idle[0] > 0


@pytest.fixture
def trainings(monkeypatch):
    """The config of every epoch that is trained."""
    seen, real = [], Trainer.epoch

    def epoch(self):
        seen.append(self.config)
        return real(self)

    monkeypatch.setattr(Trainer, "epoch", epoch)
    return seen


def test_a_pretrained_convolution_is_learned_once_for_the_nets_of_a_seed(images, trainings):
    runs = [pretrained(), pretrained("poggio_untied"), pretrained(rule="dfa", dropout=0.5, epochs=3), pretrained(frozen=(0, 1))]
    runs += [
        pretrained(activation="relu"),
        pretrained(pooling="max", clip_norm=1.0),
        pretrained("poggio_untied", "kp", tied_start=True),
    ]
    trainers = [Trainer(run, images) for run in runs]
    assert trainings == [config("bp", "poggio", epochs=2)] * 2
    (kernels,) = _KERNELS.values()
    before = kernels.clone()
    for trainer in trainers:
        trainer.epoch()
        trainer.net.layers[0].weight.data.add_(1)
    assert torch.equal(kernels, before) and len(_KERNELS) == 1
    assert torch.equal(Trainer(runs[0], images).net.layers[0].weight, before)


def test_a_pretrained_convolution_is_another_wherever_its_training_would_be(images, trainings):
    given = [
        {}, {"seed": 1}, {"pretrained": 1}, {"lr": 1e-3}, {"batch": 40}, {"subset": 90}, {"validation": 20}, {"subset": 80},
        {"loss": "hinge"}, {"optimizer": "sgd"}, {"precision": "bf16"}, {"dataset": "mnist"},
    ]  # fmt: skip
    for fields in given:
        Trainer(pretrained(**fields), images)
    assert len(_KERNELS) == len(given) == len(set(trainings))
    other = replace(spoiled(images, "train", 0, 120), fingerprint="another copy")
    Trainer(pretrained(), other)
    assert len(_KERNELS) == len(given) + 1 and len(trainings) == 2 * len(given) + 1
    found = list(_KERNELS.values())
    differ = [not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i]]
    assert differ.count(False) == 1  # the same images by the name of another set


def test_a_run_is_the_same_whether_its_convolution_was_learned_before_or_not(images):
    run = pretrained("poggio_untied", "brsf", dropout=0.3)
    assert losses(run, images, 2) == losses(run, images, 2)


@pytest.mark.parametrize("net", NAMES)
def test_dropout_acts_in_training_alone(net, images):
    batch = 20 if net != "dense" else 60
    torch.manual_seed(0)
    trainer = Trainer(config(net=net, dropout=0.5, batch=batch), images)
    x = trainer.images(images.train_images[:5])
    trainer.net.train()
    assert not torch.equal(trainer.net(x), trainer.net(x))
    first = trainer.accuracies()["test_accuracy"]
    assert torch.equal(trainer.net(x), trainer.net(x)) and trainer.accuracies()["test_accuracy"] == first
    dense = Trainer(config(net=net, batch=batch), images)
    close(dense.net(x), trainer.net(x))


@pytest.mark.parametrize("optimizer", ["adam", "nesterov", "sgd"])
def test_a_learned_feedback_moves_as_if_it_had_a_gradient_of_its_own(optimizer, images, monkeypatch):
    """One gradient serves W and B; its moments are the same for both, and nothing differs in a bit from two of each."""
    run = config("shared_update", optimizer=optimizer, l2=0.01, clip_value=0.1)
    trainer, plain = Trainer(run, images), Trainer(run, images)
    step = plain.optimizer.step

    def with_two_gradients():
        for weight, feedback in plain.learned.items():
            feedback.grad = weight.grad.clone()
        step()

    monkeypatch.setattr(plain.optimizer, "step", with_two_gradients)
    for _ in range(2):
        trainer.epoch(), plain.epoch()
    assert len(trainer.learned) == 2
    for ours, theirs in zip(trainer.net.state_dict().values(), plain.net.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for weight, feedback in trainer.learned.items():
        of_weight, of_feedback = trainer.optimizer.state[weight], trainer.optimizer.state[feedback]
        assert all(torch.equal(of_weight[name], of_feedback[name]) for name in of_weight if of_weight[name] is not None)


def test_pooling_and_tied_start_reach_the_net(images):
    shape = images.shape
    names = {
        pooling: [type(s).__name__ for s in build(config(net="poggio", pooling=pooling), shape, 10).steps]
        for pooling in nets.POOLINGS
    }
    assert names["max"].count("MaxPool2d") == 3 and names["average"].count("AvgPool2d") == 2
    tied = build(config(net="poggio_untied", tied_start=True), shape, 10).layers[0]
    kernels = tied.as_kernels(tied.weight)
    assert torch.equal(kernels, kernels[:1, :1].expand_as(kernels))


def test_hinge_is_the_originals():
    logits, labels = 2 * reference.draw(7, 5), torch.arange(7) % 5
    assert hinge(logits, labels).item() == pytest.approx(reference.hinge(logits, labels), rel=1e-12)
    assert hinge(torch.zeros(3, 10), torch.arange(3)).item() == pytest.approx(2 / 10)
    perfect = torch.full((1, 4), -1.0)
    perfect[0, 2] = 1.0
    assert hinge(perfect, torch.tensor([2])).item() == 0
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hinge(x, labels), (logits,))


def test_the_loss_of_the_config_is_used(images):
    run = config(loss="hinge", batch=120)
    trainer = Trainer(run, images)
    logits = trainer.net(trainer.images(images.train_images))
    assert trainer.epoch()[0] == pytest.approx(reference.hinge(logits.detach(), images.train_labels), rel=1e-5)
    entropy = F.cross_entropy(logits, images.train_labels).item()
    assert losses(replace(run, loss="ce"), images, 1)[0] == pytest.approx(entropy, rel=1e-5)


def test_bf16_is_autocast_over_fp32_weights(images):
    trainer = Trainer(config(precision="bf16"), images)
    exact = losses(config(), images, 3)
    found = [trainer.epoch()[0] for _ in range(3)]
    assert found != exact and found == pytest.approx(exact, rel=0.03)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trainer.net.parameters())
    seen = []
    trainer.net.layers[1].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    trainer.accuracies()
    assert set(seen) == {torch.bfloat16}


def test_accuracy_is_the_fraction_got_right(images):
    trainer = Trainer(config(), images)
    with torch.no_grad():
        logits = trainer.net(trainer.images(images.test_images))
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, images.test_labels, strict=True))
    assert trainer.accuracies()["test_accuracy"] == right / len(images.test_labels)


def test_the_last_partial_batch_is_dropped(images, monkeypatch):
    sizes = []
    trainer = Trainer(config(batch=50), images)
    monkeypatch.setattr(trainer, "criterion", lambda logits, labels: sizes.append(len(labels)) or F.cross_entropy(logits, labels))
    trainer.epoch()
    assert sizes == [50, 50]


def test_the_probe_looks_at_the_first_batch_of_training_images(images):
    trainer = Trainer(config(subset=80, batch=60), images)
    assert torch.equal(trainer.probe.labels, images.train_labels[:60])
    assert torch.equal(trainer.probe.images, images.standardise(images.train_images[:60]))
    assert trainer.probe.criterion is trainer.criterion


@pytest.mark.parametrize(("net", "count"), [("dense", 110), ("poggio", 100), ("poggio_untied", 100)])
def test_the_probe_of_a_convolutional_net_has_a_hundred_images_at_most(net, count, images):
    for batch, expected in ((110, count), (7, 7)):
        looking = Trainer(config(net=net, batch=batch), images).probe
        assert torch.equal(looking.labels, images.train_labels[:expected])
        assert torch.equal(looking.images, images.standardise(images.train_images[:expected]))


# Bad data


def test_a_batch_larger_than_the_data_is_refused(images):
    with pytest.raises(ValueError, match="batch must be at most subset=50; got 60"):
        config(subset=50)
    with pytest.raises(ValueError, match="batch must be at most the 120 training images; got 500"):
        Trainer(config(batch=500), images)
    with pytest.raises(ValueError, match="subset must be at most 120, of .*'s images; got 500"):
        Trainer(config(subset=500), images)


@pytest.mark.parametrize("part", ["train_images", "test_images"])
def test_images_that_could_hide_a_nan_are_refused(part, images):
    floats = getattr(images, part).float().fill_(math.nan)
    with pytest.raises(ValueError, match=f"fashion_mnist: {part} must be uint8; got torch.float32"):
        Trainer(config(), replace(images, **{part: floats}))


@pytest.mark.parametrize(("field", "value"), [("mean", math.nan), ("std", math.nan), ("std", 0.0), ("mean", math.inf)])
def test_statistics_that_give_no_finite_image_are_refused(field, value, images):
    with pytest.raises(ValueError, match="fashion_mnist: mean must be finite and std > 0; got"):
        Trainer(config(), replace(images, **{field: torch.tensor([value])}))


def test_denormals_are_as_before_after_a_run():
    half = 0.5
    train(Config(subset=500, hidden=(8,), rules=("bp", "fa"), batch=500))
    assert sys.float_info.min * half > 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    os.environ["ASYM_GEMM"] = "stock"
    os.environ.pop("ASYM_DATA", None)
    write()
