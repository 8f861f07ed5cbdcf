"""What a page costs at each preset: time and disk from the runs that there are, memory as measured on one run of each kind."""

import json
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from asym import grid, presets
from asym.config import Config
from asym.numbered import Numbered
from asym.publication import library
from asym.questions import cells
from asym.results import Record
from asym.rules import find

FILE = "memory.csv"
KIND = ["dataset", "net", "precision", "batch", "subset"]  # what a run's memory depends on, beside the widths of a dense net
MEGABYTE = 2**20


def kinds(configs: Iterable[Config]) -> list[Config]:
    """Of each kind of run the one that takes most memory, for a single epoch: the memory of a run does not grow with them."""
    largest: dict[tuple, Config] = {}
    for config in configs:
        largest[_kind(config)] = max(largest.get(_kind(config), config), config, key=_size)
    return [replace(config, epochs=1, pretrained=min(config.pretrained, 1)) for config in largest.values()]


def measure(config: Config) -> float:
    """The most memory that a fresh process held while it trained the config, in MB."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_peak, config).result()


def _peak(config: Config) -> float:
    grid.perform(config)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss is at least what the process that started this one held
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024 / MEGABYTE
    import resource  # here, because Windows has none, and shows pages all the same

    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return told * (1 if sys.platform == "darwin" else 1024) / MEGABYTE  # bytes on macOS, elsewhere kilobytes


def row(config: Config, memory: float) -> dict:
    """A line of the stored table: the kind of run, and its memory in MB."""
    return dict(zip(KIND, _kind(config), strict=True)) | {"memory": round(memory)}


def costs(question: str, figures: Path) -> pd.DataFrame:
    """A row a preset: runs, hours of one core (measured where all its runs are published from a
    processor, else estimated in part), memory of one process and disk in MB; NaN where that kind of run was not measured."""
    published = {run: record for run, record in library(figures).items() if not grid.in_tf32(record)}
    known = _memory(figures / FILE)
    records = list(published.values())
    size, rows = _bytes_an_epoch(records), []
    for name in presets.PRESETS:
        configs = list(dict.fromkeys(cell.config for cell in cells(question, presets.load(name))))
        there = [published[config.hash] for config in configs if config.hash in published]
        missing = [config for config in configs if config.hash not in published]
        seconds = sum(record.provenance["seconds"] for record in there) + grid.estimate(missing, records)
        memory = pd.Series([known.get(_kind(config), float("nan")) for config in configs]).max(skipna=False)
        epochs = sum(config.epochs for config in configs)
        rows.append(
            {
                "preset": name,
                "runs": len(configs),
                "measured": len(there),
                "hours": seconds / 3600,
                "memory": memory,
                "disk": epochs * size / MEGABYTE,
            }
        )
    return pd.DataFrame(rows)


def show(question: str, figures: Path, name: str) -> Numbered:
    """The costs as a table of a page."""
    rows = [
        {
            "preset": entry["preset"],
            "runs": entry["runs"],
            "time on one core": _time(entry["hours"]),
            "memory": "not measured" if pd.isna(entry["memory"]) else f"{entry['memory']:.0f} MB",
            "disk": f"{entry['disk']:.1f} MB",
            "runs that were timed": entry["measured"],
        }
        for entry in costs(question, figures).to_dict("records")
    ]
    caption = (
        "What each preset costs. Time: that of the runs published from a processor, and of the others an estimate at their rate; "
        "two cores take half. Memory: of one process while it trains. Disk: of the stored runs."
    )
    return Numbered(pd.DataFrame(rows), name, caption, "costs")


def _time(hours: float) -> str:
    return f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"


def _kind(config: Config) -> tuple:
    return (config.dataset, config.net, config.precision, config.batch, config.subset or 0)


def _size(config: Config) -> tuple[int, int]:
    """Wider nets, then nets with more learned feedback, take more."""
    return sum(config.hidden), sum(find(rule).store == "parameter" for rule in config.rules)


def _memory(path: Path) -> dict[tuple, float]:
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KIND, "memory"])
    return {tuple(entry[name] for name in KIND): entry["memory"] for entry in rows.to_dict("records")}


def _bytes_an_epoch(records: list[Record]) -> float:
    """Of a stored record; the published runs tell."""
    told = sum(len(json.dumps(list(record.epochs[-1].values()))) for record in records)
    return told / max(1, len(records))
