"""Tidy tables of runs, and the statistics over seeds."""

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from asym._copies import UNLISTED
from asym.cells import Cell
from asym.measures import MEASURES
from asym.results import COLUMNS, Record

TEST_IMAGES = 10_000  # of each data set
RUN = ["part", "network", "loss", "activation", "optimizer", "seed"]  # what tells one run of a question from another
DATA = {  # what a run is trained and tested on: the config's fields, and how they are said
    "dataset": "{}",
    "subset": "first {} images",
    "test_subset": "{} tested",
    "validation": "{} held out",
    "batch": "batch {}",
}


def frame(found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row a run and epoch: the cell's names, the config's fields that a figure may group by, and the epoch's numbers."""
    rows = []
    for told, _, record in named(found):
        for row in record.epochs:
            rows.append(told | {k: row[k] for k in COLUMNS} | {"validation_accuracy": row.get("validation_accuracy", math.nan)})
    return pd.DataFrame(rows)


def layer_frame(found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row a run, epoch and layer (counted from 1, input to output) with the measures of asym.measures."""
    rows = []
    for told, cell, record in named(found):
        for row in record.epochs:
            for layer, rule in enumerate(cell.config.rules):
                place = {"epoch": row["epoch"], "layer": layer + 1, "layer_rule": rule}
                rows.append(told | place | {measure: row[measure][layer] for measure in MEASURES})
    return pd.DataFrame(rows)


def named(found: Iterable[tuple[Cell, Record]]) -> Iterator[tuple[dict[str, Any], Cell, Record]]:
    """The runs with their names; where they used several copies of a data set, `data` says which."""
    found, copies = list(found), {}
    for _, record in found:
        copies.setdefault(record.config.dataset, set()).add(_copy(record))
    for cell, record in found:
        told = names(cell, record)
        if len(copies[record.config.dataset]) > 1:
            told["data"] += f", copy {_copy(record)}"
        yield told, cell, record


def _copy(record: Record) -> str:
    return record.provenance.get("data_fingerprint", "")[:8] or "unknown"


def names(cell: Cell, record: Record) -> dict[str, Any]:
    """What tells a run from others, and what a figure may group runs by.

    data: what it was trained and tested on, and whether in bf16, in words; plan_epochs: what the plan asks for; as_planned:
    whether the run used the data that the plan asks for.
    """
    config, plan = cell.config, cell.plan or cell.config
    words = [words.format(value) for name, words in DATA.items() if (value := getattr(config, name))]
    return {
        "part": cell.part,
        "network": cell.network,
        "rule": config.rules[-1],
        "layers": config.layers,
        "asymmetric_layers": sum(rule != "bp" for rule in config.rules),
        "activation": config.activation,
        "loss": config.loss,
        "optimizer": config.optimizer,
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "clipped": "by norm" if config.clip_norm else "by value" if config.clip_value else "",
        "bound": config.clip_norm or config.clip_value or math.nan,
        "dataset": config.dataset,
        "data": ", ".join([*words, "in bf16"] if config.precision == "bf16" else words),
        "seed": config.seed,
        "epochs": config.epochs,
        "plan_epochs": plan.epochs,
        "as_planned": all(getattr(config, name) == getattr(plan, name) for name in DATA),
        "diverged": record.diverged,
    }


def doubt(record: Record) -> float:
    """By how many points, at most, a run's test accuracy could differ on the published test images, of which some that it was
    tested on are only stand-ins; by all, where nobody knows which."""
    note = record.provenance.get("data_note", "")
    if note.startswith(UNLISTED):
        return 100.0
    stand_ins = re.search(r"(\d+) test", note)
    tested = record.config.test_subset or TEST_IMAGES
    return 100 * min(int(stand_ins[1]), tested) / tested if stand_ins else 0.0


def at_epoch(runs: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Each run's row at the epoch; a run that diverged before it stands with its last row."""
    there = runs[(runs["epoch"] == epoch) | (runs["diverged"] & (runs["epoch"] < epoch))]
    return last_epoch(there)


def last_epoch(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run's last row."""
    return runs.loc[runs.groupby(RUN)["epoch"].idxmax().sort_values()] if len(runs) else runs


def last_in_common(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run's row at the last epoch to which all nets of its part are trained; that epoch stands as their length."""
    if not len(runs):
        return runs
    common = runs.groupby("part")["epochs"].transform("min")
    return last_epoch(runs.assign(epochs=common)[runs["epoch"] <= common])


def best(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Of each part and rule the learning rate at which the mean of a column over seeds is largest, the mean, of how many seeds,
    and whether the rate is the smallest or the largest tried."""
    means = rows.groupby(["part", "rule", "lr"], sort=False)[value].agg(**{value: "mean", "seeds": "count"}).reset_index()
    found = means.loc[means.groupby(["part", "rule"], sort=False)[value].idxmax()]
    tried = means.groupby("part")["lr"].agg(["min", "max"]).loc[found["part"]].to_numpy()
    return found.assign(end=[rate in ends for rate, ends in zip(found["lr"], tried, strict=True)])


def from_control(runs: pd.DataFrame, rules: Iterable[str]) -> pd.DataFrame:
    """The runs with random feedback, and their control's once for each rule: a line over the number of layers starts there."""
    control = runs[runs["asymmetric_layers"] == 0]
    return pd.concat([runs[runs["asymmetric_layers"] > 0], *(control.assign(rule=rule) for rule in rules)])


def beside_unclipped(runs: pd.DataFrame) -> pd.DataFrame:
    """The last rows of runs with clipped gradients, and at that epoch those of the same nets and seeds without, once a kind of
    clipping."""
    clipped = last_epoch(runs[runs["bound"].notna()])
    found = [clipped]
    for (part, optimizer, kind), rows in clipped.groupby(["part", "optimizer", "clipped"], sort=False):
        free = runs[(runs["part"] == part) & (runs["optimizer"] == optimizer) & runs["bound"].isna()]
        free = free[free["seed"].isin(rows["seed"])]
        found.append(at_epoch(free, int(rows["epochs"].max())).assign(clipped=kind))
    return pd.concat(found)


def interval(values: pd.Series) -> tuple[float, float]:
    """The mean and the half-width of its 95 % t interval over seeds, those with a number; NaN half-width for fewer than two."""
    return float(values.mean()), float(values.std(ddof=1) * _width(values.count()))


def extremes(values: pd.Series, doubt: float) -> tuple[float, float]:
    """The least lower and the greatest upper end of that interval while each value may be off by `doubt` either way: ends where
    some of the lowest are lowered and the others raised, which scatter most. NaN for fewer than two."""
    seeds = len(values)
    if seeds < 2:
        return math.nan, math.nan
    lowered = np.arange(seeds) < np.arange(seeds + 1)[:, None]  # a row for each number of them
    moved = np.sort(values) + np.where(lowered, -doubt, doubt)
    means, halves = moved.mean(1), moved.std(1, ddof=1) * _width(seeds)
    return float((means - halves).min()), float((means + halves).max())


def intervals(rows: pd.DataFrame, by: str, value: str) -> pd.DataFrame:
    """The same of a column for each value of another, as columns mean and half, and how many seeds it is over."""
    found = rows.dropna(subset=value).groupby(by, sort=False)[value].agg(["mean", "std", "count"]).reset_index()
    return found.assign(half=found["std"] * found["count"].map(_width)).drop(columns="std").rename(columns={"count": "seeds"})


@cache
def _width(seeds: int) -> float:
    """The half-width of a 95 % t interval in standard deviations; NaN for fewer than two seeds."""
    from scipy.special import stdtrit  # the inverse of Student's t distribution

    return float(stdtrit(seeds - 1, 0.975)) / math.sqrt(seeds) if seeds > 1 else math.nan
