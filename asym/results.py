"""The run store: one file a run, written whole or not at all; and the tidy tables made from it."""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from asym.config import Config
from asym.measures import MEASURES
from asym.questions import Cell

SCHEMA = 1
COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds")


@dataclass(frozen=True)
class Record:
    """A finished run: its config, one row an epoch, whether it diverged, and where it came from."""

    config: Config
    epochs: list[dict[str, Any]]
    diverged: bool
    provenance: dict[str, Any]


class Store:
    """A folder of records, `<config hash>.json`; $ASYM_RUNS or ./runs unless given."""

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder or os.environ.get("ASYM_RUNS") or "runs")

    def path(self, config: Config) -> Path:
        return self.folder / f"{config.hash}.json"

    def save(self, record: Record) -> None:
        """Writes the record under a temporary name, then renames it: a reader never sees half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(record.config)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("w") as file:
                file.write(_dump(record))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

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
    columns = {name: [_number(value) for value in values] for name, values in body["epochs"].items()}
    missing = sorted({*COLUMNS, *MEASURES} - set(columns))
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    epochs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Record(Config.from_dict(body["config"]), epochs, body["diverged"], body["provenance"])


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


# --- published runs -------------------------------------------------------------------------------------------------------------


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
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pd.DataFrame(rows).to_parquet(temporary, index=False, compression="zstd")
    temporary.replace(path)


def published(path: Path) -> list[Record]:
    """The runs of a published Parquet file; an empty list where there is none."""
    if not path.exists():
        return []
    records = []
    for _, rows in pd.read_parquet(path).groupby("run", sort=True):
        first = rows.iloc[0]
        columns = rows.drop(columns=["run", "config", "diverged", "provenance"])
        epochs = [{k: v.tolist() if k in MEASURES else v for k, v in row.items()} for row in columns.to_dict("records")]
        config = Config.from_dict(json.loads(first["config"]))
        records.append(Record(config, epochs, bool(first["diverged"]), json.loads(first["provenance"])))
    return records


# --- tidy tables ----------------------------------------------------------------------------------------------------------------


def frame(found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row a run and epoch: the cell's names, the config's fields that a figure may group by, and the epoch's numbers."""
    rows = [_names(cell) | {k: row[k] for k in COLUMNS} | {"diverged": record.diverged}
            for cell, record in found for row in record.epochs]  # fmt: skip
    return pd.DataFrame(rows)


def layer_frame(found: Iterable[tuple[Cell, Record]]) -> pd.DataFrame:
    """One row a run, epoch and layer (counted from 1, input to output) with the measures of asym.measures."""
    rows = []
    for cell, record in found:
        for row in record.epochs:
            for layer, values in enumerate(zip(*(row[m] for m in MEASURES), strict=True)):
                rule = cell.config.rules[layer]
                rows.append(_names(cell) | {"epoch": row["epoch"], "layer": layer + 1, "layer_rule": rule}
                            | dict(zip(MEASURES, values, strict=True)))  # fmt: skip
    return pd.DataFrame(rows)


def _names(cell: Cell) -> dict[str, Any]:
    config = cell.config
    return {
        "part": cell.part,
        "network": cell.network,
        "rule": config.rules[-1],
        "layers": config.layers,
        "activation": config.activation,
        "loss": config.loss,
        "optimizer": config.optimizer,
        "dataset": config.dataset,
        "seed": config.seed,
    }


def at_epoch(runs: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Each run's row at the epoch; a run that diverged before it stands with its last row."""
    before = runs[runs["epoch"] <= epoch]
    latest = before.loc[before.groupby(["part", "network", "loss", "activation", "optimizer", "seed"])["epoch"].idxmax()]
    return latest[(latest["epoch"] == epoch) | latest["diverged"]]


def interval(values: pd.Series) -> tuple[float, float]:
    """The mean and the half-width of its 95 % t interval over seeds; NaN half-width for fewer than two."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
