"""Can it ever beat backpropagation? Every cell of every table against its control; then the rules found since, each with its own
learning rate, chosen on held-out training images."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from asym.cells import Cell, cell, kind
from asym.claims import Claim, printed
from asym.config import Config, last
from asym.quantities import accuracy, chosen, stopped
from asym.questions import clipping, conv_dense_head, dense, depth, untied_conv, untied_feedback
from asym.questions.dense import LOSS_WORDS
from asym.questions.depth import KP_DECAY
from asym.rules import find

ASKS = "Can asymmetric backpropagation beat the original?"
ANSWER = "never"
FIGURE = "fig-beat-bp-forest"  # the page's main evidence
MODERN = {"modern, dense": "DD", "modern, conv": "PG"}
TRIED = ("bp", "fa", "shared_update", "kp", "usf", "frsf", "brsf", "dfa", "mirror")  # a rule of yours asks for no runs here
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
HELD_OUT = 5000
EPOCHS = 100


def cells() -> Iterator[Cell]:
    for module in (dense, depth, conv_dense_head, untied_conv, untied_feedback, clipping):
        for asked in module.cells():
            if asked.part.startswith("table"):
                yield replace(asked, of=asked.of or (module.__name__.rpartition(".")[2], asked.part))
    for part, net in MODERN.items():
        for rule in TRIED:
            decay = KP_DECAY if find(rule).needs_decay else 0.0
            for rate in RATES:
                options = {"lr": rate, "weight_decay": decay, "validation": HELD_OUT, "epochs": EPOCHS}
                yield cell(part, f"{net}R4", name=candidate(rule, rate), rules=last(rule, 4, 5), **options)


def candidate(rule: str, rate: float) -> str:
    return f"{rule}, lr {rate:g}"


def control_of(asked: Cell) -> str:
    """The name of a cell's control in its table: the net without random feedback."""
    prefix = kind(asked.network)
    plain = prefix if prefix == "PG-Untie" else f"{prefix}0"
    return f"{plain}-max" if asked.network.endswith("-max") else plain


def compared() -> Iterator[tuple[Cell, str, str]]:
    """Every cell with random feedback of every table, with the table and the name of its own control; a net that several tables
    show, in the first of them."""
    found: dict[Config, Cell] = {}
    for asked in cells():
        if asked.part.startswith("table") and re.search(r"R\d", asked.network):
            found.setdefault(asked.config, asked)
    for asked in found.values():
        elsewhere = {untied_conv.SECTION_7: "table 13"}
        yield asked, elsewhere.get(asked.part, asked.part), control_of(asked)


def _printed_in(part: str, activation: str) -> str:
    """The table in which the original prints the control of a part."""
    return conv_dense_head.TABLES[activation] if part == clipping.TABLE else untied_feedback.TABLES.get(part, part)


def claims() -> Iterator[Claim]:
    for asked, part, control in compared():
        config = asked.config
        on = {"loss": config.loss, "activation": config.activation, "optimizer": config.optimizer}
        theirs = printed(asked.part, asked.network, **on)
        epoch = config.epochs
        words = f"{LOSS_WORDS[config.loss]}, {config.activation} and {config.optimizer}"
        yield Claim(
            id="beat-" + "-".join([asked.part.split()[1], asked.network.replace(" ", "-"), *on.values()]),
            sentence=f"{words}, {asked.network} of {asked.part} does not beat its control {control} after {epoch} epochs.",
            quantity=accuracy(asked.part, asked.network, epoch=epoch, **on) - accuracy(part, control, epoch=epoch, **on),
            published=theirs - printed(_printed_in(part, config.activation), control, **on),
            most=0,
            answers=not math.isnan(theirs),  # the others are nets that the original does not print
        )
    for part in MODERN:
        trials = {rule: [candidate(rule, rate) for rate in RATES] for rule in TRIED}
        best = {rule: chosen(part, tried) for rule, tried in trials.items()}
        early = {rule: chosen(part, tried, stopped) for rule, tried in trials.items()}
        slug = part.removeprefix("modern, ")
        yield Claim(
            id=f"beat-modern-{slug}-bp", sentence="Backpropagation with its chosen learning rate ends here.", quantity=best["bp"]
        )
        for rule in TRIED:
            if rule != "bp":
                yield Claim(
                    id=f"beat-modern-{slug}-{rule}",
                    sentence=f"In the {slug} net, {rule} in every layer that sends an error back does not beat backpropagation, "
                    "each at its chosen learning rate.",
                    quantity=best[rule] - best["bp"],
                    most=0,
                    answers=False,  # its "never" is of its own nets
                )
                yield Claim(
                    id=f"beat-modern-{slug}-{rule}-stopped",
                    sentence=f"In the {slug} net, {rule} in every layer that sends an error back is this far from "
                    "backpropagation, each at the learning rate and the epoch that the held-out images choose.",
                    quantity=early[rule] - early["bp"],
                )
