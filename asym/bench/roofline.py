"""What a training step must compute and move at the least: where it lies under the machine's roof."""

from copy import deepcopy

import torch
from torch.utils.flop_counter import FlopCounterMode

from asym.train import Trainer

WEIGHT = 4 * 10  # bytes a weight: W read, F read, dW written and read, W and Adam's two moments read and written
ACTIVATION = 4 * 4  # bytes an activation: written and read forward, and as much for its error


def operations(trainer: Trainer) -> int:
    """Floating-point operations of one step: y, dW, and dx but of the first layer."""
    images = trainer.dataset.standardise(trainer.dataset.train_images[:1]).double()
    with FlopCounterMode(display=False) as counter:  # in float64, for in fp32 oneDNN may do what is not counted
        deepcopy(trainer.net).double()(images).sum().backward()
    return counter.get_total_flops() * trainer.config.batch


def traffic(trainer: Trainer) -> int:
    """Bytes that one fp32 step moves through memory if everything is read and written as seldom as can be."""
    x, elements = trainer.dataset.standardise(trainer.dataset.train_images[:1]), 0
    with torch.no_grad():
        for step in trainer.net.steps:
            x = step(x)
            elements += x.numel()
    return WEIGHT * sum(weight.numel() for weight in trainer.weights) + ACTIVATION * elements * trainer.config.batch
