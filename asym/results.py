"""The run store: one file a run, written whole or not at all."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from asym.atomic import whole
from asym.cells import Cell
from asym.checks import in_short
from asym.config import Config
from asym.measures import MEASURES
from asym.soundness import COLUMNS, SPLIT_COLUMN, check

SCHEMA = 1
LARGEST = 2**24  # bytes of a record; 300 epochs of five layers take 0.2 MB


@dataclass(frozen=True)
class Record:
    """A finished run: its config, one row an epoch, whether it diverged, and where it came from."""

    config: Config
    epochs: list[dict[str, Any]]
    diverged: bool
    provenance: dict[str, Any]

    def at(self, epoch: int) -> dict[str, Any] | None:
        """Its row at an epoch, the last of a run that diverged before it; None where it has not come so far."""
        there = (row for row in reversed(self.epochs) if row["epoch"] == epoch or self.diverged and row["epoch"] < epoch)
        return next(there, None)


@dataclass(frozen=True)
class Merged:
    """What came of another store's files: new runs, those that both had alike, those that differ (ours stayed), and no runs."""

    new: list[Record]
    alike: list[Record]
    differ: list[tuple[Record, Record]]  # ours, theirs
    refused: dict[Path, str]


class Store:
    """A folder of records, `<config hash>.json`; $ASYM_RUNS or ./runs unless given. NotADirectoryError for a file."""

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("ASYM_RUNS") or "runs")
        if self.folder.exists():
            _expect_folder(self.folder)
        self._told: set[str] = set()  # what has been warned of

    def path(self, config: Config) -> Path:
        return self.folder / f"{config.hash}.json"

    def checkpoint(self, config: Config) -> Path:
        """Where the config's run, while it is being made, keeps what it has come to."""
        return self.folder / f"{config.hash}.checkpoint"

    def save(self, record: Record) -> None:
        """Writes the record under a temporary name, then renames it: a reader never sees half of it. Its checkpoint goes."""
        with whole(self.path(record.config)) as temporary, temporary.open("w") as file:
            file.write(_dump(record))
        self.checkpoint(record.config).unlink(missing_ok=True)

    def load(self, config: Config) -> Record | None:
        """The config's record; None where there is none, or where the file is none (a warning names it, once a store)."""
        return self._read(self.path(config))

    def has(self, config: Config) -> bool:
        """Whether there is a sound record of the config; of a damaged one this says nothing."""
        try:
            return bool(_sound(self.path(config)))
        except (FileNotFoundError, ValueError):
            return False

    def leftovers(self) -> dict[str, list[Path]]:
        """The temporary files by their run's hash: of writers at work, or that were killed."""
        found: dict[str, list[Path]] = {}
        for path in self.folder.glob("*.tmp"):
            found.setdefault(path.name.split(".")[0], []).append(path)
        return found

    def _read(self, path: Path) -> Record | None:
        try:
            return _sound(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            words = f"{path}: no sound record, left out as if it were not there ({error})"
            if words not in self._told:
                warnings.warn(words, stacklevel=3)
            self._told.add(words)
            return None

    def merge(self, folder: str | Path, others: Mapping[Path, Callable[[Path], list[Record]]] = MappingProxyType({})) -> Merged:
        """Takes over the records of another store that this one lacks; nothing of a file is executed.

        A run that both have stays as it is here; it is alike where every number but the time it took is equal. A file that is not
        a sound record of a finished run is refused with the reason: one line, cut short. others: files of several records, each
        with what reads it, which are taken whole or refused. NotADirectoryError for a folder that is none.
        """
        folder = Path(folder)
        _expect_folder(folder)
        merged = Merged([], [], [], {})
        for path, read in (dict.fromkeys(sorted(folder.glob("*.json")), lambda path: [_sound(path)]) | others).items():
            try:
                found = read(path)
                for theirs in found:
                    check(theirs)
            except (OSError, ValueError) as error:
                merged.refused[path] = in_short(str(error))[1:-1]
                continue
            for theirs in found:
                self._take(theirs, merged)
        return merged

    def _take(self, theirs: Record, merged: Merged) -> None:
        ours = self.load(theirs.config)
        if ours is None:
            self.save(theirs)
            merged.new.append(theirs)
        elif _outcome(ours) == _outcome(theirs):
            merged.alike.append(theirs)
        else:
            merged.differ.append((ours, theirs))

    def records(self) -> Iterator[Record]:
        """Every sound record of the store."""
        for path in sorted(self.folder.glob("*.json")):
            record = self._read(path)
            if record is not None:
                yield record

    def find(self, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Record]]:
        """The cells that have been run, with their records."""
        for cell in cells:
            record = self.load(cell.config)
            if record is not None:
                yield cell, record


def _expect_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(f"folder must be a folder of records; got {str(folder)!r}")


def _sound(path: Path) -> Record:
    """The record of a file; ValueError, or OSError, where it is not one."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than the {LARGEST} bytes that a record can have")
    try:
        record = _parse(content.decode())
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a record: {error!r}") from None
    if record.config.hash != path.stem:
        raise ValueError(f"it holds the run {record.config.hash}")
    return record


def _outcome(record: Record) -> str:
    """All that a run came to, as text: unlike ==, it takes NaN for NaN."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record.epochs]
    return json.dumps([record.diverged, record.provenance.get("data_fingerprint"), rows], sort_keys=True)


def first_difference(ours: Record, theirs: Record) -> str:
    """Where two records of a config part, in words: the epoch and the column."""
    for a, b in zip(ours.epochs, theirs.epochs, strict=False):  # a diverged one is shorter
        for name in a:
            if name != "seconds" and json.dumps(a[name]) != json.dumps(b.get(name)):
                return f"first apart at epoch {a['epoch']}, in {name}"
    return "of another length, or copy of the data"


def _dump(record: Record) -> str:
    """JSON with the columns of the epochs as lists, null for NaN, and a digest of all of it."""
    names = list(record.epochs[0])
    body = {
        "schema": SCHEMA,
        "config": record.config.to_dict(),
        "epochs": {name: [_plain(row[name]) for row in record.epochs] for name in names},
        "diverged": record.diverged,
        "provenance": record.provenance,
    }
    return json.dumps(body | {"sha256": _digest(body)}, allow_nan=False)


def _unlike_json(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each of whose names stands once: which of two counts would be the reader's choice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _parse(text: str) -> Record:
    body = json.loads(text, parse_constant=_unlike_json, object_pairs_hook=_once)
    digest = body.pop("sha256")
    if body["schema"] != SCHEMA:
        raise ValueError(f"schema {body['schema']}, expected {SCHEMA}")
    if digest != _digest(body):
        raise ValueError(f"checksum {_digest(body)}, expected {digest}")
    config = Config.from_dict(body["config"])
    columns = {name: [_number(value) for value in values] for name, values in body["epochs"].items()}
    missing = sorted({*COLUMNS, *MEASURES, *([SPLIT_COLUMN] if config.validation else [])} - set(columns))
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    epochs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Record(config, epochs, body["diverged"], body["provenance"])


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(v) for v in value]
    return math.nan if value is None else value
