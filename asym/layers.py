"""torch's layers with a feedback rule: `weight` carries the input forward, `feedback` carries the error back."""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asym import functional, shapes
from asym.checks import expect, expect_device, expect_generator, transforming
from asym.rules import find

MIRROR_RATE = 0.01  # B moves a hundredth of the way to W a step: a time constant of one CIFAR epoch at batch 500
MIRROR_SAMPLES = 128


def _check_options(bias, device, dtype, rule, generator) -> None:
    """What every layer takes beside its sizes."""
    expect("bias", bias, isinstance(bias, bool), "True or False")
    find(rule)
    _check_factory(device, dtype, generator)


def _check_factory(device, dtype, generator) -> None:
    expect("dtype", dtype, dtype is None or dtype in shapes.REAL, shapes.DTYPES)
    expect_device(device)
    expect_generator(generator)


def _check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode) -> None:
    """What torch.nn.Conv2d takes but does not look at before its first input, or refuses without the value."""
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        shapes.whole(name, value)
    divides = in_channels % groups == out_channels % groups == 0
    expect("groups", groups, divides, f"a divisor of the {in_channels} input and {out_channels} output channels")
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        shapes.pair(name, value)
    if not isinstance(padding, str):
        shapes.pair("padding", padding, 0)
    expect("padding_mode", padding_mode, isinstance(padding_mode, str), "a name")


def _uniform_(tensor: Tensor, bound: float, generator: torch.Generator | None) -> Tensor:
    """Fills the tensor from U(-bound, bound), drawn on the generator's device in torch's default dtype: one seed gives one B
    wherever the layer lives."""
    if generator is None:  # of the tensor's own kind: one that is spread over processes is drawn so
        drawn = torch.empty_like(tensor, dtype=torch.get_default_dtype(), memory_format=torch.contiguous_format)
    else:
        drawn = torch.empty(tensor.shape, device=generator.device)
    return tensor.copy_(drawn.uniform_(-bound, bound, generator=generator))


