"""The run store: one file a run, written whole or not at all."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asym.cells import Cell
from asym.config import Config
from asym.measures import MEASURES

SCHEMA = 1
COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds")
SPLIT_COLUMN = "validation_accuracy"  # of runs that hold images out, and of no others


@dataclass(frozen=True)
class Record:
    """A finished run: its config, one row an epoch, whether it diverged, and where it came from."""

    config: Config
    epochs: list[dict[str, Any]]
    diverged: bool
    provenance: dict[str, Any]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside the path, which takes its place when the block ends well, and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """A folder of records, `<config hash>.json`; $ASYM_RUNS or ./runs unless given."""

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("ASYM_RUNS") or "runs")

    def path(self, config: Config) -> Path:
        return self.folder / f"{config.hash}.json"

    def save(self, record: Record) -> None:
        """Writes the record under a temporary name, then renames it: a reader never sees half of it."""
        with whole(self.path(record.config)) as temporary, temporary.open("w") as file:
            file.write(_dump(record))
            file.flush()
            os.fsync(file.fileno())

    def load(self, config: Config) -> Record | None:
        """The config's record; None where there is none, or where it is damaged (a warning names it: it will be run again)."""
        return self._read(self.path(config))

    def _read(self, path: Path) -> Record | None:
        try:
            record = _parse(path.read_text())
            if record.config.hash != path.stem:
                raise ValueError(f"it holds the run {record.config.hash}")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"{path}: damaged record, left out and to be run again ({error})", stacklevel=3)
            return None
        return record

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


def _parse(text: str) -> Record:
    body = json.loads(text)
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
