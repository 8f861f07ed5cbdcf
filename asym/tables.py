"""The original's printed numbers, and ours beside them."""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd

from asym.cells import Cell
from asym.frames import at_epoch, frame, interval
from asym.results import Record

ORIGINAL = Path(__file__).parent / "original" / "results.csv"
OTHER_DATA = "other data"
CELL = ["network", "activation", "loss", "optimizer"]
COMPATIBLE, DIFFERS = "compatible", "differs"
FEWER_EPOCHS, FEW_SEEDS = "fewer epochs", "fewer than 3 seeds"
MARKS = {OTHER_DATA: "†", FEWER_EPOCHS: "†", FEW_SEEDS: "*"}


def original(part: str | None = None) -> pd.DataFrame:
    """The original's numbers, one row each; of one part ("table 2") if given."""
    rows = _printed()
    return rows.copy() if part is None else rows[rows["part"] == part]


@cache
def _printed() -> pd.DataFrame:
    rows = pd.read_csv(ORIGINAL, dtype={"table": str}, keep_default_na=False, na_values={"epochs": [""]})
    return rows.assign(part="table " + rows["table"])


def beside_original(cells: Iterable[Cell], found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row for every number that the original prints of these cells' tables, with ours at the same epoch.

    Columns: part, network, loss, activation, optimizer, epochs (NaN: not printed; ours is read at the plan's last); original and
    ours (test accuracy, %), half_width of the 95 % t interval of our mean over seeds, seeds, diverged (how many of them),
    difference (ours - original), epochs_run, dataset, and verdict: "compatible" where the original's single run lies where a
    further seed of ours would with 95 % probability, else "differs"; or why there is none: "not run", "other data", "fewer
    epochs", "fewer than 3 seeds". A preset that stops before the original's epoch is read at its own last. Cells without runs
    stay, empty.
    """
    cells, runs = list(cells), frame(found)
    ours = {_key(cell): cell for cell in cells}
    rows = []
    for entry in original().to_dict("records"):
        key = tuple(entry[name] for name in ["part", *CELL])
        if key not in ours:
            continue
        config, plan = ours[key].config, ours[key].plan or ours[key].config
        asked = int(plan.epochs if math.isnan(entry["epochs"]) else entry["epochs"])
        epoch = min(config.epochs, asked)
        mine = runs[(runs[["part", *CELL]] == list(key)).all(axis=1)] if len(runs) else runs
        row = {name: entry[name] for name in ["part", *CELL, "epochs"]}
        row |= {"epochs_run": epoch, "dataset": config.dataset, "original": entry["accuracy_percent"]}
        row |= _ours(at_epoch(mine, epoch) if len(mine) else mine, entry["accuracy_percent"])
        if row["seeds"] and not mine["as_planned"].all():
            row["verdict"] = OTHER_DATA
        elif row["seeds"] and epoch < asked:
            row["verdict"] = FEWER_EPOCHS
        rows.append(row)
    return pd.DataFrame(rows)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is shown: accuracies in %, our mean with its 95 % interval and mark, a note where our runs are shorter."""
    return pd.DataFrame([_as_text(entry) for entry in table.to_dict("records")])


def points(mean: float, half: float = math.nan, form: str = ".2f") -> str:
    """A mean and the half-width of its interval, both formatted alike; empty for NaN."""
    if math.isnan(mean):
        return ""
    return f"{mean:{form}}" if math.isnan(half) else f"{mean:{form}} ± {half:{form}}"


def telling(half: float, scale: float = 100) -> float:
    """The half-width of an interval, by default of an accuracy in %; NaN where it is as wide as the scale, and tells nothing."""
    return math.nan if 2 * half >= scale else half


def _as_text(entry: dict) -> dict:
    epochs = "not printed" if math.isnan(entry["epochs"]) else f"{entry['epochs']:.0f}"
    other = entry["seeds"] and (math.isnan(entry["epochs"]) or entry["epochs_run"] < entry["epochs"])
    return {
        "table": entry["part"].removeprefix("table "),
        "network": entry["network"],
        "activation": entry["activation"],
        "loss": entry["loss"],
        "epochs": epochs + (f" (ours {entry['epochs_run']})" if other else ""),
        "original": f"{entry['original']:.2f}",
        "ours": points(entry["ours"], telling(entry["half_width"])) + MARKS.get(entry["verdict"], ""),
        "difference": f"{entry['difference']:+.2f}" if entry["seeds"] and entry["verdict"] != OTHER_DATA else "",
        "seeds": entry["seeds"],
        "diverged": entry["diverged"],
        "verdict": entry["verdict"],
    }


def _key(cell: Cell) -> tuple[str, ...]:
    config = cell.config
    return cell.part, cell.network, config.activation, config.loss, config.optimizer


def _ours(values: pd.DataFrame, printed: float) -> dict:
    if not len(values):
        empty = dict.fromkeys(("ours", "half_width", "difference"), math.nan)
        return empty | {"seeds": 0, "diverged": 0, "verdict": "not run"}
    percent = 100 * values["test_accuracy"]
    mean, half = interval(percent)
    seeds = len(percent)
    # a new seed's value scatters by sqrt(n + 1) times as much as the mean of n
    compatible = abs(printed - mean) <= half * math.sqrt(seeds + 1)
    return {
        "ours": mean,
        "half_width": half,
        "difference": mean - printed,
        "seeds": seeds,
        "diverged": int(values["diverged"].sum()),
        "verdict": FEW_SEEDS if seeds < 3 else COMPATIBLE if compatible else DIFFERS,
    }