class FeedbackLayer(nn.Module):
    """What the layers share: where B lives, how it is drawn, and which tensor the backward uses.

    A subclass has `weight`, `fans` (fan-in, fan-out), `operate(x, weight, feedback, bias)`, and for the mirror rule
    `noise_shape`, that of one input with its padding, and `operate_padded(x, weight)` on such an input.
    """

    feedback: Tensor | None

    def attach_feedback(self, rule: str, generator: torch.Generator | None = None) -> None:
        """Gives the layer its rule, and a new B (drawn by the generator) where the rule has one: a parameter, which an optimiser
        must be given, where the rule moves it as the weight. Before DDP wraps the model, or each process keeps a B of its own.
        ValueError for what is none, and for a weight that is not of real floating point or has no element."""
        store = find(rule).store
        expect_generator(generator)
        shapes.floating(weight=self.weight)
        expect("weight", tuple(self.weight.shape), self.weight.numel() > 0, "of a shape that has elements")
        if hasattr(self, "feedback"):
            del self.feedback  # of another rule
        self._rule = rule
        feedback = None if store is None else torch.empty_like(self.weight, requires_grad=False)
        if store == "parameter":
            self.register_parameter("feedback", nn.Parameter(feedback))
        else:
            self.register_buffer("feedback", feedback)
        self.reset_feedback(generator)

    @property
    def rule(self) -> str:
        """The feedback rule's key; `attach_feedback` gives the layer another."""
        return self._rule

    @rule.setter
    def rule(self, value: str) -> None:
        raise AttributeError(f"rule cannot be set alone: attach_feedback({value!r}) also makes the B that it needs")

    @property
    def scale(self) -> float:
        """The standard deviation of Glorot and Bengio 2010, sqrt(2 / (fan-in + fan-out))."""
        return math.sqrt(2 / sum(self.fans))

    @torch.no_grad()
    def glorot_(self, tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fills a tensor of the weight's shape from U(-a, a), a = sqrt(6 / (fan-in + fan-out)), and returns it."""
        return _uniform_(tensor, self.scale * math.sqrt(3), generator)

    def reset_parameters(self) -> None:
        """Draws W and the bias as torch does, and B too, from torch's global generator."""
        self._reset_weight()
        if "_rule" in vars(self):  # after it was attached
            self.reset_feedback()

    def _reset_weight(self) -> None:
        super().reset_parameters()

    def reset_feedback(self, generator: torch.Generator | None = None) -> None:
        """Draws B anew from the Glorot-uniform distribution; nothing to do for a rule without B."""
        if self.feedback is not None:
            self.glorot_(self.feedback, generator)

    def feedback_path(self, weight: Tensor | None = None) -> Tensor | None:
        """The tensor F that the backward pass uses in W's place; None where the layer uses W itself. A learned B gets no gradient
        while its weight is frozen, so that both stand still, and one that is not learned never, whatever was put in its place.
        weight: the layer's, where it has been read already. ValueError where the rule's B is missing."""
        weight, rule = self.weight if weight is None else weight, find(self.rule)
        if rule.store is not None and self.feedback is None:
            expect("feedback", None, False, f"a tensor for rule {self.rule!r}")
        path = rule.path(weight, self.feedback, self.scale)
        if path is None:
            return None
        learned = weight.requires_grad or transforming()  # a vmapped weight does not say whether it requires a gradient
        if rule.store == "parameter" and learned:
            return path
        return path.detach().to(weight.dtype)  # FSDP may cast parameters, and no buffers

    @torch.no_grad()
    @torch.inference_mode(False)
    def mirror_feedback(self, generator: torch.Generator | None = None, rate: float = MIRROR_RATE) -> None:
        """One weight-mirror step, B <- (1 - rate) B + rate <noise, op(noise, W)> / count (Akrout et al. 2019).

        With unit normal noise the correlation's mean is W times the number of terms in it (count), so B settles around W.
        The noise fills the padding too: every tap of a kernel meets independent noise, whatever the padding.
        """
        device = self.weight.device if generator is None else generator.device
        noise = torch.randn(MIRROR_SAMPLES, *self.noise_shape, generator=generator, device=device).to(self.weight)
        correlation = self._correlate(noise, self.operate_padded(noise, self.weight))
        one = torch.ones_like(noise[:1])
        count = self._correlate(one, torch.ones_like(self.operate_padded(one, self.weight)))
        self.feedback.lerp_(correlation / (MIRROR_SAMPLES * count), rate)

    def _correlate(self, x: Tensor, e: Tensor) -> Tensor:
        """The weight gradient of <e, op(x, W)>: the sum over samples and positions of x times e."""
        with torch.enable_grad():
            weight = self.weight.detach().requires_grad_()
            return torch.autograd.grad(self.operate_padded(x, weight), weight, e)[0]

    def forward(self, input: Tensor) -> Tensor:
        if find(self.rule).direct:
            if input.requires_grad:
                warnings.warn(
                    "a layer with rule 'dfa' sends no error back: unless a Network wires it, nothing below it learns",
                    stacklevel=2,
                )
            input = input.detach()
        weight = self.weight  # once: a parametrized one is computed anew whenever it is read
        return self.operate(input, weight, self.feedback_path(weight), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rule={self.rule!r}"


class Linear(FeedbackLayer, nn.Linear):
    """y = x W' + b whose error returns as e F: torch.nn.Linear with a feedback rule (Lillicrap et al. 2016).

    weight and feedback (out, in). W starts as in torch, B is Glorot-uniform and drawn by `generator` (None: torch's global one).
    Rule "dfa" needs a Network, which wires it (asym.convert), "brsf" and "mirror" asym.between_steps. Input (..., in) ->
    (..., out). ValueError for an argument or an input that it cannot have, an unknown rule among them.
    """

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None, *, rule="bp", generator=None):
        shapes.whole("in_features", in_features)
        shapes.whole("out_features", out_features)
        _check_options(bias, device, dtype, rule, generator)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.attach_feedback(rule, generator)

    @property
    def fans(self) -> tuple[int, int]:
        return self.in_features, self.out_features

    def operate(self, x: Tensor, weight: Tensor, feedback: Tensor | None, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, feedback, bias)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.in_features,)

    def operate_padded(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight, None)


