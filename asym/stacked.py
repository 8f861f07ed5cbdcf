"""Several seeds of one config trained in one program: for a GPU, which a single one of these nets leaves idle."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from asym import data
from asym.checkpoint import Checkpoint
from asym.config import Config
from asym.layers import between_steps
from asym.recorded import Recorded
from asym.train import History, Trainer, flushed_denormals, follow, optimizer, trainers


def stackable(config: Config) -> bool:
    """Whether seeds of the config can share a program: dropout draws its masks by generators that one program cannot have."""
    return not config.dropout


class Stack:
    """The trainers' nets as one: every weight and every B is a slice of a stacked tensor (S, ...), and one step moves all S.

    The trainers keep all that looks at a net. ValueError for trainers that differ by more than their seed, or that use dropout.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        first = trainers[0]
        if any(replace(trainer.config, seed=first.config.seed) != first.config for trainer in trainers):
            raise ValueError("configs must differ by their seed alone to be stacked")
        if not stackable(first.config):
            raise ValueError(f"dropout must be 0 for seeds to be stacked; got {first.config.dropout}")
        self.trainers, self.config, self.net = trainers, first.config, first.net
        states = [dict([*t.net.named_parameters(), *t.net.named_buffers()]) for t in trainers]
        self.tensors = {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}
        for index, state in enumerate(states):
            for name, tensor in state.items():
                tensor.data = self.tensors[name][index]
        named = {tensor: name for name, tensor in states[0].items()}
        self.weights = [named[weight] for weight in first.weights]
        self.penalised = {named[weight] for weight in first.penalised}
        self.learned = {named[weight]: named[feedback] for weight, feedback in first.learned.items()}
        moved = [*self.weights, *self.learned.values()]
        self.optimizer = optimizer(self.config, [self.tensors[name] for name in moved])
        if first.optimizer.state:  # of a stack that was stopped
            self.optimizer.load_state_dict(first.optimizer.state_dict())
        for trainer in trainers:
            trainer.optimizer = self.optimizer  # which moves them all
        self.gradients = vmap(grad(self._loss, has_aux=True))
        self.recorded = Recorded(first.device)
        self.loss_sums = torch.zeros(len(trainers), dtype=torch.float64, device=first.device)  # of an epoch's batches
        self.correct = torch.zeros(len(trainers), dtype=torch.int64, device=first.device)

    def _loss(self, weights: dict[str, Tensor], others: dict[str, Tensor], images: Tensor, labels: Tensor) -> Any:
        """One seed's loss; beside it the loss again, and how many answers are right."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = functional_call(self.net, weights | others, (images,)).float()
        loss = self.trainers[0].criterion(logits, labels)
        return loss, (loss.detach(), (logits.argmax(1) == labels).sum())

    def epoch(self) -> list[tuple[float, float]]:
        """One pass of every seed through the training set in its own order: what `Trainer.epoch` gives, a seed."""
        self.net.train()
        self.loss_sums.zero_(), self.correct.zero_()
        n, batch = len(self.trainers[0].dataset.train_labels), self.config.batch
        orders = [torch.stack([*data.batches(n, batch, trainer.order)]) for trainer in self.trainers]
        for index in torch.stack(orders, 1).to(self.trainers[0].device):  # S, N
            self.recorded(self._step, index)
            for trainer in self.trainers:
                between_steps(trainer.net, trainer.between)
        steps = n // batch
        return list(zip((self.loss_sums / steps).tolist(), (self.correct / (steps * batch)).tolist(), strict=True))

    def _step(self, index: Tensor) -> None:
        """One step of every seed on its training images, index (S, N)."""
        dataset = self.trainers[0].dataset
        labels = dataset.train_labels[index]
        images = self.trainers[0].images(dataset.train_images[index.flatten()]).unflatten(0, index.shape)
        weights = {name: self.tensors[name] for name in self.weights}
        others = {name: tensor for name, tensor in self.tensors.items() if name not in weights}
        gradients, (losses, right) = self.gradients(weights, others, images, labels)
        self._regulate(gradients)
        for name in self.weights:
            self.tensors[name].grad = gradients[name]
        for weight, feedback in self.learned.items():
            self.tensors[feedback].grad = gradients[weight].clone()
        self.optimizer.step()
        for trainer in self.trainers:
            trainer.clip_weights()
        self.loss_sums += losses
        self.correct += right

    def _regulate(self, gradients: dict[str, Tensor]) -> None:
        """As `Trainer` does it, the norm a seed."""
        config = self.config
        for name, gradient in gradients.items():
            if config.l2 and name in self.penalised:
                gradient.add_(self.tensors[name], alpha=config.l2)
            if config.clip_value is not None:
                gradient.clamp_(-config.clip_value, config.clip_value)
        if config.clip_norm is not None:
            norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()])
            scale = (config.clip_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1)
            for gradient in gradients.values():
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


def train(
    configs: Sequence[Config],
    *,
    device: str = "cpu",
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    checkpoint: Checkpoint | None = None,
) -> list[History]:
    """What `asym.train.train` gives for each config, but for rounding: they differ by their seed alone and are trained together.

    A history's seconds are the config's share of the time. ValueError for configs that cannot be stacked.
    """
    first = configs[0]
    dataset = data.load(first.dataset, unverified=first.unverified_data, device=device)
    with flushed_denormals():
        started = trainers(configs, dataset, device, checkpoint)
        return follow(started, Stack(started).epoch, on_epoch, checkpoint)
