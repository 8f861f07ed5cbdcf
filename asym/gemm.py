"""Matrix products on the CPU through the faster of torch's two fp32 libraries, measured once on a machine."""

import hashlib
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from asym.atomic import whole
from asym.checks import constant, transforming

LIBRARIES = ("stock", "onednn")


@torch.library.custom_op("asym::onednn_linear", mutates_args=())
def onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W' through oneDNN: x (N, I), weight (O, I), both fp32 on the CPU -> (N, O)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@onednn_linear.register_fake
def _(x, weight):
    return x.new_empty(x.shape[0], weight.shape[0])


@onednn_linear.register_vmap
def _(info, in_dims, x, weight):
    x, weight = (t if dim is None else t.movedim(dim, 0) for t, dim in zip((x, weight), in_dims, strict=True))
    return x @ weight.transpose(-1, -2), 0


class _OnednnLinear(Function):
    """The derivative of `onednn_linear`: a Function of its own, since torch.func refuses the one a custom operation registers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight):
        return onednn_linear(x, weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, e):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        dx = _OnednnLinear.apply(e, weight.t()) if needs_x else None
        return dx, _OnednnLinear.apply(e.t(), x.t()) if needs_weight else None


def _training_step(linear, x: Tensor, weight: Tensor, e: Tensor) -> None:
    """The three products of one dense layer: y, dx, dW."""
    linear(x, weight)
    linear(e, weight.t())
    linear(e.t(), x.t())


def _seconds(linear, *tensors: Tensor) -> float:
    start = time.perf_counter()
    _training_step(linear, *tensors)
    return time.perf_counter() - start


def processor() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def apart(function: Callable[[], Any]) -> Any:
    """The function's value, in a thread of its own: whatever transform or mode the caller is under, the function is not."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


@cache
def _remembered(threads: int) -> str:
    """The library measured to be the faster by this processor and torch in so many threads, kept in the user's cache."""
    import platformdirs  # here, because a process that is told its library needs none of it

    facts = f"{processor()} {torch.__version__} {threads}"
    file = Path(platformdirs.user_cache_dir("asym")) / f"gemm-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.txt"
    try:
        known = file.read_text()
    except (OSError, ValueError):
        known = ""
    if known in LIBRARIES:
        return known
    found = apart(_measured)
    try:
        with whole(file) as part:
            part.write_text(found)
    except OSError:
        pass  # a cache that cannot be written costs a measurement a process
    return found


def _measured() -> str:
    """The faster library by a measurement of some 0.1 s: the best of interleaved repeats, since other work only ever slows one.

    oneDNN must win by a quarter, so that noise does not choose.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "stock"
    tensors = [torch.ones(*size, dtype=torch.float32, device="cpu") for size in ((500, 1024), (512, 1024), (500, 512))]
    times = [(_seconds(torch.nn.functional.linear, *tensors), _seconds(onednn_linear, *tensors)) for _ in range(12)]
    stock, onednn = (min(seconds) for seconds in zip(*times, strict=True))
    return "onednn" if onednn < 0.75 * stock else "stock"


@constant
def library() -> str:
    """The library that does a dense layer's products faster here: "stock" (what torch.mm uses) or "onednn".

    $ASYM_GEMM decides where it is set (ValueError for other names), else a measurement that the user's cache remembers.
    """
    chosen = os.environ.get("ASYM_GEMM") or _remembered(torch.get_num_threads())
    if chosen not in LIBRARIES:
        raise ValueError(f"$ASYM_GEMM must be one of {', '.join(LIBRARIES)}; got {chosen!r}")
    return chosen


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b for x (..., I) and weight (O, I), by the chosen library where it applies (fp32 on the CPU), else by torch."""
    applies = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if not applies or torch.is_autocast_enabled("cpu") or library() == "stock":
        return torch.nn.functional.linear(x, weight, bias)
    transforming()
    y = by_rows(_OnednnLinear.apply, x, weight)
    return y if bias is None else y + bias


def by_rows(product: Callable[..., Tensor], x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
    """A product of x (N, I) and weight (O, I) on x (..., I); of two axes as it is, since nothing in place could follow a view."""
    if x.dim() == 2:
        return product(x, weight, *others)
    rows, width = x.shape[:-1], x.shape[-1]
    return product(x.reshape(rows.numel(), width), weight, *others).reshape(*rows, weight.shape[0])
