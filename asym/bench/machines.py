"""Does a run end on another machine where it ended on the first? Published runs, and the same made again elsewhere."""

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import mean, stdev

import pandas as pd

from asym.cells import Cell
from asym.config import Config
from asym.frames import interval
from asym.quantities import LEVEL
from asym.results import Merged, Record

FILE = "again.parquet"  # in figures/performance


def made_elsewhere(merged: Merged) -> list[Record]:
    """Of the runs that differ from ours, theirs that another device made from the same copy of the data."""
    return [theirs for ours, theirs in merged.differ if _twins(ours, theirs)]


def compare(asked: Iterable[Cell], published: dict[str, Record], again: Iterable[Record]) -> pd.DataFrame:
    """A row for each net whose runs were made again, by another device from the same copy of the data: where they were made, and
    where they were made again; the test accuracy (%) at the end of either, the second minus the first there and on average over
    the last epochs, paired by seed, with 95 % t intervals; how far the two ends of a seed lie apart (root mean square), and how
    far the ends of two seeds. Empty without such runs."""
    ordered = sorted(asked, key=lambda cell: cell.part.startswith("table"))  # a table's come last and name the run
    cells = {cell.config.hash: cell for cell in ordered}
    nets: dict[tuple[str, str, Config], list[tuple[Record, Record]]] = {}
    for theirs in again:
        ours, cell = published.get(theirs.config.hash), cells.get(theirs.config.hash)
        if ours and cell and _twins(ours, theirs):
            nets.setdefault((cell.part, cell.network, replace(theirs.config, seed=0)), []).append((ours, theirs))
    rows = []
    for (part, network, config), pairs in sorted(nets.items(), key=lambda item: item[0][:2]):
        there, elsewhere = zip(*pairs, strict=True)
        ends = pd.DataFrame({"published": map(_end, there), "again": map(_end, elsewhere)})
        ends["difference"] = ends["again"] - ends["published"]
        ends["level"] = [_level(theirs) - _level(ours) for ours, theirs in pairs]
        row = {"part": part, "network": network, "loss": config.loss, "epochs": config.epochs, "seeds": len(pairs)}
        row |= {"devices": _devices(there), "other_devices": _devices(elsewhere)}
        for name, values in ends.items():
            row[name], row[f"{name}_half"] = interval(values)
        row["apart"] = math.sqrt(mean(ends["difference"] ** 2))
        row["seeds_apart"] = math.sqrt(2) * stdev(ends["published"]) if len(pairs) > 1 else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _twins(ours: Record, theirs: Record) -> bool:
    made, again = ours.provenance, theirs.provenance
    return made["device"] != again["device"] and made.get("data_fingerprint") == again.get("data_fingerprint")


def _devices(records: Iterable[Record]) -> str:
    return ", ".join(sorted({record.provenance["device"] for record in records}))


def _end(record: Record) -> float:
    return 100 * record.epochs[-1]["test_accuracy"]


def _level(record: Record) -> float:
    """NaN for a run of fewer epochs, or that diverged: where it ended is not its level."""
    last = [row["test_accuracy"] for row in record.epochs if row["epoch"] > 0][-LEVEL:]
    return 100 * mean(last) if len(last) == LEVEL and not record.diverged else math.nan
