"""The feedback rules. A rule says which matrix carries the error back and how that matrix moves; a new rule is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asym.checks import expect

STORES = (None, "buffer", "parameter")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the error e of a layer y = op(x, W) reaches the layer's input: dx = op^T(e, F), with F = path(W, B, scale).

    store: where B lives: None (the rule has no B), "buffer" (never optimised) or "parameter" (F is B, which gets W's gradient).
    path: the tensor F of W's shape that the backward uses; None stands for W itself, by the stock torch operation. W enters it
    detached, or what F is to W is added to the weight's gradient.
    between_steps: what moves B between two optimiser steps, if anything does.
    needs_decay: the rule is itself only under weight decay.
    direct: no error passes the layer; the output's error reaches its input through a `DirectFeedback` instead.
    ValueError for another store.
    """

    key: str
    equation: str
    source: str
    store: str | None = None
    path: Callable[[Tensor, Tensor | None, float], Tensor | None]
    between_steps: Callable[[nn.Module, torch.Generator | None], None] | None = None
    needs_decay: bool = False
    direct: bool = False

    def __post_init__(self):
        expect("store", self.store, self.store in STORES, "None, 'buffer' or 'parameter'")


def _weight(weight, feedback, scale):
    return None


def _feedback(weight, feedback, scale):
    return feedback


def _signs(weight, feedback, scale):
    return weight.detach().sign() * scale


def _signed_magnitudes(weight, feedback, scale):
    return feedback.abs() * weight.detach().sign()


def _redraw(layer, generator):
    layer.reset_feedback(generator)


def _mirror(layer, generator):
    layer.mirror_feedback(generator)


RULES = {
    rule.key: rule
    for rule in (
        Rule(key="bp", equation="F = W", source="Rumelhart, Hinton, Williams 1986", path=_weight),
        Rule(key="fa", equation="F = B, fixed", source="Lillicrap et al. 2016", store="buffer", path=_feedback),
        Rule(key="shared_update", equation="F = B, dB = dW", source="Amit 2019", store="parameter", path=_feedback),
        Rule(
            key="kp",
            equation="F = B, dB = dW, both decay",
            source="Kolen and Pollack 1994; Akrout et al. 2019",
            store="parameter",
            path=_feedback,
            needs_decay=True,
        ),
        Rule(key="usf", equation="F = s sign(W)", source="Liao, Leibo, Poggio 2016", path=_signs),
        Rule(
            key="frsf",
            equation="F = |B| sign(W), B fixed",
            source="Liao, Leibo, Poggio 2016",
            store="buffer",
            path=_signed_magnitudes,
        ),
        Rule(
            key="brsf",
            equation="F = |B| sign(W), B redrawn every step",
            source="Liao, Leibo, Poggio 2016",
            store="buffer",
            path=_signed_magnitudes,
            between_steps=_redraw,
        ),
        Rule(key="dfa", equation="dx = e_output B", source="Nokland 2016", path=_weight, direct=True),
        Rule(
            key="mirror",
            equation="F = B, B follows W by correlating noise with its image",
            source="Akrout et al. 2019",
            store="buffer",
            path=_feedback,
            between_steps=_mirror,
        ),
    )
}


def find(rule: str) -> Rule:
    """The table's entry for a rule's key; ValueError lists the keys."""
    expect("rule", rule, isinstance(rule, str) and rule in RULES, f"one of {', '.join(RULES)}")
    return RULES[rule]
