"""A cell: one run of a table or of a figure. And the original's notation for networks, read once, here."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from asym.config import Config, last

NETS = {
    "DS": {"net": "dense", "hidden": (512, 256)},
    "DD": {"net": "dense", "hidden": (512, 512, 256, 256)},
    "PG": {"net": "poggio"},
    "PG-Untie": {"net": "poggio_untied"},
}
LAYERS = {"DS": 3, "DD": 5, "PG": 5, "PG-Untie": 5}
ALONE = "last layer alone"  # the part of the nets whose other layers stay as they are drawn


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table or one point of a figure: the network's printed name, and its run for one seed.

    plan: the config that the question asks for, where a preset's smaller one stands in its place; None: config is the plan.
    of: the question and the part that a preset scales and selects this cell by, where another question shows it too.
    """

    part: str
    network: str
    config: Config
    plan: Config | None = None
    of: tuple[str, str] | None = None


def kind(network: str) -> str:
    """Which of NETS a name in the original's notation begins with."""
    return re.match(r"PG-Untie|PG|DS|DD", network)[0]


def rules_of(network: str, layers: int, asymmetric: str = "fa") -> tuple[str, ...]:
    """The rules of a name in the original's notation: none for DS0, the last two layers' for DSR2, shared updates with -U.

    The count goes from the output backwards; the first layer sends nothing back, so that R5 of five layers is R4.
    """
    count = re.search(r"R(\d)", network)
    shared = re.search(r"-U\b", network)
    return last("shared_update" if shared else asymmetric, min(int(count[1]), layers - 1) if count else 0, layers)


def cell(
    part: str,
    network: str,
    *,
    name: str | None = None,
    asymmetric: str = "fa",
    of: tuple[str, str] | None = None,
    **options: Any,
) -> Cell:
    """The cell of a network in the original's notation on CIFAR-10; name: as printed, where that says more."""
    net = kind(network)
    options = {"dataset": "cifar10", "rules": rules_of(network, LAYERS[net], asymmetric)} | NETS[net] | options
    return Cell(part=part, network=name or network, config=Config(**options), of=of)


def table(part: str, networks: Sequence[str], losses: Sequence[str] = ("ce",), **options: Any) -> Iterator[Cell]:
    """A table of networks in the original's order: for each loss, every network."""
    for loss, network in product(losses, networks):
        yield cell(part, network, loss=loss, **options)


def alone(network: str, **options: Any) -> Cell:
    """What a net reaches if its last layer learns alone: only what lies above it is owed to an error sent back."""
    frozen = tuple(range(LAYERS[kind(network)] - 1))
    return cell(ALONE, network, name=f"{network}, {ALONE}", frozen=frozen, **options)


def with_shared(networks: Sequence[str]) -> list[str]:
    """The networks, then those with feedback again, its B sharing the weight's update."""
    return [*networks, *(f"{network}-U" for network in networks if re.search(r"R\d", network))]
