"""Quantities: numbers with one value a seed, read from stored runs, that say in words what they are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import Any, NamedTuple

import pandas as pd

from asym.cells import ALONE, Cell
from asym.frames import doubt, frame, layer_frame, named
from asym.results import Record
from asym.soundness import SPLIT_COLUMN

LEVEL = 20  # epochs at the end of a run, over which its level and its jumps are taken
SHARES = ("idle", "sign_agreement")  # measures that are fractions, given in %

Run = tuple[dict[str, Any], Record]  # its names, as figures and claims tell it from others


class Evidence:
    """The runs that a page or a check goes by; as tidy tables, `runs` one row an epoch, `layers` one row an epoch and layer."""

    def __init__(self, found: Iterable[tuple[Cell, Record]]):
        self.found = list(found)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return frame(self.found)

    @cached_property
    def layers(self) -> pd.DataFrame:
        return layer_frame(self.found)

    def of(self, part: str, network: str, fields: dict[str, str]) -> list[Run]:
        """The runs of one network of a part, those of the fields (loss, activation, optimizer)."""
        runs = self._by_network.get((part, network), [])
        return [(told, record) for told, record in runs if all(told[name] == value for name, value in fields.items())]

    @cached_property
    def _by_network(self) -> dict[tuple[str, str], list[Run]]:
        runs: dict[tuple[str, str], list[Run]] = {}
        for told, _, record in named(self.found):
            runs.setdefault((told["part"], told["network"]), []).append((told, record))
        return runs


class Horizon(NamedTuple):
    """The epoch that a quantity asks for, and the last at which the runs there are let it be read."""

    asked: int
    reached: int


class Value(NamedTuple):
    """A seed's number, whether its runs are whole (of the planned data, and trained to the epoch that is asked for), their data
    and the epochs at which they are read, in words, and by how much stand-ins among the test images can move it."""

    value: float
    whole: bool
    data: str
    epochs: str
    doubt: float = 0.0


Values = dict[int, Value]  # by seed


@dataclass(frozen=True)
class Quantity:
    """A number for each seed: `of(evidence)` gives the values, none where no run tells.

    text says what it is computed from; unit is "points" (of accuracy, in %), "%", "°", "runs" (of which so many do), or "" for a
    ratio. A difference is taken seed by seed, since nets of one seed share W0 and the order of the data, and at the last epoch
    that both sides reached; runs of different data have none.
    """

    text: str
    unit: str
    horizon: Callable[[Evidence], Horizon | None]
    at: Callable[[Evidence, int], Values]

    def of(self, evidence: Evidence) -> Values:
        horizon = self.horizon(evidence)
        return {} if horizon is None else self.at(evidence, horizon.reached)

    def __sub__(self, other: Quantity) -> Quantity:
        def horizon(evidence: Evidence) -> Horizon | None:
            a, b = self.horizon(evidence), other.horizon(evidence)
            if a is None or b is None:
                return None
            if a.asked == b.asked:
                return Horizon(a.asked, min(a.reached, b.reached))
            return (
                Horizon(max(a.asked, b.asked), max(a.asked, b.asked)) if a.asked == a.reached and b.asked == b.reached else None
            )

        def at(evidence: Evidence, epoch: int) -> Values:
            ours, theirs = (side.at(evidence, min(epoch, side.horizon(evidence).reached)) for side in (self, other))
            pairs = ((seed, a, theirs[seed]) for seed, a in ours.items() if seed in theirs)
            return {seed: _minus(a, b) for seed, a, b in pairs if a.data == b.data}

        subtracted = f"({other.text})" if " - " in other.text else other.text
        return Quantity(f"{self.text} - {subtracted}", self.unit, horizon, at)


def _minus(a: Value, b: Value) -> Value:
    epochs = a.epochs if a.epochs == b.epochs else f"{a.epochs} and {b.epochs}"
    return Value(a.value - b.value, a.whole and b.whole, a.data, epochs, a.doubt + b.doubt)


def accuracy(part: str, network: str, *, epoch: int | None = None, column: str = "test_accuracy", **fields: str) -> Quantity:
    """An accuracy in % at an epoch (None: the plan's last); fields: loss, activation, optimizer, where the part has several."""
    return _read(part, network, epoch, column, fields, 100, "points")


def alone(network: str, **fields: str) -> Quantity:
    """The accuracy of a net whose last layer learns alone (`cells.alone`)."""
    return accuracy(ALONE, f"{network}, {ALONE}", **fields)


def jumps(part: str, network: str, **fields: str) -> Quantity:
    """How much the test accuracy jumps from epoch to epoch at the end: its standard deviation over the last 20 epochs.

    A run that diverged before the last has none, and while there is such a seed the others are not whole: they are the survivors.
    """
    return _over_epochs(_deviation, f"standard deviation over {LEVEL} epochs", part, network, fields, LEVEL)


def level(part: str, network: str, *, epoch: int | None = None, **fields: str) -> Quantity:
    """Where the test accuracy is whatever it jumps by: its mean over 20 epochs, the last of them the one given (None: the
    plan's last)."""
    return _over_epochs(lambda rows: mean(_tests(rows)), f"mean over {LEVEL} epochs", part, network, fields, LEVEL, epoch)


def best_epoch(part: str, network: str, **fields: str) -> Quantity:
    """The largest test accuracy of any epoch up to the last: a choice by the test data, to set beside figures that others so
    chose."""
    return _over_epochs(lambda rows: max(_tests(rows)), "best epoch", part, network, fields)


def stopped(part: str, network: str, *, column: str = "test_accuracy", **fields: str) -> Quantity:
    """An accuracy in % of runs that hold images out, at the epoch with the best accuracy on these, the first of several."""
    read = lambda rows: max(rows, key=lambda row: row[SPLIT_COLUMN])[column]
    return _over_epochs(read, f"{column} at the epoch with the best {SPLIT_COLUMN}", part, network, fields)


def _tests(rows: list[dict[str, Any]]) -> list[float]:
    return [row["test_accuracy"] for row in rows]


def _deviation(rows: list[dict[str, Any]]) -> float:
    return stdev(_tests(rows))


def _over_epochs(
    statistic: Callable[[list[dict[str, Any]]], float],
    words: str,
    part: str,
    network: str,
    fields: dict[str, str],
    last: int | None = None,
    epoch: int | None = None,
) -> Quantity:
    """Of the rows of all epochs up to one (None: the plan's last), or of so many last ones; a run of fewer has none: most of it
    is the beginning. One that diverged counts from then on as it ended, but has no deviation."""
    end = accuracy(part, network, epoch=epoch, **fields)

    def at(evidence: Evidence, when: int) -> Values:
        values, first, found = end.at(evidence, when), max(1, when - last + 1) if last else 0, {}
        runs = evidence.of(part, network, fields)
        ended = {told["seed"] for told, record in runs if record.diverged and record.epochs[-1]["epoch"] < when}
        lost, moved = set(), 1.0
        if statistic is _deviation:
            lost = ended  # its deviation would be that of standing still
            moved = math.sqrt(last / (last - 1))  # by so much at most where every epoch's accuracy moves by 1
        for told, record in runs:
            seed, rows = told["seed"], [row for epoch in range(first, when + 1) if (row := record.at(epoch)) is not None]
            if seed in values.keys() - lost and len(rows) >= (last or 1):
                value, whole = values[seed], values[seed].whole and not lost
                found[seed] = value._replace(value=100 * statistic(rows), whole=whole, doubt=moved * value.doubt)
        return found

    return Quantity(f"{words} of {end.text}", "points", end.horizon, at)


def diverged(part: str, network: str, **fields: str) -> Quantity:
    """1 for a run whose loss stopped being finite, else 0."""
    return _read(part, network, None, "diverged", fields, 1, "runs")


def overfit(part: str, network: str, *, epoch: int | None = None, **fields: str) -> Quantity:
    """Training accuracy minus test accuracy, in points; the training accuracy is the mean over the epoch's batches."""
    of_training = accuracy(part, network, epoch=epoch, column="train_accuracy", **fields)
    return of_training - accuracy(part, network, epoch=epoch, **fields)


def measure(name: str, part: str, network: str, layer: int, *, epoch: int | None = None, **fields: str) -> Quantity:
    """A measure of asym.measures at a layer (counted from 1, input to output) and an epoch (None: the plan's last)."""
    scale, unit = (100, "%") if name in SHARES else (1, "°" if name.endswith("angle") else "")
    return _read(part, network, epoch, name, fields, scale, unit, layer)


def chosen(part: str, networks: Sequence[str], read: Callable[..., Quantity] = accuracy, **fields: str) -> Quantity:
    """The test accuracy (%) of the one network whose validation accuracy, the mean over its seeds, is best: both at the last
    epoch, or where else `read` (stopped) has them.

    A seed is whole where all of the networks have run it: before that the choice is not yet the one that is asked for.
    """
    trials = [read(part, network, **fields) for network in networks]
    scores = [read(part, network, column=SPLIT_COLUMN, **fields) for network in networks]

    text = f"test_accuracy({part}, that of [{'; '.join(networks)}] with the best {SPLIT_COLUMN}, last epoch)"
    text = text if read is accuracy else f"the epoch with the best {SPLIT_COLUMN} of {text}"

    def best(evidence: Evidence) -> tuple[Quantity, set[int]]:
        """The chosen one, and the seeds that all have run."""
        found = [score.of(evidence) for score in scores]
        means = [mean(value.value for value in values.values()) if values else -math.inf for values in found]
        return trials[means.index(max(means))], set.intersection(*map(set, found))

    def at(evidence: Evidence, epoch: int) -> Values:
        trial, common = best(evidence)
        values = trial.at(evidence, epoch).items()
        return {seed: value._replace(whole=value.whole and seed in common) for seed, value in values}

    return Quantity(text, "points", lambda evidence: best(evidence)[0].horizon(evidence), at)


def _read(
    part: str, network: str, epoch: int | None, column: str, fields: dict, scale: float, unit: str, layer: int | None = None
) -> Quantity:
    """A column of the runs of one network, or of a layer of it, at an epoch."""

    def horizon(evidence: Evidence) -> Horizon | None:
        runs = evidence.of(part, network, fields)
        if not runs:
            return None
        asked = max(told["plan_epochs"] for told, _ in runs) if epoch is None else epoch
        return Horizon(asked, min(asked, max(told["epochs"] for told, _ in runs)))

    def read(evidence: Evidence, when: int) -> Iterator[tuple[int, Value]]:
        asked = horizon(evidence).asked
        for told, record in evidence.of(part, network, fields):
            row = record.at(when)
            number = math.nan if row is None else _number(record, row, column, layer)
            if not math.isnan(number):
                whole = told["as_planned"] and (row["epoch"] >= asked or record.diverged)
                moved = doubt(record) if column == "test_accuracy" else 0.0
                yield told["seed"], Value(scale * number, whole, told["data"], str(when), moved)

    def at(evidence: Evidence, when: int) -> Values:
        found = list(read(evidence, when))
        if len(values := dict(found)) < len(found):
            raise ValueError(f"{network} of {part} is several networks; say which by loss, activation, optimizer: got {fields}")
        return values

    when = "last epoch" if epoch is None else f"epoch {epoch}"
    place = (part, network, *([] if layer is None else [layer]), *fields.values(), when)
    return Quantity(f"{column}({', '.join(map(str, place))})", unit, horizon, at)


def _number(record: Record, row: dict[str, Any], column: str, layer: int | None) -> float:
    """What a run's row says, a measure of one layer; NaN for a validation accuracy where no images are held out."""
    if column == "diverged":
        return float(record.diverged)
    if column == SPLIT_COLUMN:
        return row.get(column, math.nan)
    return row[column] if layer is None else row[column][layer - 1]
