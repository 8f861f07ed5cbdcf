"""A feed-forward network of steps, with the paths that direct feedback needs."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asym.checks import expect
from asym.layers import DirectFeedback, FeedbackLayer
from asym.rules import find


class Passage(NamedTuple):
    """A weight layer at work: what it received and what it made of it, before the nonlinearity."""

    layer: FeedbackLayer
    input: Tensor
    output: Tensor


class Network(nn.Module):
    """The steps in sequence; a layer with rule "dfa" gets no error through itself, its input is taught by the logits' error.

    The logits are the first output of shape (N, K) from the last step with parameters on: before a softmax that follows it, after
    the pooling of a net that ends in a convolution. steps: modules, called one after the other. example_input: a batch, by which
    each DirectFeedback learns its size. generator draws their B (None: torch's global one). ValueError for an example_input that
    is no tensor, and for a layer with rule "dfa" that lies inside a step, or in a net that gives no such logits.
    """

    def __init__(self, *steps: nn.Module, example_input: Tensor, generator: torch.Generator | None = None):
        super().__init__()
        expect("example_input", type(example_input).__name__, isinstance(example_input, Tensor), "a tensor")
        self.steps = nn.ModuleList(steps)
        self.direct = nn.ModuleDict()
        hidden = [name for name, module in self.steps.named_modules() if _direct(module) and "." in name]
        if hidden:
            raise ValueError(f"a layer with rule 'dfa' must be a step of the network; got it inside one, as {', '.join(hidden)}")
        self.logits_step, logits, sizes = self._trace(example_input)
        if sizes and logits is None:
            given = tuple(example_input.shape)
            raise ValueError(f"example_input must give logits (N, K) for rule 'dfa'; of shape {given} it gives none")
        for index, elements in sizes.items():
            direct = DirectFeedback(elements, logits.shape[1], logits.device, logits.dtype, generator=generator)
            self.direct[index] = direct

    @torch.no_grad()
    def _trace(self, x: Tensor) -> tuple[int | None, Tensor | None, dict[str, int]]:
        """The step that gives the logits, these, and how many elements an input has of each layer that is taught directly."""
        batch, found, sizes, trainable = x.shape[:1], (None, None), {}, False
        for index, step in enumerate(self.steps):
            if trainable and _direct(step):
                sizes[str(index)] = x.shape[1:].numel()
            x = copy.deepcopy(step).eval()(x)  # leaves batch statistics and random numbers alone
            if any(True for _ in step.parameters()):
                trainable, found = True, (None, None)
            if found[0] is None and isinstance(x, Tensor) and x.dim() == 2 and x.shape[:1] == batch:
                found = index, x
        return *found, sizes

    @property
    def layers(self) -> list[FeedbackLayer]:
        """The weight layers, from input to output."""
        return [step for step in self.steps if isinstance(step, FeedbackLayer)]

    def twin(self) -> "Network":
        """A net of the same steps and the very same weights (shared, not copied) that learns by backpropagation."""
        twin = copy.deepcopy(self, {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())})
        twin.direct = nn.ModuleDict()
        for layer in filter(lambda module: isinstance(module, FeedbackLayer), twin.modules()):  # those inside a step too
            layer.attach_feedback("bp")
        return twin

    def forward(self, x: Tensor, trace: list[Passage] | None = None) -> Tensor:
        """x (N, ...) -> the last step's output. A given trace list receives every weight layer's passage."""
        taught = []
        for index, step in enumerate(self.steps):
            wired = str(index) in self.direct and _direct(step)  # which may have been given another rule
            if wired:
                taught.append((self.direct[str(index)], x))
            y = step(x.detach() if wired else x)
            if trace is not None and isinstance(step, FeedbackLayer):
                trace.append(Passage(step, x, y))
                y = y.clone()  # what follows may work in place
            if index == self.logits_step:
                for direct, hidden in taught:
                    y = direct(y, hidden)
            x = y
        return x


def _direct(step: nn.Module) -> bool:
    return isinstance(step, FeedbackLayer) and find(step.rule).direct
