"""Do our numbers agree with those that others published? Nets as near to theirs as ours come, beside their figures."""

import csv
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from asym.cells import Cell, cell
from asym.claims import Claim
from asym.config import Config, last
from asym.quantities import accuracy, best_epoch, measure, overfit
from asym.questions.depth import KP_DECAY

ASKS = "Do our numbers agree with those that others published?"
ANSWER = ""  # the original does not ask
FIGURE = "fig-literature-beside"  # the page's main evidence
FIGURES = Path(__file__).parent.parent / "literature.csv"
# the deep net of Nokland 2016, and of the width and depth of the weight-mirror code's
WIDE, MIRROR = "3x1000 tanh", "1x1000 tanh"
RULES = {WIDE: (3, ("bp", "fa", "dfa")), MIRROR: (1, ("bp", "fa", "mirror", "shared_update", "kp"))}
NEAR = 5.0  # points: a margin set before any of these runs
BEST = "best error"  # what a source so marked prints is of its best epoch on the test data
EARLY = 10  # epochs: soon enough that the dense nets overfit less than half as much as at the end
# the delta angle that the weight-mirror code's runs end with; those that it calls KP have no decay, and so are shared updates
ANGLES = {"fa": 48.8, "mirror": 7.7, "shared_update": 1.7, "kp": math.nan}


def cells() -> Iterator[Cell]:
    for part, (layers, rules) in RULES.items():
        for rule in rules:
            options = {"rules": last(rule, layers, layers + 1), "weight_decay": KP_DECAY if rule == "kp" else 0.0}
            config = Config(dataset="cifar10", hidden=(1000,) * layers, activation="tanh", epochs=100, **options)
            yield Cell(part=part, network=rule, config=config)
    untied = ("untied_conv", "table 10")
    for network in ("PG-Untie", "PG-Untie-R4"):
        yield cell("locally connected", network, epochs=200, activation="tanh", of=untied)
    yield cell("locally connected", "PG0", epochs=300, activation="tanh", of=("conv_dense_head", "table 7"))
    for network in ("PG0", "PGR4"):
        yield cell("convolutional", network, epochs=300, of=("conv_dense_head", "table 6"))


@cache
def figures() -> list[dict[str, str]]:
    """The published accuracies, one row each, with the net of ours that comes nearest."""
    with FIGURES.open(newline="") as file:
        return list(csv.DictReader(file))


def claims() -> Iterator[Claim]:
    for row in figures():
        yield Claim(
            id=row["id"],
            sentence=f"Ours, {row['network']} of {row['part']}, beside {row['source']} ({row['their_net']}), ends here.",
            quantity=accuracy(row["part"], row["network"]),
            published=float(row["accuracy_percent"]),
        )
    by_id = {row["id"]: row for row in figures()}
    for row in figures():
        family, _, rule = row["id"].rpartition("-")
        control, net = by_id[f"{family}-bp"], row["their_net"].split(",")[0]
        if row is control:
            continue
        lost = float(row["accuracy_percent"]) - float(control["accuracy_percent"])
        ours = row["network"] if family == "mirror-code" else rule
        readings = [("lost", "accuracy", accuracy)]
        if BEST in row["their_net"]:
            readings.append(("best", "best accuracy of any epoch", best_epoch))
        for slug, words, read in readings:
            yield Claim(
                id=f"{row['id']}-{slug}",
                sentence=f"Beside backpropagation, {ours} changes the {words} as in {row['source']} ({net}), within "
                f"{NEAR:.0f} points.",
                quantity=read(row["part"], row["network"]) - read(control["part"], control["network"]),
                published=lost,
                least=lost - NEAR,
                most=lost + NEAR,
            )
        if row["part"] in RULES:
            early, bp = (accuracy(each["part"], each["network"], epoch=EARLY) for each in (row, control))
            yield Claim(
                id=f"{row['id']}-early",
                sentence=f"In {row['part']}, {row['network']} is after {EARLY} epochs this far from backpropagation.",
                quantity=early - bp,
            )
    for part, (layers, _) in RULES.items():
        for epoch, slug, when in ((None, "", "ends"), (EARLY, "-early", f"is after {EARLY} epochs")):
            yield Claim(
                id=f"literature-overfit-{layers}{slug}",
                sentence=f"In {part} with backpropagation, the training accuracy {when} this far above the test accuracy.",
                quantity=overfit(part, "bp", epoch=epoch),
            )
    for rule in RULES[WIDE][1]:
        yield Claim(
            id=f"literature-fit-{rule}",
            sentence=f"In {WIDE} with {rule}, the training accuracy changes by this much from epoch 50 to 100.",
            quantity=accuracy(WIDE, rule, epoch=100, column="train_accuracy")
            - accuracy(WIDE, rule, epoch=50, column="train_accuracy"),
        )
    for rule in RULES[WIDE][1][1:]:
        for epoch, slug, when in ((EARLY, "-early", f"is after {EARLY} epochs"), (None, "", "ends")):
            yield Claim(
                id=f"literature-gradient-{rule}{slug}",
                sentence=f"In {WIDE} with {rule}, the first layer's gradient {when} at this angle to backpropagation's.",
                quantity=measure("gradient_angle", WIDE, rule, 1, epoch=epoch),
            )
    yield Claim(
        id="literature-kp",
        sentence=f"In {MIRROR}, Kolen-Pollack feedback, which decays the weights, ends this far from undecayed backpropagation.",
        quantity=accuracy(MIRROR, "kp") - accuracy(MIRROR, "bp"),
    )
    for rule, angle in ANGLES.items():
        yield Claim(
            id=f"mirror-code-{rule}-angle",
            sentence=f"The error that {rule} sends back through the output layer ends at this angle to backpropagation's.",
            quantity=measure("delta_angle", MIRROR, rule, 2),
            published=angle,
        )
