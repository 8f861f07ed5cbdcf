"""One training run: from a config to a history of its epochs."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asym import data, nets
from asym.checkpoint import Checkpoint
from asym.checks import expect
from asym.config import Config
from asym.layers import UntiedConv2d, between_steps
from asym.measures import Probe
from asym.network import Network
from asym.recorded import Recorded
from asym.rules import find

NESTEROV_MOMENTUM = 0.9
TEST_BATCH, GPU_TEST_BATCH = 1000, 2500
GENERATORS = ("order", "between")  # a trainer's
CONV_PROBE = 100  # images; the angles of a conv net on a whole batch cost as much as several steps


@dataclass
class History:
    """A run's outcome: one row an epoch (epoch 0 is the untrained net), whether it diverged, and the copy of the data it used.

    A row holds epoch, train_loss and train_accuracy (means over the epoch's batches, dropout on), test_accuracy, seconds since
    the start, validation_accuracy where images were held out, and for every measure of asym.measures a list of one value a
    layer. Accuracies are fractions. A run whose loss is no longer finite, or that ends an epoch with a logit that is not, has
    diverged: it ends there, and its last row's test and validation accuracy are those of a guess, 1 / classes.
    """

    config: Config
    epochs: list[dict[str, Any]] = field(default_factory=list)
    diverged: bool = False
    data_fingerprint: str = ""
    data_note: str = ""


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """The original's multi-class hinge: the mean over batch and classes of relu(1 - s) for the right class and
    relu(1 + s) / (C - 1) for each other. logits (N, C), labels (N,)."""
    right = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    wrong = F.relu(1 + logits) / (logits.shape[1] - 1)
    return torch.where(right, F.relu(1 - logits), wrong).mean()


CRITERIA = {"ce": F.cross_entropy, "hinge": hinge}


def build(config: Config, shape: tuple[int, int, int], classes: int, first: Tensor | None = None) -> Network:
    """The config's untrained net for images of shape (C, H, W), its frozen layers without gradient; first: see nets.poggio."""
    common = {"activation": config.activation, "dropout": config.dropout, "seed": config.seed}
    if config.net == "dense":
        net = nets.dense(shape, classes, config.rules, hidden=config.hidden, **common)
    else:
        untied = config.net == "poggio_untied"
        start = {"pooling": config.pooling, "tied_start": config.tied_start, "first": first}
        net = nets.poggio(shape, classes, config.rules, untied=untied, **start, **common)
    for index in config.frozen:
        for parameter in net.layers[index].parameters():
            parameter.requires_grad_(False)
    return net


class Trainer:
    """One run in progress: `epoch()` trains once through the data, `accuracies()` and `probe.measure()` look at the net.

    state: what `state()` of a trainer of the same config has given, from where this one goes on. checkpoint: where the training
    of a first convolution keeps what it has come to. ValueError for a data set that could hide a NaN (images that are not uint8,
    a mean or std that is not finite), or that is smaller than a batch.
    """

    def __init__(
        self,
        config: Config,
        dataset: data.Dataset,
        device: str = "cpu",
        state: dict[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        self.config, self.device = config, torch.device(device)
        _check(dataset)
        expect_images(config, dataset)
        self.dataset, self.evaluated = _parts(dataset, config)
        self.layout = torch.contiguous_format if config.net == "dense" else torch.channels_last
        first = None
        if config.pretrained:  # it is the net's first step, never moves, and so is in every state
            first = _pretrained(config, dataset, device, checkpoint) if state is None else state["net"]["steps.0.weight"]
        self.net = build(config, dataset.shape, dataset.classes, first).to(self.device, memory_format=self.layout)
        self.criterion = CRITERIA[config.loss]
        trained = [layer for layer in self.net.layers if layer.weight.requires_grad]
        self.weights = [layer.weight for layer in trained]
        untied = config.net == "poggio_untied"
        self.penalised = [layer.weight for layer in trained if isinstance(layer, UntiedConv2d) or not untied]  # by L2
        self.learned = {layer.weight: layer.feedback for layer in trained if find(layer.rule).store == "parameter"}
        self.optimizer = optimizer(config, [*self.weights, *self.learned.values()])
        for feedback in self.learned.values():
            feedback.requires_grad_(False)  # its gradient is its weight's: no second one is made
        self.recorded = Recorded(self.device, recordable=not config.dropout)  # each of its steps draws new masks
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # of an epoch's batches
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.order = nets.stream(config.seed, "order")
        self.between = nets.stream(config.seed, "between steps")
        probe = config.batch if config.net == "dense" else min(config.batch, CONV_PROBE)
        labels = self.dataset.train_labels[:probe]
        activations = [step for step in self.net.steps if isinstance(step, tuple(nets.ACTIVATIONS.values()))]
        images = self.images(self.dataset.train_images[:probe])
        self.probe = Probe(self.net, images, labels, self.criterion, activations)
        # what computes the logits, what it takes for images, and those that it is trained on
        self.learner, self.taken, self.trained_on = self.net, self.images, self.dataset.train_images
        if config.last_alone:
            self._learn_alone()
        if state is not None:
            self._restore(state)

    @torch.no_grad()
    def _learn_alone(self) -> None:
        """Computes once what the last layer is given."""
        *below, self.learner = self.net.steps
        below = nn.Sequential(*below)

        def given(images: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                return torch.cat([below(self.images(part)) for part in images.split(self.config.batch)])

        self.trained_on, self.taken = given(self.dataset.train_images), lambda features: features
        self.evaluated = {name: (given(images), labels) for name, (images, labels) in self.evaluated.items()}

    def state(self) -> dict[str, Any]:
        """All that epochs change."""
        generators = {name: getattr(self, name).get_state() for name in GENERATORS}
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), **generators}

    def _restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in GENERATORS:
            getattr(self, name).set_state(state[name])

    def epoch(self) -> tuple[float, float]:
        """One pass over the training set; the mean loss and the accuracy of its batches, each before its step."""
        self.net.train()
        self.loss_sum.zero_(), self.correct.zero_()
        n, batch = len(self.dataset.train_labels), self.config.batch
        for index in torch.stack([*data.batches(n, batch, self.order)]).to(self.device):
            self.recorded(self._step, index)
            between_steps(self.net, self.between)
        steps = n // batch
        return self.loss_sum.item() / steps, self.correct.item() / (steps * batch)

    def accuracies(self) -> dict[str, float]:
        """test_accuracy, and validation_accuracy where images were held out: the fraction that the net gets right."""
        return {name: self._accuracy(images, labels) for name, (images, labels) in self.evaluated.items()}

    @torch.no_grad()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The fraction of the images that the net gets right; NaN if a logit is not finite."""
        self.net.eval()
        correct = torch.zeros((), dtype=torch.float64, device=self.device)
        size = TEST_BATCH if self.device.type == "cpu" else GPU_TEST_BATCH
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            logits = self._logits(self.taken(x))
            right = (logits.argmax(1) == y).sum()
            correct += torch.where(logits.isfinite().all(), right, math.nan)
        return correct.item() / len(labels)

    def images(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) as the net takes them: standardised, in its layout."""
        return self.dataset.standardise(images).contiguous(memory_format=self.layout)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.learner(images).float()

    def _step(self, index: Tensor) -> None:
        """One step on the training images of the index."""
        labels = self.dataset.train_labels.index_select(0, index)
        logits = self._logits(self.taken(self.trained_on.index_select(0, index)))
        loss = self.criterion(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self._regulate()
        self.optimizer.step()
        self.clip_weights()
        self.loss_sum += loss.detach()
        self.correct += (logits.argmax(1) == labels).sum()

    @torch.no_grad()
    def _regulate(self) -> None:
        """L2 and clipping of the weights' gradients; a learned B then takes its weight's."""
        if self.config.l2:
            for weight in self.penalised:
                weight.grad.add_(weight, alpha=self.config.l2)
        if self.config.clip_value is not None:
            nn.utils.clip_grad_value_(self.weights, self.config.clip_value)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        for weight, feedback in self.learned.items():  # Adam only reads a gradient, momentum may write on it
            feedback.grad = weight.grad if self.config.optimizer == "adam" else weight.grad.clone()

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Brings the weights, and B where the config says so, back into their bounds."""
        bound = self.config.clip_weight
        if bound is None:
            return
        for weight in self.weights:
            weight.clamp_(-bound, bound)
        if self.config.clip_feedback:
            for layer in self.net.layers:
                if layer.feedback is not None:
                    layer.feedback.clamp_(-bound, bound)


def expect_images(config: Config, dataset: data.Dataset) -> None:
    """ValueError for a config that takes more images than the data set has."""
    for name, there in (("subset", dataset.train_labels), ("test_subset", dataset.test_labels)):
        asked = getattr(config, name)
        expect(name, asked, asked is None or asked <= len(there), f"at most {len(there)}, of {dataset.name}'s images")
    training = config.subset or len(dataset.train_labels)
    expect("batch", config.batch, config.batch <= training, f"at most the {training} training images")
    left = training - config.validation
    expect("validation", config.validation, config.batch <= left, f"at most {training - config.batch}, to leave a batch")


def _parts(dataset: data.Dataset, config: Config) -> tuple[data.Dataset, dict[str, tuple[Tensor, Tensor]]]:
    """What is trained on, and what is evaluated: the name of each accuracy with its images and labels."""
    dataset = dataset if config.subset is None else dataset.subset(config.subset)
    evaluated = {"test_accuracy": (dataset.test_images[: config.test_subset], dataset.test_labels[: config.test_subset])}
    if config.validation:
        rest = len(dataset.train_labels) - config.validation
        evaluated["validation_accuracy"] = (dataset.train_images[rest:], dataset.train_labels[rest:])
        dataset = dataset.subset(rest)
    return dataset, evaluated


_KERNELS: dict[tuple[str, str, str], Tensor] = {}  # a few thousand numbers each; the nets of a seed share one


def _pretrained(config: Config, dataset: data.Dataset, device: str, checkpoint: Checkpoint | None) -> Tensor:
    """The first convolution of a tied net trained by backpropagation with the config's data, loss, optimiser and seed.

    The checkpoint's state holds, by the tied nets' hashes, the epochs and the state of each.
    """
    kept = ("dataset", "subset", "validation", "unverified_data", "loss", "optimizer", "lr", "batch", "seed", "precision")
    options = {name: getattr(config, name) for name in kept}
    tied = Config(net="poggio", rules=("bp",) * config.layers, epochs=config.pretrained, **options)
    key = (tied.hash, dataset.fingerprint, str(device))
    if key not in _KERNELS:
        known = {} if checkpoint is None else checkpoint.state.setdefault("pretraining", {})
        done, state = known.get(tied.hash, (0, None))
        trainer = Trainer(tied, dataset, device, state)
        for number in range(done + 1, tied.epochs + 1):
            trainer.epoch()
            known[tied.hash] = number, trainer.state()
            if checkpoint is not None:
                checkpoint.keep(lambda: {"pretraining": known})
        _KERNELS[key] = trainer.net.layers[0].weight.detach().clone()
    return _KERNELS[key]


def _check(dataset: data.Dataset) -> None:
    for name in ("train_images", "test_images"):
        dtype = getattr(dataset, name).dtype
        if dtype != torch.uint8:
            raise ValueError(f"{dataset.name}: {name} must be uint8; got {dtype}")
    if not (dataset.mean.isfinite() & dataset.std.isfinite() & (dataset.std > 0)).all():
        raise ValueError(f"{dataset.name}: mean must be finite and std > 0; got {dataset.mean.tolist()}, {dataset.std.tolist()}")


def train(
    config: Config,
    *,
    device: str = "cpu",
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Trains the config's net and returns the history; on_epoch receives each row as it is made.

    Everything random is drawn from the seed, by streams of their own for W, B, the data order, dropout and moving feedback.
    Meanwhile this thread flushes denormal numbers to zero: they fill Adam's moments of dead units and slow a step by half.
    checkpoint: where the training keeps what it has come to, and from where it goes on if it was stopped there.
    Raises data.DataError where the data set is missing or damaged; ValueError for what is no Config.
    """
    expect("config", config, isinstance(config, Config), "an asym.Config")
    dataset = data.load(config.dataset, unverified=config.unverified_data, device=device)
    with flushed_denormals():
        (trainer,) = trainers((config,), dataset, device, checkpoint)
        return follow([trainer], lambda: [trainer.epoch()], on_epoch, checkpoint)[0]


def trainers(configs: Sequence[Config], dataset: data.Dataset, device: str, checkpoint: Checkpoint | None) -> list[Trainer]:
    """A trainer each, at the start or where the checkpoint has them."""
    states = [None] * len(configs)
    if checkpoint is not None:
        checkpoint.open(configs=[config.hash for config in configs], data=dataset.fingerprint)
        states = checkpoint.state.pop("trainers", states)
    return [Trainer(config, dataset, device, state, checkpoint) for config, state in zip(configs, states, strict=True)]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers become zero in this thread, until the block ends."""
    half = 0.5
    before = sys.float_info.min * half == 0  # torch sets the flag but does not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def follow(
    trainers: Sequence[Trainer],
    epoch: Callable[[], list[tuple[float, float]]],
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    checkpoint: Checkpoint | None = None,
) -> list[History]:
    """The histories of trainers that learn together; epoch() moves all of them and gives each one's loss and accuracy.

    One that diverges ends there, the others go on. The seconds of a row are a trainer's share of the time.
    """
    config = trainers[0].config
    histories = [History(t.config, data_fingerprint=t.dataset.fingerprint, data_note=t.dataset.note) for t in trainers]
    if checkpoint is not None:
        for history, (rows, diverged) in zip(histories, checkpoint.state.get("histories", ()), strict=False):
            history.epochs, history.diverged = list(rows), diverged
        checkpoint.state.clear()  # which would hold the weights of the start
    start = time.perf_counter() - (checkpoint.seconds if checkpoint else 0)
    for number in range(max(len(history.epochs) for history in histories), config.epochs + 1):
        learned = epoch() if number else [(math.nan, math.nan)] * len(trainers)
        for trainer, history, (loss, accuracy) in zip(trainers, histories, learned, strict=True):
            if history.diverged:
                continue
            accuracies = trainer.accuracies()
            finite = all(map(math.isfinite, accuracies.values()))
            history.diverged = not finite or (number > 0 and not math.isfinite(loss))
            if history.diverged:
                accuracies = dict.fromkeys(accuracies, 1 / trainer.dataset.classes)
            row = {"epoch": number, "train_loss": loss, "train_accuracy": accuracy, **accuracies, **trainer.probe.measure()}
            row["seconds"] = (time.perf_counter() - start) / len(trainers)
            history.epochs.append(row)
            on_epoch(row)
        if all(history.diverged for history in histories):
            break
        if checkpoint is not None and number < config.epochs:
            checkpoint.keep(lambda: _state(trainers, histories))
    return histories


def _state(trainers: Sequence[Trainer], histories: Sequence[History]) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {
        "trainers": [trainer.state() for trainer in trainers],
        "histories": [(history.epochs, history.diverged) for history in histories],
    }


def optimizer(config: Config, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        device = parameters[0].device.type
        options = {"fused": device in ("cpu", "cuda"), "capturable": device == "cuda"}  # the latter to be recorded
        return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, **options)
    nesterov = config.optimizer == "nesterov"
    momentum = NESTEROV_MOMENTUM if nesterov else 0
    return torch.optim.SGD(parameters, config.lr, momentum=momentum, nesterov=nesterov, weight_decay=config.weight_decay)
