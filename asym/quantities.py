"""Quantities: numbers with one value a seed, read from stored runs, that say in words what they are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from asym.cells import ALONE, Cell
from asym.frames import at_epoch, frame, layer_frame
from asym.results import Record

T = TypeVar("T")
TYPES = {"value": float, "whole": bool, "data": str, "epochs": str}
EMPTY = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in TYPES.items()}, index=pd.Index([], name="seed"))
LEVEL = 20  # epochs at the end of a run, over which its level and its jumps are taken
STATE = ("as_planned", "epoch", "diverged", "data")  # of a run at an epoch, beside its numbers
SHARES = ("idle", "sign_agreement")  # measures that are fractions, given in %


class Evidence:
    """The runs that a page or a check goes by, as tidy tables: `runs` one row an epoch, `layers` one row an epoch and layer."""

    def __init__(self, found: Iterable[tuple[Cell, Record]]):
        self.found = list(found)
        self._kept: dict[Hashable, Any] = {}

    def once(self, what: Hashable, read: Callable[[], T]) -> T:
        """What `read` gives, read once of these runs: many claims look at the same net."""
        if what not in self._kept:
            self._kept[what] = read()
        return self._kept[what]

    @cached_property
    def runs(self) -> pd.DataFrame:
        return frame(self.found)

    @cached_property
    def layers(self) -> pd.DataFrame:
        return layer_frame(self.found)

    def rows(self, part: str, network: str, layers: bool) -> pd.DataFrame:
        """The rows of one network of a part, of `layers` or of `runs`; an empty frame where it has not been run."""
        table, groups = (self.layers, self._layers_of) if layers else (self.runs, self._runs_of)
        return table.iloc[groups[part, network]] if (part, network) in groups else table.iloc[:0]

    @cached_property
    def _runs_of(self) -> dict:
        return _places(self.runs)

    @cached_property
    def _layers_of(self) -> dict:
        return _places(self.layers)


def _places(table: pd.DataFrame) -> dict:
    return table.groupby(["part", "network"]).indices if len(table) else {}


class Horizon(NamedTuple):
    """The epoch that a quantity asks for, and the last at which the runs there are let it be read."""

    asked: int
    reached: int


@dataclass(frozen=True)
class Quantity:
    """A number for each seed: `of(evidence)` has one row a seed, its value, whether its runs are whole (of the planned data, and
    trained to the epoch that is asked for), their data and the epochs at which they are read, in words. It is empty where no run
    tells.

    text says what it is computed from; unit is "points" (of accuracy, in %), "%", "°", "runs" (of which so many do), or "" for a
    ratio. A difference is taken
    seed by seed, since nets of one seed share W0 and the order of the data, and at the last epoch that both sides reached; runs
    of different data have none.
    """

    text: str
    unit: str
    horizon: Callable[[Evidence], Horizon | None]
    at: Callable[[Evidence, int], pd.DataFrame]

    def of(self, evidence: Evidence) -> pd.DataFrame:
        horizon = self.horizon(evidence)
        return EMPTY if horizon is None else self.at(evidence, horizon.reached)

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

        def at(evidence: Evidence, epoch: int) -> pd.DataFrame:
            a, b = (side.at(evidence, min(epoch, side.horizon(evidence).reached)) for side in (self, other))
            both = a.index.intersection(b.index)
            a, b = a.loc[both], b.loc[both]
            epochs = a["epochs"].where(a["epochs"] == b["epochs"], a["epochs"] + " and " + b["epochs"])
            made = a.assign(value=a["value"] - b["value"], whole=a["whole"] & b["whole"], epochs=epochs)
            return made[a["data"] == b["data"]]

        return Quantity(f"{self.text} - {other.text}", self.unit, horizon, at)


def accuracy(part: str, network: str, *, epoch: int | None = None, column: str = "test_accuracy", **fields: str) -> Quantity:
    """An accuracy in % at an epoch (None: the plan's last); fields: loss, activation, optimizer, where the part has several."""
    return _read(part, network, epoch, column, fields, 100, "points")


def alone(network: str, **fields: str) -> Quantity:
    """The accuracy of a net whose last layer learns alone (`cells.alone`)."""
    return accuracy(ALONE, f"{network}, {ALONE}", **fields)


def jumps(part: str, network: str, **fields: str) -> Quantity:
    """How much the test accuracy jumps from epoch to epoch at the end: its standard deviation over the last 20 epochs."""
    return _over_the_last("std", f"standard deviation over {LEVEL} epochs", part, network, fields)


def level(part: str, network: str, **fields: str) -> Quantity:
    """Where the test accuracy is at the end whatever it jumps by: its mean over the last 20 epochs."""
    return _over_the_last("mean", f"mean over {LEVEL} epochs", part, network, fields)


def _over_the_last(statistic: str, words: str, part: str, network: str, fields: dict[str, str]) -> Quantity:
    """Of the test accuracy over the last 20 epochs; a run of fewer has none: most of it is the beginning."""
    end = accuracy(part, network, **fields)

    def at(evidence: Evidence, epoch: int) -> pd.DataFrame:
        rows = _rows(evidence, part, network, fields)
        last = rows[rows["epoch"].between(max(1, epoch - LEVEL + 1), epoch)].groupby("seed")["test_accuracy"]
        found = 100 * last.agg(statistic)[last.count() == LEVEL]
        values = end.at(evidence, epoch)
        return values.assign(value=found.reindex(values.index)).dropna(subset="value")

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
    return _read(part, network, epoch, name, {"layer": layer} | fields, scale, unit)


def chosen(part: str, networks: Sequence[str], **fields: str) -> Quantity:
    """The test accuracy (%) at the last epoch of the one network whose validation accuracy, the mean over its seeds, is best.

    A seed is whole where all of the networks have run it: before that the choice is not yet the one that is asked for.
    """
    trials = [accuracy(part, network, **fields) for network in networks]
    scores = [accuracy(part, network, column="validation_accuracy", **fields) for network in networks]

    text = f"test_accuracy({part}, that of [{'; '.join(networks)}] with the best validation_accuracy, last epoch)"

    def scored(evidence: Evidence) -> tuple[Quantity, set]:
        """The chosen one, and the seeds that all have run."""
        found = [score.of(evidence)["value"] for score in scores]
        means = [-math.inf if math.isnan(values.mean()) else values.mean() for values in found]
        return trials[means.index(max(means))], set.intersection(*(set(values.index) for values in found))

    def best(evidence: Evidence) -> tuple[Quantity, set]:
        return evidence.once((text, *fields.items()), lambda: scored(evidence))

    def at(evidence: Evidence, epoch: int) -> pd.DataFrame:
        trial, common = best(evidence)
        values = trial.at(evidence, epoch)
        return values.assign(whole=values["whole"] & values.index.isin(common))

    return Quantity(text, "points", lambda evidence: best(evidence)[0].horizon(evidence), at)


def _rows(evidence: Evidence, part: str, network: str, fields: dict) -> pd.DataFrame:
    """The rows of one network, or of a layer of it."""

    def read() -> pd.DataFrame:
        found = evidence.rows(part, network, "layer" in fields)
        for name, value in fields.items():
            found = found[found[name] == value] if len(found) else found
        return found

    return evidence.once((part, network, *fields.items()), read)


def _rows_at(evidence: Evidence, part: str, network: str, fields: dict, when: int) -> pd.DataFrame:
    """A row a seed: those of an epoch."""
    at = lambda: at_epoch(_rows(evidence, part, network, fields), when).set_index("seed")
    return evidence.once((part, network, *fields.items(), when), at)


def _read(part: str, network: str, epoch: int | None, column: str, fields: dict, scale: float, unit: str) -> Quantity:
    """A column of the runs of one network, or of a layer of it, at an epoch."""

    def horizon(evidence: Evidence) -> Horizon | None:
        found = _rows(evidence, part, network, fields)
        if not len(found):
            return None
        asked = int(found["plan_epochs"].max()) if epoch is None else epoch
        return Horizon(asked, min(asked, int(found["epochs"].max())))

    def read(evidence: Evidence, when: int) -> pd.DataFrame:
        asked = horizon(evidence).asked
        found = _rows_at(evidence, part, network, fields, when)[[*{column, *STATE}]].dropna(subset=column)
        if found.index.has_duplicates:
            raise ValueError(f"{network} of {part} is several networks; say which by loss, activation, optimizer: got {fields}")
        whole = found["as_planned"] & ((found["epoch"] >= asked) | found["diverged"])
        told = {"whole": whole, "data": found["data"], "epochs": str(when)}
        return pd.DataFrame({"value": scale * found[column].astype(float)} | told)

    def at(evidence: Evidence, when: int) -> pd.DataFrame:
        return evidence.once((part, network, *fields.items(), column, epoch, when), lambda: read(evidence, when))

    when = "last epoch" if epoch is None else f"epoch {epoch}"
    return Quantity(f"{column}({', '.join(map(str, [part, network, *fields.values(), when]))})", unit, horizon, at)
