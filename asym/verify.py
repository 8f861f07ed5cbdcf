"""The claims register: what the book publishes, derived again from stored or retrained runs."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from asym import claims, grid
from asym.atomic import whole
from asym.presets import load
from asym.publication import library, shown
from asym.quantities import Evidence
from asym.questions import cells, find
from asym.results import Store

REGISTERS = {"": "claims.csv", "quick": "claims-quick.csv"}  # of the runs a page shows; of the quick preset's alone
PRECISION = "%.6g"
ROUNDING = 1e-5  # relative, of a number so written
OTHERS = (
    "computed_from",
    "unit",
    "original",
    "half_width",
    "seeds",
    "trained_on",
    "whole",
    "as_planned",
    "answers",
    "least",
    "most",
    "lowest",
    "highest",
    "tolerance",
)  # beside what is always compared


def derive(question: str, figures: Path, level: str = "") -> pd.DataFrame:
    """The question's register from its published runs: those that its page shows, or those of one level."""
    chosen = shown(question, library(figures), *([[level]] if level else []))
    return claims.judge(find(question).claims, Evidence(chosen.found))


def write(question: str, figures: Path, output: Path) -> pd.DataFrame:
    """Writes both registers of a question, and returns the first."""
    derived = {level: derive(question, figures, level) for level in REGISTERS}
    for level, name in REGISTERS.items():
        with whole(output / name) as part:
            derived[level].to_csv(part, index=False, float_format=PRECISION)
    return derived[""]


def register(question: str, figures: Path, level: str = "") -> pd.DataFrame:
    """The published register of a question; FileNotFoundError where it has none."""
    path = figures / question / REGISTERS[level]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no register there; the page's notebook writes it (make render)")
    truth = dict.fromkeys(("whole", "as_planned", "answers"), {"True": True, "False": False}.get)
    return pd.read_csv(path, keep_default_na=False, na_values={"value": [""]} | _NUMBERS, converters=truth)


_NUMBERS = {name: [""] for name in ("original", "half_width", "least", "most", "lowest", "highest", "tolerance")}


def check(question: str, figures: Path) -> pd.DataFrame:
    """Every entry of the published registers beside the one derived anew from the published runs, all its columns compared."""
    derived = pd.concat([derive(question, figures, level).assign(register=name) for level, name in REGISTERS.items()])
    stored = pd.concat([register(question, figures, level).assign(register=name) for level, name in REGISTERS.items()])
    return compare(stored, derived, on=["register", "claim"], others=OTHERS, within=_rounding(stored["value"]))


def rerun(question: str, figures: Path, folder: Path, **machine) -> pd.DataFrame:
    """Retrains the question's quick runs into the folder; their numbers beside the published, within the tolerance of a rerun."""
    wanted, store = cells(question, load("quick")), Store(folder)
    grid.run((cell.config for cell in wanted), store, **machine)
    derived = claims.judge(find(question).claims, Evidence(store.find(wanted)))
    return compare(register(question, figures, "quick"), derived, on=["claim"])


def compare(
    published: pd.DataFrame,
    derived: pd.DataFrame,
    on: list[str],
    others: tuple[str, ...] = (),
    within: pd.Series | None = None,
) -> pd.DataFrame:
    """One row for every entry of either: published and derived value, tolerance, verdicts, the columns that differ, and whether
    none does: of sentence, value, verdict, and others.

    A value may differ by `within`; unless given, as the mean of other runs may: by the declared tolerance beyond what the two
    intervals allow, the root of the sum of their half-widths' squares. A number that neither has matches; one that only one has
    does not.
    """
    columns = ["sentence", "value", "verdict", *others]
    taken = list(dict.fromkeys([*on, *columns, "half_width"]))
    theirs = published[taken].assign(within=published["tolerance"] if within is None else within)
    both = theirs.merge(derived[taken], on=on, how="outer", suffixes=("_published", "_derived"))
    both = both.rename(columns={"within": "tolerance"})
    if within is None:
        both["tolerance"] += np.hypot(both["half_width_published"].fillna(0), both["half_width_derived"].fillna(0))
    same = pd.DataFrame({name: _same(both, name) for name in columns})
    differs = [", ".join(same.columns[~row]) for row in same.to_numpy()]
    return both.assign(differs=differs, matches=same.all(axis=1))


def _same(both: pd.DataFrame, name: str) -> pd.Series:
    a, b = both[f"{name}_published"], both[f"{name}_derived"]
    equal = (a == b) | (a.isna() & b.isna())
    numbers = [pd.api.types.is_numeric_dtype(side) and not pd.api.types.is_bool_dtype(side) for side in (a, b)]
    if not all(numbers):
        return equal
    gap = (a - b).abs()
    return equal | ((gap < math.inf) & (gap <= (both["tolerance"] if name == "value" else _rounding(a))))


def _rounding(numbers: pd.Series) -> pd.Series:
    """What a number may lose by being written, and a little for zeros made of many terms."""
    return ROUNDING * numbers.abs() + 1e-9
