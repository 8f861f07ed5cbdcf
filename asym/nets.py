"""The networks of the experiments, without biases, weights and feedback Glorot-uniform."""

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asym.layers import Conv2d, FeedbackLayer, Linear, UntiedConv2d
from asym.network import Network


class HalfHardtanh(nn.Module):
    """clip(x / 2, -1, 1), the nonlinearity of Amit 2019."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x / 2, -1, 1)


class Dropout(nn.Module):
    """x * mask / (1 - p) in training, x otherwise; the masks are drawn from a seed of its own, whatever else runs meanwhile.

    How many were drawn is part of its state_dict."""

    def __init__(self, p: float, seed: int):
        super().__init__()
        self.p, self.seed, self.calls = p, seed, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.calls += 1
        generator = torch.Generator(x.device).manual_seed(self.seed + self.calls)
        return x * torch.empty_like(x).bernoulli_(1 - self.p, generator=generator) / (1 - self.p)

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state

    def extra_repr(self) -> str:
        return f"p={self.p}"


class AvgPool2d(nn.AvgPool2d):
    """torch.nn.AvgPool2d, its padding laid around the input beforehand on a GPU.

    The average is the same, since the padding counts; but CUDA's kernel sends the error of a padded channels_last input back one
    pixel too far down and right (https://github.com/pytorch/pytorch/issues/188344).
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type not in SHIFTED:
            return super().forward(input)
        return F.avg_pool2d(F.pad(input, (self.padding,) * 4), self.kernel_size, self.stride)


SHIFTED = ("cuda",)  # devices
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "half_hardtanh": HalfHardtanh}
POOLINGS = {"average": AvgPool2d, "max": nn.MaxPool2d}
POGGIO_CHANNELS = (32, 64, 64)
POGGIO_HIDDEN = 128


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for each purpose of a seed: what one draws never shifts what another draws."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _drawn(kind: type[FeedbackLayer], *arguments, rule: str, seed: int, index: int, **options) -> FeedbackLayer:
    """A layer without bias, its W and B drawn by seed and place in the net alone: every rule starts from the same W0."""
    generator = stream(seed, f"feedback {index}")
    with torch.random.fork_rng(devices=[]):  # torch draws a first weight too, which is not kept
        layer = kind(*arguments, bias=False, rule=rule, generator=generator, **options)
    layer.glorot_(layer.weight, stream(seed, f"weight {index}"))
    return layer


def dense(
    shape: Sequence[int],
    classes: int,
    rules: Sequence[str],
    *,
    hidden: Sequence[int] = (512, 256),
    activation: str = "relu",
    dropout: float = 0.0,
    seed: int = 0,
) -> Network:
    """A fully connected net of len(hidden) + 1 layers; rules gives one key a layer, from input to output.

    shape (C, H, W) of an image; input (N, C, H, W) -> logits (N, classes). ValueError unless there is a rule for each layer.
    """
    _one_rule_each(rules, len(hidden) + 1)
    steps: list[nn.Module] = [nn.Flatten()]
    width = torch.Size(shape).numel()
    for index, out in enumerate(hidden):
        layer = _drawn(Linear, width, out, rule=rules[index], seed=seed, index=index)
        steps += [layer, ACTIVATIONS[activation](), *_dropped(dropout, seed, index)]
        width = out
    steps.append(_drawn(Linear, width, classes, rule=rules[-1], seed=seed, index=len(hidden)))
    return Network(*steps, example_input=torch.zeros(1, *shape), generator=stream(seed, "direct"))


def poggio(
    shape: Sequence[int],
    classes: int,
    rules: Sequence[str],
    *,
    untied: bool = False,
    tied_start: bool = False,
    first: Tensor | None = None,
    activation: str = "relu",
    pooling: str = "average",
    dropout: float = 0.0,
    seed: int = 0,
) -> Network:
    """The conv net of Liao, Leibo and Poggio 2016 (5 weight layers), its convolutions tied or untied.

    5x5/32 - max pool - 5x5/64 - pool - 5x5/64 - pool - 128 - classes; pooling 3x3 stride 2 padding 1 (counted in averages), after
    the nonlinearity or, what is the same for a maximum, before it.
    tied_start copies the tied net's first kernels to every position of an untied layer. first (32, C, 5, 5): the first
    convolution's kernels, which make it a tied layer with relu, whatever the others are. dropout follows the convolutions, of an
    untied net those that are untied.
    shape (C, H, W); input (N, C, H, W) -> logits (N, classes). ValueError unless rules gives one key a layer, and for a first
    of another shape.
    """
    _one_rule_each(rules, len(POGGIO_CHANNELS) + 2)
    channels, *size = shape
    steps: list[nn.Module] = []
    for index, out in enumerate(POGGIO_CHANNELS):
        place = {"rule": rules[index], "seed": seed, "index": index}
        layer = _drawn(Conv2d, channels, out, 5, padding=2, **place)
        given = index == 0 and first is not None
        if given:
            _same_shape(first, layer.weight)
            layer.weight.data.copy_(first)
        elif untied:
            kernel = layer.weight
            layer = _drawn(UntiedConv2d, channels, out, 5, size, padding=2, **place)
            if tied_start:
                layer.tie_(kernel)
        kind = "max" if index == 0 else pooling
        after = [
            ACTIVATIONS["relu" if given else activation](),
            POOLINGS[kind](3, stride=2, padding=1),
        ]
        # a nonlinearity that never falls may follow the maximum, and then acts on a quarter of the numbers
        steps += [layer, *(after[::-1] if kind == "max" else after)]
        if not (untied and given):
            steps += _dropped(dropout, seed, index)
        channels, size = out, [(side - 1) // 2 + 1 for side in size]
    elements = channels * size[0] * size[1]
    hidden = _drawn(Linear, elements, POGGIO_HIDDEN, rule=rules[3], seed=seed, index=3)
    output = _drawn(Linear, POGGIO_HIDDEN, classes, rule=rules[4], seed=seed, index=4)
    steps += [nn.Flatten(), hidden, ACTIVATIONS[activation](), output]
    return Network(*steps, example_input=torch.zeros(1, *shape), generator=stream(seed, "direct"))


def _dropped(probability: float, seed: int, index: int) -> list[nn.Module]:
    return [Dropout(probability, stream(seed, f"dropout {index}").initial_seed())] if probability else []


def _one_rule_each(rules: Sequence[str], layers: int) -> None:
    if len(rules) != layers:
        raise ValueError(f"rules must give one rule for each of the net's {layers} layers; got {len(rules)}: {rules}")


def _same_shape(first: Tensor, weight: Tensor) -> None:
    if first.shape != weight.shape:
        raise ValueError(f"first must have shape {tuple(weight.shape)}; got {tuple(first.shape)}")