class Conv2d(FeedbackLayer, nn.Conv2d):
    """A convolution whose error returns through the transpose of F: torch.nn.Conv2d with a feedback rule.

    weight and feedback (out, in/groups, kh, kw). W starts as in torch, B is Glorot-uniform and drawn by `generator` (None:
    torch's global one). Rule "dfa" needs a Network, which wires it. Input (N, in, H, W) -> (N, out, H', W'). ValueError for an
    argument or an input that it cannot have, an unknown rule among them.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        *,
        rule="bp",
        generator=None,
    ):
        _check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        _check_options(bias, device, dtype, rule, generator)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.attach_feedback(rule, generator)

    @property
    def fans(self) -> tuple[int, int]:
        taps = math.prod(self.kernel_size)
        return self.in_channels // self.groups * taps, self.out_channels * taps

    def operate(self, x: Tensor, weight: Tensor, feedback: Tensor | None, bias: Tensor | None = None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            shapes.axes("input", x, (3, 4), "(N, in, H, W) or (in, H, W)", 3)
            shapes.paddable(self.padding_mode, self._reversed_padding_repeated_twice, x.shape[-2:])
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), (0, 0)
        return functional.conv2d(x, weight, feedback, bias, self.stride, padding, self.dilation, self.groups)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        size = [2 * d * (k - 1) + s for k, d, s in zip(self.kernel_size, self.dilation, self.stride, strict=True)]
        return self.in_channels, *size

    def operate_padded(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, None, None, self.stride, 0, self.dilation, self.groups)


class UntiedConv2d(FeedbackLayer):
    """A convolution with a kernel of its own at every output position (locally connected), with a feedback rule.

    Takes torch.nn.Conv2d's arguments and `input_size`, the input's (height, width). weight and feedback (P, in/groups * kh * kw,
    out), P = H' * W' output positions in row-major order; bias (out, H', W'). W and bias start as torch.nn.Conv2d's would, B is
    Glorot-uniform (fan-in in/groups * kh * kw, fan-out out * kh * kw), drawn by `generator` (None: torch's global one). Rule
    "dfa" needs a Network, which wires it.
    Input (N, in, H, W) -> (N, out, H', W'). ValueError for an argument that it cannot have (an unknown rule), and for an input of
    another size.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        input_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        device=None,
        dtype=None,
        *,
        rule="bp",
        generator=None,
    ):
        _check_convolution(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        _check_options(bias, device, dtype, rule, generator)
        super().__init__()
        # a kernel's shape, its padding and every check of them are those of the tied layer
        tied = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode=padding_mode,
            device="meta",
        )  # fmt: skip
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = tied.kernel_size, tied.stride, tied.dilation
        self.padding, self.padding_mode = padding, padding_mode
        self._pads = tied._reversed_padding_repeated_twice
        self.input_size = shapes.pair("input_size", input_size)
        shapes.paddable(padding_mode, self._pads, self.input_size)
        self.output_size = self._output_size()
        positions, taps = math.prod(self.output_size), in_channels // groups * math.prod(self.kernel_size)
        factory = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(positions, taps, out_channels, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, *self.output_size, **factory)) if bias else None
        self.reset_parameters()
        self.attach_feedback(rule, generator)

    @property
    def _padded_size(self) -> tuple[int, int]:
        left, right, top, bottom = self._pads
        return self.input_size[0] + top + bottom, self.input_size[1] + left + right

    def _output_size(self) -> tuple[int, int]:
        return tuple(shapes.windows(self._padded_size, self.kernel_size, self.stride, self.dilation))

    @property
    def fans(self) -> tuple[int, int]:
        return math.prod(self._kernel_shape[1:]), self.out_channels * math.prod(self.kernel_size)

    def _reset_weight(self) -> None:
        """From U(-a, a) with a = 1 / sqrt(fan-in), as torch.nn.Conv2d does."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def tie_(self, kernel: Tensor) -> None:
        """Copies one kernel (out, in/groups, kh, kw) to every position: the layer then equals a convolution.

        ValueError if the kernel has another shape.
        """
        expected = self._kernel_shape
        if tuple(kernel.shape) != expected:
            raise ValueError(f"kernel must have shape {expected}; got {tuple(kernel.shape)}")
        self.weight.copy_(kernel.reshape(self.out_channels, -1).t())

    def as_kernels(self, tensor: Tensor) -> Tensor:
        """Shows weight, feedback or one's gradient (P, in/groups * kh * kw, out) as (H', W', out, in/groups, kh, kw).

        ValueError if the tensor has another shape.
        """
        if tensor.shape != self.weight.shape:
            raise ValueError(f"tensor must have the weight's shape {tuple(self.weight.shape)}; got {tuple(tensor.shape)}")
        return tensor.transpose(1, 2).reshape(*self.output_size, *self._kernel_shape)

    @property
    def _kernel_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    def operate(self, x: Tensor, weight: Tensor, feedback: Tensor | None, bias: Tensor | None = None) -> Tensor:
        shapes.floating(input=x)
        if tuple(x.shape[-3:]) != (self.in_channels, *self.input_size):
            raise ValueError(
                f"input must end in (channels, height, width) = {(self.in_channels, *self.input_size)}; got {tuple(x.shape)}"
            )
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._pads, self.padding_mode), 0
        return functional.untied_conv2d(x, weight, feedback, bias, padding=padding, **self._geometry)

    def operate_padded(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.untied_conv2d(x, weight, None, **self._geometry)

    @property
    def _geometry(self) -> dict:
        return {"kernel_size": self.kernel_size, "stride": self.stride, "dilation": self.dilation, "groups": self.groups}

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.in_channels, *self._padded_size

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, input_size={self.input_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}{super().extra_repr()}"
        )


class DirectFeedback(nn.Module):
    """Joins a hidden output to the logits for direct feedback alignment: logits unchanged, hidden receives e B (Nokland 2016).

    feedback (outputs, hidden elements), fixed, Glorot-uniform, drawn by `generator` (None: torch's global one). ValueError for
    an argument or inputs that it cannot have.
    """

    def __init__(self, hidden_elements: int, outputs: int, device=None, dtype=None, *, generator=None):
        super().__init__()
        shapes.whole("hidden_elements", hidden_elements)
        shapes.whole("outputs", outputs)
        _check_factory(device, dtype, generator)
        self.register_buffer("feedback", torch.empty(outputs, hidden_elements, device=device, dtype=dtype))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws B anew."""
        _uniform_(self.feedback, math.sqrt(6 / sum(self.feedback.shape)), generator)

    def forward(self, logits: Tensor, hidden: Tensor) -> Tensor:
        shapes.floating(logits=logits)
        return functional.direct_feedback(logits, hidden, self.feedback.to(logits.dtype))


def between_steps(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Moves every B that its rule moves outside the backward pass (brsf redraws it, mirror trains it): call it after each
    optimiser step, or brsf is frsf and mirror is fa. The generator draws the new matrices and the noise; ValueError for what is
    no model or no generator."""
    expect("model", type(model).__name__, isinstance(model, nn.Module), "a torch.nn.Module")
    expect_generator(generator)
    for module in model.modules():
        if isinstance(module, FeedbackLayer):
            move = find(module.rule).between_steps
            if move is not None:
                move(module, generator)
