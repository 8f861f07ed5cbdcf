"""Training: stored losses, and that every option of Config does what it says.

`python tests/test_train.py --write` stores the losses of today's code in tests/golden/; look at the difference before committing.
"""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
import torch.nn.functional as F

from asym import data, nets
from asym.config import Config, last
from asym.measures import MEASURES
from asym.rules import RULES
from asym.train import History, Trainer, build, hinge, train

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
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ASYM_DATA", raising=False)
        return fashion()


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    monkeypatch.delenv("ASYM_DATA", raising=False)


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


def write() -> None:
    for name, run in stored_runs().items():
        text = json.dumps({"config": run.to_dict(), "losses": losses(run, fashion(), steps(name))}, indent=1)
        (GOLDEN / f"{name.replace(' ', '-')}.json").write_text(text + "\n")


@pytest.mark.parametrize("name", stored_runs())
def test_losses_are_the_stored_ones(name, images):
    stored = json.loads((GOLDEN / f"{name.replace(' ', '-')}.json").read_text())
    run = stored_runs()[name]
    assert Config.from_dict(stored["config"]) == run, "the run has changed: python tests/test_train.py --write"
    assert losses(run, images, steps(name)) == pytest.approx(stored["losses"], rel=TOLERANCE)


def test_no_stored_losses_lie_about():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name.replace(" ", "-") for name in stored_runs()}


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


# One step by hand: the batch is the whole set, so its order does not matter.


def one(images, steps=1, **fields):
    """A trainer after its steps, with W, B and the gradient of W as they were before the last one."""
    trainer = Trainer(config(batch=120, **({"optimizer": "sgd", "lr": 0.5} | fields)), images)
    for _ in range(steps):
        before = [(layer.weight.detach().clone(), _copy(layer.feedback)) for layer in trainer.net.layers]
        net = trainer.net.train()
        loss = trainer.criterion(net(trainer._images(images.train_images)), images.train_labels)
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


@pytest.mark.parametrize("net", NAMES)
def test_dropout_acts_in_training_alone(net, images):
    batch = 20 if net != "dense" else 60
    torch.manual_seed(0)
    trainer = Trainer(config(net=net, dropout=0.5, batch=batch), images)
    x = trainer._images(images.train_images[:5])
    trainer.net.train()
    assert not torch.equal(trainer.net(x), trainer.net(x))
    first = trainer.accuracies()["test_accuracy"]
    assert torch.equal(trainer.net(x), trainer.net(x)) and trainer.accuracies()["test_accuracy"] == first
    dense = Trainer(config(net=net, batch=batch), images)
    close(dense.net(x), trainer.net(x))


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
    logits = trainer.net(trainer._images(images.train_images))
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
    trainer.accuracies()["test_accuracy"]
    assert set(seen) == {torch.bfloat16}


def test_accuracy_is_the_fraction_got_right(images):
    trainer = Trainer(config(), images)
    with torch.no_grad():
        logits = trainer.net(trainer._images(images.test_images))
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


# Bad data


def test_a_batch_larger_than_the_data_is_refused(images):
    with pytest.raises(ValueError, match="batch must be at most subset=50; got 60"):
        config(subset=50)
    with pytest.raises(ValueError, match="batch must be at most the 120 training images; got 500"):
        Trainer(config(batch=500), images)
    with pytest.raises(ValueError, match=r"subset must be in 1\.\.120, got 500"):
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
