"""Does a run in bf16 end where it ends in fp32? Three cells, one of them unstable, in both precisions from the same seeds."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from asym import grid, presets, publication, versions
from asym.cells import Cell
from asym.config import Config
from asym.frames import interval
from asym.questions import cells
from asym.results import Record, Store

CELLS = (("conv_dense_head", "table 6", "PGR2"), ("dense", "table 2", "DSR2"), ("depth", "table 4", "DDR4"))
HOME = "performance"  # the folder of figures/ that the bf16 runs are published in


def wanted(preset: presets.Preset) -> list[Cell]:
    """The cells' fp32 and bf16 runs by cross entropy, all seeds, the cheapest cells first."""
    asked = [
        cell
        for question, part, network in CELLS
        for cell in cells(question, preset)
        if (cell.part, cell.network, cell.config.loss) == (part, network, "ce")
    ]
    return [replace(cell, config=replace(cell.config, precision=name)) for cell in asked for name in ("fp32", "bf16")]


def run(preset: presets.Preset, figures: Path, store: Store, *, jobs: int | None = None) -> pd.DataFrame:
    """Trains what neither the store nor the published runs have, or have of other code alone (asym stale names those), publishes
    the bf16 runs, and returns `compare`'s table."""
    asked, library = wanted(preset), publication.library(figures)
    stale = {record.config.hash for record in versions.stale(library.values())}
    known = {run: record for run, record in library.items() if run not in stale}
    grid.run((cell.config for cell in asked if cell.config.hash not in known), store, jobs=jobs)
    found = {cell.config.hash: record for cell, record in store.find(asked)}
    half = [record for record in found.values() if record.config.precision == "bf16"]
    publication.add(half, figures / HOME / publication.FILE)
    return compare(asked, found | known)


def compare(asked: list[Cell], records: dict[str, Record]) -> pd.DataFrame:
    """A row a cell: its test accuracy (%) in either precision, bf16 minus fp32 paired by seed, with 95 % t intervals over the
    seeds that have both on the same copy of the data; and how many times as fast bf16 is by the seconds an epoch takes, of pairs
    from one kind of processor and number of threads: the median, the least and the most (NaN without). Empty without seeds."""
    rows = []
    for part, network in dict.fromkeys((cell.part, cell.network) for cell in asked):
        mine = [cell.config for cell in asked if (cell.part, cell.network) == (part, network) and cell.config.precision == "fp32"]
        twins = [(config.hash, replace(config, precision="bf16").hash) for config in mine]
        pairs = [(records[a], records[b]) for a, b in twins if a in records and b in records]
        pairs = [pair for pair in pairs if _alike(pair, "data_fingerprint")]
        if not pairs:
            continue
        accuracy = pd.DataFrame([[100 * r.epochs[-1]["test_accuracy"] for r in pair] for pair in pairs], columns=["fp32", "bf16"])
        accuracy["difference"] = accuracy["bf16"] - accuracy["fp32"]
        speeds = pd.Series(
            [_span(full) / _span(half) for full, half in pairs if _alike((full, half), "device", "threads")], dtype=float
        )
        row = {"part": part, "network": network, "epochs": mine[0].epochs, "dataset": mine[0].dataset, "seeds": len(pairs)}
        for name, values in accuracy.items():
            row[name], row[f"{name}_half"] = interval(values)
        row["diverged"] = sum(record.diverged for pair in pairs for record in pair)
        row["devices"] = ", ".join(dict.fromkeys(record.provenance["device"] for pair in pairs for record in pair))
        rows.append(row | {"speed": speeds.median(), "slowest": speeds.min(), "fastest": speeds.max()})
    return pd.DataFrame(rows)


def _alike(pair: tuple[Record, Record], *names: str) -> bool:
    """Whether both were made from, or by, the same."""
    return all(pair[0].provenance.get(name) == pair[1].provenance.get(name) for name in names)


def _span(record: Record) -> float:
    """Seconds an epoch; NaN for a run that diverged in its first."""
    last = record.epochs[-1]
    return last["seconds"] / last["epoch"] if last["epoch"] else math.nan


def pairs(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each run in bf16 that has a twin in fp32 (not in TF32), of the same copy of the data and of any length (the
    longest): its net, whether its gradients are clipped, its last layer's rule, learning rate and seed, the last epoch that both
    have, the test accuracy (%) of either there, and that of the one in fp32 an epoch before."""
    twins: dict[tuple, Record] = {}
    for record in sorted(itertools.filterfalse(grid.in_tf32, records), key=lambda record: record.config.epochs):
        twins[_but_for_length(record)] = record
    rows = []
    for (config, data), record in twins.items():
        full = twins.get((replace(config, precision="fp32"), data))
        if config.precision == "bf16" and full is not None:
            clipped = bool(config.clip_value or config.clip_norm)
            epoch = min(record.config.epochs, full.config.epochs)
            row = {
                "net": config.net,
                "clipped": clipped,
                "rule": config.rules[-1],
                "lr": config.lr,
                "seed": config.seed,
                "epoch": epoch,
            }
            reached = {"fp32": _accuracy(full, epoch), "bf16": _accuracy(record, epoch), "before": _accuracy(full, epoch - 1)}
            rows.append(row | reached)
    return pd.DataFrame(rows)


def _but_for_length(record: Record) -> tuple[Config, str]:
    return replace(record.config, epochs=1), record.provenance.get("data_fingerprint", "")


def _accuracy(record: Record, epoch: int) -> float:
    """In %; of a run that diverged before, its last."""
    return 100 * record.at(epoch)["test_accuracy"]
