"""Asymmetric operations: forward with the weight W, backward as if the weight were F.

Every operation here is bilinear in (x, W). The ordinary backward of op(x, F) therefore gives both quantities wanted: dx
through F, and the true dW, which does not depend on the weight's value. First-order only: a second derivative would
differentiate the asymmetric backward itself, and is refused.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from asym import gemm, shapes, untied
from asym.checks import transforming

Pair = tuple[int, int]


class _Once(Function):
    """A gradient whose own derivative is refused, under torch.func too (where torch's once_differentiable gives zeros)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient):
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, e):
        raise RuntimeError("trying to differentiate twice through a feedback path, which is no function's derivative")


def _once(backward: Callable) -> Callable:
    """A backward whose own derivative is refused; not where it is compiled, which is for one derivative alone."""

    @functools.wraps(backward)
    def refusing(ctx, *errors):
        gradients = backward(ctx, *errors)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return gradients
        return tuple(gradient if gradient is None else _Once.apply(gradient) for gradient in gradients)

    return refusing


def _shared(dw: Tensor | None, needs_weight: bool, needs_feedback: bool) -> tuple[Tensor | None, Tensor | None]:
    """dW for W and for a learned B: two tensors, so that what is done in place to one gradient leaves the other. A B whose W is
    not learned is not either: both stand still (inside torch.func's transforms that is known here alone)."""
    if not needs_weight:
        return None, None
    return dw, dw.clone() if needs_feedback else None


class _Linear(Function):
    """x (N, I)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, feedback):
        return gemm.linear(x, weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, feedback = inputs
        ctx.save_for_backward(x, feedback)

    @staticmethod
    @_once
    def backward(ctx, e):
        x, feedback = ctx.saved_tensors
        needs_x, needs_weight, needs_feedback = ctx.needs_input_grad
        dx = gemm.linear(e, feedback.t()) if needs_x else None
        dw = gemm.linear(e.t(), x.t()) if needs_weight else None
        return dx, *_shared(dw, needs_weight, needs_feedback)


class _Conv2d(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, feedback, stride, padding, dilation, groups):
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, feedback, *ctx.geometry = inputs
        ctx.save_for_backward(x, feedback)

    @staticmethod
    @_once
    def backward(ctx, e):
        x, feedback = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        needs_x, needs_weight, needs_feedback = ctx.needs_input_grad[:3]
        mask = [needs_x, needs_weight, False]
        dx, dw, _ = torch.ops.aten.convolution_backward(
            e, x, feedback, None, stride, padding, dilation, False, [0, 0], groups, mask
        )
        return dx, *_shared(dw, needs_weight, needs_feedback), None, None, None, None


def _untied_backward(ctx, e):
    x, feedback = ctx.saved_tensors
    needs_x, needs_weight, needs_feedback = ctx.needs_input_grad[:3]
    dx = untied.product("x", e, feedback, ctx.geometry) if needs_x else None
    dw = untied.product("w", x, e, ctx.geometry) if needs_weight else None
    return dx, *_shared(dw, needs_weight, needs_feedback), None


_untied_backward_once = _once(_untied_backward)


class _UntiedConv2d(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, feedback, geometry):
        return untied.product("y", x, weight, untied.Geometry(*geometry))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, feedback, geometry = inputs
        ctx.geometry, ctx.asymmetric = untied.Geometry(*geometry), feedback is not None
        ctx.save_for_backward(x, weight if feedback is None else feedback)

    @staticmethod
    def backward(ctx, e):
        return _untied_backward_once(ctx, e) if ctx.asymmetric else _untied_backward(ctx, e)


class _DirectFeedback(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits, hidden, feedback):
        return logits.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, hidden, feedback = inputs
        ctx.shape, ctx.channels_last = hidden.shape, hidden.dim() == 4 and hidden.stride(1) == 1
        ctx.save_for_backward(feedback)

    @staticmethod
    @_once
    def backward(ctx, e):
        (feedback,) = ctx.saved_tensors
        if not ctx.channels_last:
            return e, gemm.linear(e, feedback.t()).reshape(ctx.shape), None
        n, c, h, w = ctx.shape  # the error comes in hidden's own layout, or every step below would copy it
        feedback = feedback.reshape(-1, c, h, w).movedim(1, 3).flatten(1)
        return e, gemm.linear(e, feedback.t()).reshape(n, h, w, c).movedim(3, 1), None


def _match(weight: Tensor, feedback: Tensor) -> None:
    transforming()
    if feedback.shape != weight.shape:
        raise ValueError(f"feedback must have the weight's shape {tuple(weight.shape)}; got {tuple(feedback.shape)}")


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors as autocast would hand them to the stock operation."""
    device = tensors[0].device
    if not shapes.autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return tuple(t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors)


