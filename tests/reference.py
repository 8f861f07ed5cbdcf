"""Slow and obvious twins of what asym computes fast, and the layers that the tests run them on. Everything in float64."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import asym
from asym import nets
from asym.config import last

torch.set_num_threads(1)  # the tensors are tiny: a second thread on a busy machine makes some tests twenty times slower


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """y[n, o] = sum_i x[n, i] W[o, i]."""
    return torch.stack([torch.stack([(row * w).sum() for w in weight]) for row in x])


def conv2d(x: Tensor, weight: Tensor, **geometry) -> Tensor:
    """y[n, o, i, j] = sum of the kernel times the patch at (i, j)."""
    return _by_position(x, lambda i, j: weight, weight.shape[2:], **geometry)


def untied_conv2d(x: Tensor, kernels: Tensor, **geometry) -> Tensor:
    """The same with a kernel for each position: kernels (H', W', O, C/groups, kh, kw)."""
    return _by_position(x, lambda i, j: kernels[i, j], kernels.shape[4:], **geometry)


def _by_position(x, kernel_at, size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    left, right, top, bottom = pads(padding, size, dilation)
    x = F.pad(x, (left, right, top, bottom))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    rows = []
    for i in range(0, x.shape[2] - span[0] + 1, stride[0]):
        row = []
        for j in range(0, x.shape[3] - span[1] + 1, stride[1]):
            patch = x[:, :, i : i + span[0] : dilation[0], j : j + span[1] : dilation[1]]
            kernel = kernel_at(i // stride[0], j // stride[1])
            pairs = zip(patch.chunk(groups, 1), kernel.chunk(groups, 0), strict=True)
            row.append(torch.cat([torch.einsum("ncab,ocab->no", p, k) for p, k in pairs], 1))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def pads(padding, size, dilation) -> tuple[int, int, int, int]:
    """left, right, top, bottom; "same" puts the odd one to the right and below."""
    if padding == "same":
        height, width = (d * (k - 1) for d, k in zip(dilation, size, strict=True))
        return width // 2, width - width // 2, height // 2, height - height // 2
    return padding[1], padding[1], padding[0], padding[0]


def hinge(logits: Tensor, labels: Tensor) -> float:
    n, classes = logits.shape
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for k, s in enumerate(row):
            total += max(0.0, 1 - s) if k == label else max(0.0, 1 + s) / (classes - 1)
    return total / (n * classes)


def angle(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    cosine = (a * b).sum() / (a.pow(2).sum() * b.pow(2).sum()).sqrt()
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine.item()))))


def scale(layer: nn.Module) -> float:
    """Glorot's standard deviation, the fans counted by hand."""
    if isinstance(layer, asym.Linear):
        fans = layer.in_features + layer.out_features
    else:
        fans = (layer.in_channels // layer.groups + layer.out_channels) * math.prod(layer.kernel_size)
    return math.sqrt(2 / fans)


# What the backward uses in W's place; a new rule needs a line here. dfa sends nothing through the layer.
PATHS: dict[str, Callable[[Tensor, Tensor, float], Tensor | None]] = {
    "bp": lambda w, b, s: w,
    "fa": lambda w, b, s: b,
    "shared_update": lambda w, b, s: b,
    "kp": lambda w, b, s: b,
    "usf": lambda w, b, s: torch.where(w > 0, torch.full_like(w, s), torch.full_like(w, -s)),
    "frsf": lambda w, b, s: torch.where(w > 0, b.abs(), -b.abs()),
    "brsf": lambda w, b, s: torch.where(w > 0, b.abs(), -b.abs()),
    "dfa": lambda w, b, s: None,
    "mirror": lambda w, b, s: b,
}


def path(layer: nn.Module) -> Tensor | None:
    feedback = None if layer.feedback is None else layer.feedback.detach()
    return PATHS[layer.rule](layer.weight.detach(), feedback, scale(layer))


class Generic(torch.autograd.Function):
    """Any bilinear op(x, W): backward is op's own, by torch.func.vjp, at (x, F)."""

    @staticmethod
    def forward(ctx, op, x, weight, feedback):
        ctx.op = op
        ctx.save_for_backward(x, feedback)
        return op(x, weight)

    @staticmethod
    def backward(ctx, e):
        _, vjp = torch.func.vjp(ctx.op, *ctx.saved_tensors)
        return None, *vjp(e), None


# The two libraries of asym.gemm, the second where torch has it.
ONEDNN = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch has no oneDNN matrix product",
)
LIBRARIES = ["stock", pytest.param("onednn", marks=ONEDNN)]

