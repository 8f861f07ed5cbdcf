"""The original's printed numbers, and ours beside them."""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from asym.questions import Cell
from asym.results import Record, at_epoch, frame, interval

ORIGINAL = Path(__file__).parent / "original" / "results.csv"
CELL = ["network", "activation", "loss", "optimizer"]


def original(part: str | None = None) -> pd.DataFrame:
    """The original's numbers, one row each; of one part ("table 2") if given."""
    rows = pd.read_csv(ORIGINAL, dtype={"table": str}, keep_default_na=False, na_values={"epochs": [""]})
    rows["part"] = "table " + rows["table"]
    return rows if part is None else rows[rows["part"] == part]


def beside_original(cells: Iterable[Cell], found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row for every number that the original prints of these cells' tables, with ours at the same epoch.

    Columns: part, network, loss, activation, optimizer, epochs; original and ours (test accuracy, %), half_width of the 95 %
    interval of our mean over seeds, seeds, diverged (how many of them), difference (ours - original), and agrees: whether the
    original's single run lies where a further seed of ours would with 95 % probability (None for fewer than 3 seeds, fewer epochs
    or other data). A preset that stops before the original's epoch is read at its own last epoch, given in epochs_run; dataset is
    that of our runs. Cells without runs stay, empty.
    """
    cells, runs = list(cells), frame(found)
    printed = pd.concat([original(part) for part in dict.fromkeys(c.part for c in cells)])
    ours = {_key(cell): cell.config for cell in cells}
    rows = []
    for entry in printed.to_dict("records"):
        key = [entry[name] for name in ["part", *CELL]]
        config = ours.get(tuple(key))
        if config is None:
            continue
        epoch = int(min(config.epochs, entry["epochs"]))
        mine = runs[(runs[["part", *CELL]] == key).all(axis=1)] if len(runs) else runs
        row = {name: entry[name] for name in ["part", *CELL, "epochs"]}
        row |= {"epochs_run": epoch, "dataset": config.dataset, "original": entry["accuracy_percent"]}
        row |= _ours(at_epoch(mine, epoch) if len(mine) else mine, entry["accuracy_percent"])
        if epoch < entry["epochs"] or config.dataset != entry["dataset"]:
            row["agrees"] = None
        rows.append(row)
    return pd.DataFrame(rows)


def _key(cell: Cell) -> tuple[str, ...]:
    config = cell.config
    return cell.part, cell.network, config.activation, config.loss, config.optimizer


def _ours(values: pd.DataFrame, printed: float) -> dict:
    if not len(values):
        return {
            "ours": math.nan,
            "half_width": math.nan,
            "seeds": 0,
            "diverged": 0,
            "difference": math.nan,
            "agrees": None,
        }
    percent = 100 * values["test_accuracy"]
    mean, half = interval(percent)
    seeds = len(percent)
    # a new seed's value scatters by sqrt(n + 1) times as much as the mean of n
    agrees = bool(abs(printed - mean) <= half * math.sqrt(seeds + 1)) if seeds >= 3 else None
    return {
        "ours": mean,
        "half_width": half,
        "seeds": seeds,
        "diverged": int(values["diverged"].sum()),
        "difference": mean - printed,
        "agrees": agrees,
    }