def _pads(padding: int | Pair | str, kernel: Pair, stride: Pair, dilation: Pair) -> list[int]:
    """Padding as torch.nn.functional.pad takes it: left, right, top, bottom."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        if tuple(stride) != (1, 1):
            raise ValueError(f"padding='same' needs stride 1; got stride {tuple(stride)}")
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    if isinstance(padding, str):
        raise ValueError(f"padding must be an int, a pair, 'same' or 'valid'; got {padding!r}")
    top, left = shapes.pair("padding", padding, 0)
    return [left, left, top, top]


def _grouped(x: Tensor, of_group: float, out: int, groups: int) -> None:
    """An input of as many channels as the weight's groups have, and groups that divide the output's; of_group: in/groups."""
    shapes.whole("groups", groups)
    shapes.axes("x", x, (3, 4), "(N, in, H, W) or (in, H, W)", 3)
    shapes.fits("x", x, (*x.shape[:-3], of_group * groups, *x.shape[-2:]), "(..., in, H, W)")
    if out % groups:
        raise ValueError(f"groups must divide the {out} output channels; got {groups}")


def linear(x: Tensor, weight: Tensor, feedback: Tensor | None, bias: Tensor | None = None) -> Tensor:
    """y = x W' + b, and dx = e F (Lillicrap et al. 2016): forward with the weight, backward through the feedback.

    x (..., I), weight and feedback (O, I), bias (O,) -> (..., O). feedback None is backpropagation. A feedback that requires
    a gradient gets the weight's, if there is one. ValueError unless they are real floating tensors that fit each other.
    """
    shapes.floating("feedback", "bias", x=x, weight=weight, feedback=feedback, bias=bias)
    shapes.axes("weight", weight, (2,), "(out, in)", 2)
    shapes.fits("x", x, (*x.shape[:-1], weight.shape[1]), "(..., in)")
    shapes.fits("bias", bias, weight.shape[:1], "(out,)")
    if feedback is None:
        return gemm.linear(x, weight, bias)
    _match(weight, feedback)
    x, weight, feedback = _autocast(x, weight, feedback)
    y = gemm.by_rows(_Linear.apply, x, weight, feedback)
    return y if bias is None else y + bias.to(y.dtype)


def conv2d(
    x: Tensor,
    weight: Tensor,
    feedback: Tensor | None,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """y = conv(x, W) + b, and dx = conv'(e, F): a convolution whose transpose uses the feedback.

    x (N, C, H, W), weight and feedback (O, C/groups, kh, kw), bias (O,) -> (N, O, H', W'). feedback None is backpropagation.
    ValueError unless they are real floating tensors that fit each other and the geometry, or if padding='same' meets a stride.
    """
    shapes.floating("feedback", "bias", x=x, weight=weight, feedback=feedback, bias=bias)
    shapes.axes("weight", weight, (4,), "(out, in/groups, height, width)", 4)
    stride, dilation = shapes.pair("stride", stride), shapes.pair("dilation", dilation)
    _grouped(x, weight.shape[1], weight.shape[0], groups)
    shapes.fits("bias", bias, weight.shape[:1], "(out,)")
    left, right, top, bottom = _pads(padding, weight.shape[2:], stride, dilation)
    shapes.windows((x.shape[-2] + top + bottom, x.shape[-1] + left + right), weight.shape[2:], stride, dilation)
    if (left, top) != (right, bottom):
        x, left, top = F.pad(x, (left, right, top, bottom)), 0, 0
    if feedback is None:
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    _match(weight, feedback)
    x, weight, feedback = _autocast(x, weight, feedback)
    unbatched = x.dim() == 3
    y = _Conv2d.apply(x[None] if unbatched else x, weight, feedback, stride, (top, left), dilation, groups)
    y = y[0] if unbatched else y
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def untied_conv2d(
    x: Tensor,
    weight: Tensor,
    feedback: Tensor | None,
    bias: Tensor | None = None,
    *,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """y[p] = patch_p(x) W[p] + b[p]: a convolution with a kernel of its own at every output position p (locally connected).

    x (N, C, H, W), weight and feedback (P, C/groups * kh * kw, O) with P = H' * W' in row-major order, bias (O, H', W')
    -> (N, O, H', W'). feedback None is backpropagation. ValueError unless they are real floating tensors that fit each other and
    the geometry.
    """
    shapes.floating("feedback", "bias", x=x, weight=weight, feedback=feedback, bias=bias)
    shapes.axes("weight", weight, (3,), "(positions, in/groups * kh * kw, out)", 3)
    if feedback is not None:
        _match(weight, feedback)
    kernel_size, stride = shapes.pair("kernel_size", kernel_size), shapes.pair("stride", stride)
    dilation, taps = shapes.pair("dilation", dilation), kernel_size[0] * kernel_size[1]
    _grouped(x, weight.shape[1] / taps, weight.shape[2], groups)
    x, weight, feedback = _autocast(x, weight, feedback)
    unbatched = x.dim() == 3
    x = x[None] if unbatched else x
    left, right, top, bottom = _pads(padding, kernel_size, stride, dilation)
    padded = x.shape[2] + top + bottom, x.shape[3] + left + right
    size = shapes.windows(padded, kernel_size, stride, dilation)
    shapes.fits("bias", bias, (weight.shape[2], *size), "(out, H', W')")
    if weight.shape[0] != size[0] * size[1]:
        raise ValueError(f"weight holds {weight.shape[0]} positions; an input of this size has {size[0]} x {size[1]}")
    geometry = *x.shape[1:], weight.shape[2], *size, *kernel_size, *stride, *dilation, top, left, groups
    transforming()
    y = _UntiedConv2d.apply(x, weight, feedback, geometry)
    y = y[0] if unbatched else y
    return y if bias is None else y + bias.to(y.dtype)


def direct_feedback(logits: Tensor, hidden: Tensor, feedback: Tensor) -> Tensor:
    """Returns the logits unchanged; in the backward pass hidden receives e B (Nokland 2016).

    logits (N, K), hidden (N, ...) with M elements a row, feedback (K, M). ValueError unless they are real floating tensors on one
    device whose shapes fit.
    """
    shapes.floating(logits=logits, hidden=hidden, feedback=feedback)
    shapes.axes("logits", logits, (2,), "(N, K)", 1)
    shapes.fits("hidden", hidden, (*logits.shape[:1], *hidden.shape[1:]), "(N, ...)")
    expected = (logits.shape[-1], hidden.shape[1:].numel())
    if tuple(feedback.shape) != expected:
        raise ValueError(
            f"feedback must have shape (logits, hidden elements) = {expected}, those of hidden {tuple(hidden.shape)}; got "
            f"{tuple(feedback.shape)}"
        )
    transforming()
    return _DirectFeedback.apply(logits, hidden.to(logits.dtype), feedback.to(logits.dtype))
