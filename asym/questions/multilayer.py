"""How do several random-feedback layers behave together? Their number counted up, in a deep dense net and in the conv net."""

import math
from collections.abc import Iterator

from asym.cells import Cell, table, with_shared
from asym.claims import Claim, printed
from asym.quantities import LEVEL, accuracy, diverged, jumps, level, measure

ASKS = "How do several random-feedback layers behave together?"
ANSWER = "very unstable, most of all in conv nets"
FIGURE = "fig-multilayer-curves"  # the page's main evidence
COUNTS = range(5)
PARTS = {"dense": "DD", "conv": "PG", "conv, tanh": "PG"}
WORDS = {"dense": "the deep dense net", "conv": "the conv net with relu", "conv, tanh": "the conv net with tanh"}
TABLES = {"dense": "table 4", "conv": "table 6", "conv, tanh": "table 7"}  # the original's of these nets
RANDOM = {2: "two", 4: "four"}  # layers whose jumps are judged
POOR = 10.0  # points below backpropagation


def networks(part: str) -> list[str]:
    prefix = PARTS[part]
    return with_shared([f"{prefix}0", *(f"{prefix}R{count}" for count in COUNTS if count)])


def cells() -> Iterator[Cell]:
    yield from table("dense", networks("dense"), epochs=200, of=("depth", TABLES["dense"]))
    for part, activation in (("conv", "relu"), ("conv, tanh", "tanh")):
        yield from table(part, networks(part), epochs=300, activation=activation, of=("conv_dense_head", TABLES[part]))


def claims() -> Iterator[Claim]:
    jumping = {}
    for part, prefix in PARTS.items():
        slug, words = part.replace(", ", "-"), WORDS[part]
        minus = {name: accuracy(part, name) - accuracy(part, f"{prefix}0") for name in networks(part)}
        theirs = {name: printed(TABLES[part], name, loss="ce") for name in networks(part)}
        if part != "conv, tanh":
            yield Claim(
                id=f"multilayer-{slug}-poor",
                sentence=f"In {words}, random feedback in all four layers that send an error back loses more than "
                f"{POOR:.0f} points.",
                quantity=minus[f"{prefix}R4"],
                published=theirs[f"{prefix}R4"] - theirs[f"{prefix}0"],
                most=-POOR,
                answers=False,
            )
            yield Claim(
                id=f"multilayer-{slug}-more",
                sentence=f"In {words}, four random layers are worse than one.",
                quantity=accuracy(part, f"{prefix}R4") - accuracy(part, f"{prefix}R1"),
                published=theirs[f"{prefix}R4"] - theirs[f"{prefix}R1"],
                most=0,
                answers=False,
            )
            yield Claim(
                id=f"multilayer-{slug}-more-level",
                sentence=f"In {words}, averaged over the last {LEVEL} epochs, four random layers end this far from one.",
                quantity=level(part, f"{prefix}R4") - level(part, f"{prefix}R1"),
            )
        for count, number in RANDOM.items():
            network = f"{prefix}R{count}"
            jumping[part, count] = jumps(part, network) - jumps(part, f"{prefix}0")
            yield Claim(
                id=f"multilayer-{slug}-unstable-R{count}",
                sentence=f"In {words}, {number} random layers are less stable than backpropagation: over the last 20 epochs the "
                "test accuracy jumps more.",
                quantity=jumping[part, count],
                least=0,
                # of the original's own nets, and not of those with tanh: by its table 7 they learn as backpropagation does
                answers=part != "conv, tanh" and not math.isnan(theirs[network]),
            )
        for name in networks(part)[1:]:
            yield Claim(
                id=f"multilayer-{slug}-{name}",
                sentence=f"In {words}, {name} ends this far from {prefix}0.",
                quantity=minus[name],
                published=theirs[name] - theirs[f"{prefix}0"],
            )
            yield Claim(
                id=f"multilayer-{slug}-{name}-level",
                sentence=f"In {words}, averaged over the last {LEVEL} epochs, {name} ends this far from {prefix}0.",
                quantity=level(part, name) - level(part, f"{prefix}0"),
            )
            yield Claim(
                id=f"multilayer-{slug}-{name}-diverged",
                sentence=f"In {words}, so many of the runs of {name} diverge.",
                quantity=diverged(part, name),
            )
        four, one = (measure("gradient_angle", part, f"{prefix}R{count}", 1) for count in (4, 1))
        yield Claim(
            id=f"multilayer-{slug}-turned",
            sentence=f"In {words}, four random layers turn the first layer's gradient further from backpropagation's than one.",
            quantity=four - one,
            least=0,
            answers=False,
        )
        for name in networks(part)[1:]:
            yield Claim(
                id=f"multilayer-{slug}-{name}-gradient",
                sentence=f"In {words}, the first layer's gradient in {name} ends at this angle to backpropagation's.",
                quantity=measure("gradient_angle", part, name, 1),
            )
    for count, number in RANDOM.items():
        yield Claim(
            id=f"multilayer-conv-unstable-most-R{count}",
            sentence=f"{number.capitalize()} random layers make the conv net (relu) jump more from epoch to epoch than the deep "
            "dense net, each beside backpropagation.",
            quantity=jumping["conv", count] - jumping["dense", count],
            least=0,
            answers=count == 2,  # the most that the original's conv nets have
        )
    yield Claim(
        id="multilayer-conv-worse",
        sentence="Random feedback in all four layers costs the conv net (relu) more points than the deep dense net.",
        quantity=(accuracy("conv", "PGR4") - accuracy("conv", "PG0")) - (accuracy("dense", "DDR4") - accuracy("dense", "DD0")),
        most=0,
        answers=False,
    )
