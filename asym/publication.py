"""Published runs: one Parquet file a question, and which of them a page shows."""

import gc
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from asym import presets, versions
from asym.atomic import whole
from asym.cells import Cell
from asym.checks import expect, in_short
from asym.config import Config
from asym.measures import MEASURES
from asym.questions import QUESTIONS, cells
from asym.results import Merged, Record, Store
from asym.soundness import SPLIT_COLUMN, check_kinds

LEVELS = ("quick", "cpu", "bf16", "paper")  # from the smallest
FILE = "runs.parquet"
COMMON = ("run", "config", "diverged", "provenance")  # what every row of a run repeats


def publish(records: Iterable[Record], path: Path) -> None:
    """Writes the runs, if any, as one Parquet file, one row an epoch, sorted, so that the same runs give the same file."""
    rows = []
    for record in sorted(records, key=lambda r: r.config.hash):
        common = {
            "run": record.config.hash,
            "config": json.dumps(record.config.to_dict(), sort_keys=True),
            "diverged": record.diverged,
            "provenance": json.dumps(record.provenance, sort_keys=True),
        }
        rows += [common | row for row in record.epochs]
    if rows:
        with whole(path) as temporary:
            pd.DataFrame(rows).to_parquet(temporary, index=False, compression="zstd")


def add(records: Iterable[Record], path: Path) -> tuple[int, int]:
    """Publishes runs beside those of a file; a run there already stays, unless it is stale and the new one is not. How many there
    are then, and how many of them are new."""
    before, ours = ({record.config.hash: record for record in made} for made in (published(path), records))
    old, older = ({record.config.hash for record in versions.stale(made.values())} for made in (ours, before))
    new = {run: record for run, record in ours.items() if run not in before or run in older - old}
    publish((before | new).values(), path)
    return len(before | new), len(new)


@contextmanager
def _uncollected() -> Iterator[None]:
    """The collector would look through all the rows read so far again and again, and none of them can go."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def published(path: Path) -> list[Record]:
    """The runs of a published Parquet file; an empty list where there is none. ValueError names a file that is not one."""
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("not a file")
        table = pq.read_table(path)
        plain = table.drop_columns(list(MEASURES)).to_pandas()
        columns = {name: _lists(table[name]) if name in MEASURES else plain[name].tolist() for name in table.column_names}
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in zip(*columns.values(), strict=True):
            named = dict(zip(columns, row, strict=True))
            runs.setdefault(named["run"], []).append(named)
        return [_record(run, runs[run]) for run in sorted(runs)]
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not a file of published runs ({in_short(str(error))[1:-1]})") from error


def _record(run: str, rows: list[dict[str, Any]]) -> Record:
    first = rows[0]
    config = Config.from_dict(json.loads(first["config"]))
    expect("run", run, run == config.hash, config.hash)
    apart = {*COMMON} if config.validation else {*COMMON, SPLIT_COLUMN}
    epochs = [{name: value for name, value in row.items() if name not in apart} for row in rows]
    record = Record(config, epochs, bool(first["diverged"]), json.loads(first["provenance"]))
    check_kinds(record)
    return record


def _lists(column: pa.ChunkedArray) -> list[list[float]]:
    """A measure, one list a row; Parquet has a null for a NaN."""
    rows = column.cast(pa.large_list(pa.float64())).combine_chunks()
    values, ends = rows.values.to_numpy(zero_copy_only=False).tolist(), rows.offsets.to_pylist()
    return [values[start:end] for start, end in pairwise(ends)]


def merge(folder: Path, store: Store) -> Merged:
    """Takes over what the store lacks of a folder's records and published runs (of its own, or of the questions' folders in it);
    see Store.merge."""
    return store.merge(folder, dict.fromkeys(sorted([*folder.glob(FILE), *folder.glob(f"*/{FILE}")]), published))


def library(figures: Path) -> dict[str, Record]:
    """Every published run by its config's hash, whatever question it was published under."""
    files = tuple((path, path.stat().st_mtime_ns) for path in sorted(figures.glob(f"*/{FILE}")))
    return _library(files)


@lru_cache(maxsize=2)
def _library(files: tuple[tuple[Path, int], ...]) -> dict[str, Record]:
    return {record.config.hash: record for path, _ in files for record in published(path)}


def homes(preset: presets.Preset) -> dict[str, str]:
    """The question under which each run of a preset is published: that of its table, else the first that asks for it."""
    found: dict[str, str] = {}
    asked = [(question, cell) for question in QUESTIONS for cell in cells(question, preset)]
    for question, cell in sorted(asked, key=lambda pair: not pair[1].part.startswith("table")):
        found.setdefault(cell.config.hash, question)
    return found


