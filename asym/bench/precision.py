"""Does a run in bf16 end where it ends in fp32? Four cells, one unstable, one clipped, in both precisions from the same seeds."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from asym import grid, presets, publication, versions
from asym.cells import Cell
from asym.frames import interval
from asym.questions import cells
from asym.results import Record, Store

CELLS = (
    ("conv_dense_head", "table 6", "PGR2"),
    ("dense", "table 2", "DSR2"),
    ("depth", "table 4", "DDR4"),
    ("clipping", "dense", "DSR2, value 0.0001"),
)
HOME = "performance"  # the folder of figures/ that the bf16 runs are published in


def wanted(preset: presets.Preset) -> list[Cell]:
    """The cells' fp32 and bf16 runs by cross entropy and Adam, all seeds; as long as the preset has their nets, even where a
    question of it has shorter ones."""
    level = replace(preset, questions={})
    asked = [
        cell
        for question, part, network in CELLS
        for cell in cells(question, level)
        if (cell.part, cell.network, cell.config.loss, cell.config.optimizer) == (part, network, "ce", "adam")
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
    seeds that have both; and how many times as fast bf16 is by the seconds an epoch takes. Empty without such seeds."""
    rows = []
    for part, network in dict.fromkeys((cell.part, cell.network) for cell in asked):
        mine = [cell.config for cell in asked if (cell.part, cell.network) == (part, network) and cell.config.precision == "fp32"]
        twins = [(config.hash, replace(config, precision="bf16").hash) for config in mine]
        pairs = [(records[a], records[b]) for a, b in twins if a in records and b in records]
        if not pairs:
            continue
        accuracy = pd.DataFrame([[100 * r.epochs[-1]["test_accuracy"] for r in pair] for pair in pairs], columns=["fp32", "bf16"])
        accuracy["difference"] = accuracy["bf16"] - accuracy["fp32"]
        spans = pd.DataFrame([[r.epochs[-1]["seconds"] / r.epochs[-1]["epoch"] for r in pair] for pair in pairs])
        row = {"part": part, "network": network, "epochs": mine[0].epochs, "dataset": mine[0].dataset, "seeds": len(pairs)}
        for name, values in accuracy.items():
            row[name], row[f"{name}_half"] = interval(values)
        row["diverged"] = sum(record.diverged for pair in pairs for record in pair)
        rows.append(row | {"speed": float((spans[0] / spans[1]).median())})
    return pd.DataFrame(rows)
