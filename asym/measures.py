"""How well the feedback agrees with backpropagation, layer by layer, on a fixed probe batch. Angles are in degrees."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asym.checks import expect
from asym.layers import FeedbackLayer
from asym.network import Network, Passage
from asym.rules import find
from asym.shapes import floating

IDLE_SLOPE = 0.02  # a unit whose derivative stays below this on every probe image passes no error
MEASURES = (
    "weight_angle",
    "delta_angle",
    "gradient_angle",
    "feedback_ratio",
    "sign_agreement",
    "drift",
    "idle",
)
PIECE = 2**16  # elements, on a CPU
NAN = float("nan")


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle in degrees between two tensors taken as vectors; NaN where the norm of one is zero or not finite in float64.

    Through the chord of the unit vectors, 2 arcsin(norm(u - v) / 2): exact near 0, where arccos is not. ValueError for what is no
    tensor of real floating numbers (the feedback_path() of a layer under "bp" or "dfa" is None), for one without elements, and
    for two shapes: a B stored as (in, out) is not of W's.
    """
    for name, tensor in (("a", a), ("b", b)):
        floating(**{name: tensor})
        expect(name, tuple(tensor.shape), tensor.numel() > 0, "of a shape that has elements")
    expect("b", tuple(b.shape), b.shape == a.shape, f"of a's shape {tuple(a.shape)}")
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in (a, b)]
    piece = PIECE if a.device.type == "cpu" else max(1, a.numel())
    pieces = zip(*(t.flatten().split(piece) for t in (a, b)), strict=True)  # which fit in a processor's cache as float64
    squares = [(u / norms[0]).sub_(v / norms[1]).square_().sum() for u, v in ((u.double(), v.double()) for u, v in pieces)]
    chord = torch.stack(squares).sum().sqrt().clamp(max=2)
    chord = chord + sum(norm / norm - 1 for norm in norms)  # 0, or NaN
    return torch.rad2deg(2 * torch.asin(chord / 2))


class Probe:
    """Measures a net on one batch, against a backpropagation twin that holds the very same weights.

    images (N, C, H, W) standardised, labels (N,), criterion(logits, labels) -> loss, activations: the nonlinearity after each
    weight layer but the last. ValueError for another module, for one whose weights are no parameters (parametrized, pruned), or
    another number of activations.
    """

    def __init__(self, net: Network, images: Tensor, labels: Tensor, criterion: Callable, activations: Sequence[Callable]):
        expect("net", type(net).__name__, isinstance(net, Network), "an asym.network.Network")
        computed = [index + 1 for index, layer in enumerate(net.layers) if "weight" not in layer._parameters]
        given = f"computed ones in the layers {computed}"
        expect("net", given, not computed, "one whose weights are parameters, no parametrized or pruned ones")
        between = len(net.layers) - 1
        expect("activations", len(activations), len(activations) == between, f"one a layer but the last, {between}")
        self.net, self.twin = net, net.twin()
        self.images, self.labels, self.criterion, self.activations = images, labels, criterion, activations
        self.start = [_difference(layer) for layer in net.layers]

    def measure(self) -> dict[str, list[float]]:
        """Every measure of MEASURES, one value a layer; NaN where a layer has none (no feedback, frozen, no nonlinearity)."""
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval(), self.twin.eval()
        try:
            rows = [self._weights(layer, start) for layer, start in zip(self.net.layers, self.start, strict=True)]
            for row, angles in zip(rows, self._errors(), strict=True):
                row.update(angles)
        finally:
            for module, training in modes:
                module.training = training
        return {name: [float(row.get(name, NAN)) for row in rows] for name in MEASURES}

    @torch.no_grad()
    def _weights(self, layer: FeedbackLayer, start: Tensor | None) -> dict[str, Tensor | float]:
        """What W and F alone tell."""
        if layer.rule == "bp":
            return {"weight_angle": 0.0, "feedback_ratio": 1.0, "sign_agreement": 1.0}
        feedback = layer.feedback_path()
        if feedback is None:
            return {}
        told = {
            "weight_angle": angle(layer.weight, feedback),
            "feedback_ratio": feedback.norm() / layer.weight.norm(),
            "sign_agreement": (layer.weight.sign() == feedback.sign()).float().mean(),
        }
        if start is not None:  # a layer that had no B yet when the probe was made has no drift
            told["drift"] = (layer.weight - feedback - start).norm() / start.norm()
        return told

    def _errors(self) -> list[dict[str, Tensor | float]]:
        """What travels back: the angles of errors and weight gradients, and the units that stop it."""
        trace: list[Passage] = []
        loss = self.criterion(self.net(self.images, trace), self.labels)
        outputs = [passage.output for passage in trace]
        weights = [passage.layer.weight for passage in trace]
        found = _gradients(loss, outputs + weights)
        deltas, used = found[: len(trace)], found[len(trace) :]
        right = _gradients(self.criterion(self.twin(self.images), self.labels), weights)
        rows = []
        for index, passage in enumerate(trace):
            row = {}
            if used[index] is not None and right[index] is not None:
                row["gradient_angle"] = angle(used[index], right[index])
            if index and deltas[index] is not None and deltas[index - 1] is not None:
                row["delta_angle"] = _delta_angle(passage, deltas[index], trace[index - 1].output, deltas[index - 1])
            if index < len(trace) - 1:
                row["idle"] = self._idle(passage.output, self.activations[index])
            rows.append(row)
        return rows

    def _idle(self, output: Tensor, activation: Callable) -> Tensor:
        """The fraction of units whose derivative is below IDLE_SLOPE on every probe image."""
        output = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation(output).sum(), output)
        return (slope.abs() < IDLE_SLOPE).all(0).float().mean()


def _gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor | None]:
    """The loss's gradients; None for a tensor that has none."""
    wanted = [t for t in tensors if t.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in tensors]


def _delta_angle(passage: Passage, delta: Tensor, below: Tensor, sent: Tensor) -> Tensor | float:
    """Between the error that arrived at the output `below` and the one that this layer's own W would have sent there."""
    if passage.layer.rule == "bp":
        return 0.0
    x = passage.input.detach().requires_grad_()
    (through_weight,) = torch.autograd.grad(passage.layer.operate(x, passage.layer.weight, None), x, delta)
    (right,) = torch.autograd.grad(passage.input, below, through_weight, retain_graph=True)
    return angle(sent, right)


def _difference(layer: FeedbackLayer) -> Tensor | None:
    feedback = None if find(layer.rule).direct else layer.feedback_path()
    return None if feedback is None else (layer.weight - feedback).detach().clone()