# The layers under test: a kind with a geometry, each with an input that fits.
CONVOLUTIONS = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2)},
    "same": {"kernel_size": (3, 3), "padding": "same"},
    "same even": {"kernel_size": (2, 4), "padding": "same"},
    "dilation": {"dilation": (1, 2)},
    "groups": {"groups": 2},
    "all": {"stride": (2, 3), "padding": (2, 1), "dilation": (2, 1), "groups": 2},
}
KINDS = ["linear", *(f"{kind}, {name}" for kind in ("conv2d", "untied_conv2d") for name in CONVOLUTIONS)]
PLAIN = ("linear", "conv2d, padding", "untied_conv2d, padding")  # one of each, where the geometry is not the matter
IMAGE = (4, 5, 6)


def geometry(kind: str) -> dict:
    """A convolution's arguments but for its kernel size."""
    return {k: v for k, v in _arguments(kind).items() if k != "kernel_size"}


def _arguments(kind: str) -> dict:
    return CONVOLUTIONS[kind.split(", ")[1]] if ", " in kind else {}


def layer(kind: str, rule: str = "bp", *, bias: bool = False, dtype=torch.float64, seed: int = 0) -> nn.Module:
    """A small layer with weights of size 1 and a B of its own."""
    options = {"rule": rule, "bias": bias, "dtype": dtype, "generator": torch.Generator().manual_seed(seed)}
    if kind == "linear":
        new = asym.Linear(7, 5, **options)
    else:
        options |= {"kernel_size": (3, 2)} | _arguments(kind)
        tied = kind.startswith("conv2d")
        new = asym.Conv2d(4, 6, **options) if tied else asym.UntiedConv2d(4, 6, input_size=IMAGE[1:], **options)
    with torch.no_grad():
        for index, name in enumerate(("weight", "feedback", "bias")):
            tensor = getattr(new, name)
            if tensor is not None:
                tensor.copy_(draw(*tensor.shape, seed=10 * seed + index))
    return new


def images(kind: str, n: int = 3, dtype=torch.float64, seed: int = 100) -> Tensor:
    return draw(n, *((7,) if kind == "linear" else IMAGE), seed=seed).to(dtype)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def operation(kind: str, like: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The kind's loop, as a function of x and of a tensor stored as the layer stores its weight."""
    options = geometry(kind)
    if kind == "linear":
        return linear
    if kind.startswith("conv2d"):
        return lambda x, weight: conv2d(x, weight, **options)
    return lambda x, weight: untied_conv2d(x, like.as_kernels(weight), **options)


def gradients(op: Callable, x: Tensor, weight: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """op's own dx and dW for the output error e."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return torch.autograd.grad(op(x, weight), (x, weight), e)


def poggio_gradients(untied, pooling, dtype=torch.float64, layout=torch.contiguous_format, device="cpu"):
    """The gradient of every weight of a small conv net with random feedback in its head, on images and errors that are always the
    same."""
    net = nets.poggio((3, 16, 16), 10, last("fa", 2, 5), untied=untied, pooling=pooling).to(device, dtype)
    x, e = (draw(*shape, seed=seed).to(device, dtype) for seed, shape in enumerate([(6, 3, 16, 16), (6, 10)]))
    net.to(memory_format=layout)(x.contiguous(memory_format=layout)).backward(e)
    return [layer.weight.grad.cpu().double() for layer in net.layers]