def unasked(question: str, figures: Path) -> list[Record]:
    """The runs published under a question that no preset asks for any longer."""
    return [record for record in published(figures / question / FILE) if record.config.hash not in _asked()]


@lru_cache(maxsize=1)
def _asked() -> set[str]:
    return {run for level in presets.PRESETS for run in homes(presets.load(level))}


@dataclass(frozen=True)
class Shown:
    """What there is of a question: its cells with the level each part is shown at ("" where nothing of it is published),
    those cells that have a run, with it, and the runs that are shown at a larger level than their part."""

    levels: dict[str, str]
    cells: list[Cell]
    found: list[tuple[Cell, Record]]
    longer: dict[Config, str] = field(default_factory=dict)

    def level(self, cell: Cell) -> str:
        """The level that a cell is shown at."""
        return self.longer.get(cell.config, self.levels[cell.part])


def shown(question: str, records: dict[str, Record], levels: Iterable[str] = LEVELS) -> Shown:
    """Of each part of a question, the largest level of which at least one whole seed is published; and of single nets of the
    original's tables the longer runs of a larger level on the same data: their first epochs are those of the shorter ones. What
    sets last epochs side by side reads them at the last that all have (asym.frames.last_in_common, asym.quantities).

    A part of which nothing is published keeps the cells of its plan, so that the gap is seen.
    """
    plan = {level: by_part(cells(question, presets.load(level))) for level in levels}
    asked = dict.fromkeys(cell.part for cell in QUESTIONS[question].cells)
    result = Shown({}, [], [])
    for part in asked:
        level, wanted, found = "", [cell for cell in QUESTIONS[question].cells if cell.part == part], []
        for candidate in reversed(plan):
            theirs = plan[candidate].get(part, [])
            ours = [(cell, records[cell.config.hash]) for cell in theirs if cell.config.hash in records]
            # a smaller level of which the same runs are published says it better
            if _a_whole_seed(theirs, ours) and (not found or _same(ours, found)):
                level, wanted, found = candidate, theirs, ours
        result.levels[part] = level
        for larger in list(plan)[list(plan).index(level) + 1 :] if level else ():
            longer = _longer(wanted, plan[larger].get(part, []), records)
            if longer:
                result.longer.update({cell.config: larger for cell in longer})
                wanted = _in_place(wanted, longer)
                found = [(cell, records[cell.config.hash]) for cell in wanted if cell.config.hash in records]
        result.cells.extend(wanted)
        result.found.extend(found)
    return result


def _longer(wanted: list[Cell], theirs: list[Cell], records: dict[str, Record]) -> list[Cell]:
    """The cells of a larger level that train the tables' nets among the wanted ones for longer, of each net that has such a
    run."""
    epochs = {_but_for_length(cell): cell.config.epochs for cell in wanted if cell.of or cell.part.startswith("table")}
    longer = [cell for cell in theirs if cell.config.epochs > epochs.get(_but_for_length(cell), math.inf)]
    run = {_but_for_length(cell) for cell in longer if cell.config.hash in records}
    return [cell for cell in longer if _but_for_length(cell) in run]


def _in_place(wanted: list[Cell], longer: list[Cell]) -> list[Cell]:
    """The cells with the longer ones where the others of their nets were."""
    place = {net: index for index, net in enumerate(dict.fromkeys(map(_but_for_length, wanted)))}
    replaced = set(map(_but_for_length, longer))
    kept = [cell for cell in wanted if _but_for_length(cell) not in replaced]
    return sorted([*kept, *longer], key=lambda cell: place[_but_for_length(cell)])


def _but_for_length(cell: Cell) -> tuple[str, Config]:
    """What the runs of a net have in common, whatever their seeds and epochs."""
    return cell.network, replace(cell.config, seed=0, epochs=1)


def by_part(wanted: list[Cell]) -> dict[str, list[Cell]]:
    """The cells of each part, in their order."""
    parts: dict[str, list[Cell]] = {}
    for cell in wanted:
        parts.setdefault(cell.part, []).append(cell)
    return parts


def _a_whole_seed(wanted: list[Cell], found: list[tuple[Cell, Record]]) -> bool:
    asked = Counter(cell.config.seed for cell in wanted)
    return any(count == asked[seed] for seed, count in Counter(cell.config.seed for cell, _ in found).items())


def _same(a: list[tuple[Cell, Record]], b: list[tuple[Cell, Record]]) -> bool:
    return [cell.config for cell, _ in a] == [cell.config for cell, _ in b]
