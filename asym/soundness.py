"""What makes a run's record sound, whose file may come from anywhere: every column, its kind and its bounds."""

import math
from typing import Any

from asym.checks import expect, is_number, is_whole
from asym.measures import MEASURES

COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds")
PROVENANCE = {"seconds": (int, float), "device": str, "threads": int, "commit": str, "torch": str, "data_note": str}  # at least
TOLD = {"code": str, "data_fingerprint": str}  # of their kinds, where they are told
SPLIT_COLUMN = "validation_accuracy"  # of runs that hold images out, and of no others
BOUNDS = {name: (0, 1) for name in ("train_accuracy", "test_accuracy", SPLIT_COLUMN, "sign_agreement", "idle")}
BOUNDS |= {name: (0, 180) for name in ("weight_angle", "delta_angle", "gradient_angle")}
NUMBERS = {int, float}  # the types of what a row holds; NaN where there is none
NONNEGATIVE = ("train_loss", "seconds", "feedback_ratio", "drift")


def check(record: "Record") -> None:  # noqa: F821, its class is made of what is here
    """ValueError where a record's parts are not of their kinds or in their bounds, or do not tell of a whole run."""
    check_kinds(record)
    numbers = [row["epoch"] for row in record.epochs]
    last = len(numbers) - 1 if record.diverged else record.config.epochs
    whole = 0 <= last <= record.config.epochs and len(numbers) == last + 1  # before a list as long as a file asks for
    expect("epoch", numbers, whole and numbers == list(range(last + 1)), f"0 to {last}, one row each")
    for row in record.epochs:
        for name, value in row.items():
            low, high = BOUNDS.get(name, (0 if name in NONNEGATIVE else -math.inf, math.inf))
            values = value if isinstance(value, list) else [value]
            expect(name, value, all(is_number(v) and low <= v <= high or v != v for v in values), f"in {low}..{high}")
        for name in row.keys() & {"test_accuracy", SPLIT_COLUMN, "seconds"}:
            expect(name, row[name], row[name] == row[name], "a number in every row")


def check_kinds(record: "Record") -> None:  # noqa: F821
    """ValueError where a record's parts are not of their kinds, whatever the numbers say."""
    expect("diverged", record.diverged, isinstance(record.diverged, bool), "true or false")
    layers, plain = record.config.layers, [*COLUMNS, *([SPLIT_COLUMN] if record.config.validation else [])]
    columns = {*plain, *MEASURES}
    allowed, listed = ", ".join(sorted(columns)), f"a list of {layers} numbers"
    for row in record.epochs:
        expect("columns", sorted(row), row.keys() == columns, allowed)
        expect("epoch", row["epoch"], is_whole(row["epoch"], 0), "a whole number")
        for name in plain:
            expect(name, row[name], type(row[name]) in NUMBERS, "a number")
        for name in MEASURES:
            values = row[name]
            sound = isinstance(values, list) and len(values) == layers and NUMBERS.issuperset(map(type, values))
            expect(name, values, sound, listed)
    _check_provenance(record.provenance)


def _check_provenance(provenance: Any) -> None:
    """Names and plain values, which a page or a terminal may show."""
    expect("provenance", provenance, isinstance(provenance, dict), "a mapping")
    for name, value in provenance.items():
        plain = isinstance(value, str) and value.isprintable() or value is None or isinstance(value, bool) or is_number(value)
        expect(f"provenance {name}", value, plain, "a printable text, a finite number, true, false or null")
    for name, kind in (PROVENANCE | {name: kind for name, kind in TOLD.items() if name in provenance}).items():
        value = provenance.get(name)
        expect(f"provenance {name}", value, isinstance(value, kind) and not isinstance(value, bool), "of its kind")
