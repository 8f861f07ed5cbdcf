"""The claims register: what the book publishes, derived again from stored or retrained runs."""

from pathlib import Path

import pandas as pd

from asym import claims, grid
from asym.presets import load
from asym.publication import library, shown
from asym.quantities import Evidence
from asym.questions import cells, find
from asym.results import Store

REGISTERS = {"": "claims.csv", "quick": "claims-quick.csv"}  # of the runs a page shows; of the quick preset's alone
PRECISION = "%.6g"


def derive(question: str, figures: Path, level: str = "") -> pd.DataFrame:
    """The question's register from its published runs: those that its page shows, or those of one level."""
    chosen = shown(question, library(figures), *([[level]] if level else []))
    return claims.judge(find(question).claims, Evidence(chosen.found))


def write(question: str, figures: Path, output: Path) -> pd.DataFrame:
    """Writes both registers of a question, and returns the first."""
    output.mkdir(parents=True, exist_ok=True)
    derived = {level: derive(question, figures, level) for level in REGISTERS}
    for level, name in REGISTERS.items():
        derived[level].to_csv(output / name, index=False, float_format=PRECISION)
    return derived[""]


def register(question: str, figures: Path, level: str = "") -> pd.DataFrame:
    """The published register of a question; FileNotFoundError where it has none."""
    return pd.read_csv(figures / question / REGISTERS[level], keep_default_na=False, na_values={"value": [""]} | _NUMBERS)


_NUMBERS = {name: [""] for name in ("original", "half_width", "least", "most", "tolerance")}


def check(question: str, figures: Path) -> pd.DataFrame:
    """Every number and claim of the published register beside the one derived anew from the published runs."""
    derived = pd.concat([derive(question, figures, level).assign(register=name) for level, name in REGISTERS.items()])
    stored = pd.concat([register(question, figures, level).assign(register=name) for level, name in REGISTERS.items()])
    stored["tolerance"] = claims.ROUNDING
    return compare(stored, derived, on=["register", "claim"])


def rerun(question: str, figures: Path, folder: Path, **machine) -> pd.DataFrame:
    """Retrains the question's quick runs into the folder; their numbers beside the published, within the declared tolerance."""
    wanted, store = cells(question, load("quick")), Store(folder)
    grid.run((cell.config for cell in wanted), store, **machine)
    derived = claims.judge(find(question).claims, Evidence(store.find(wanted)))
    return compare(register(question, figures, "quick"), derived, on=["claim"])


def compare(published: pd.DataFrame, derived: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """One row for every entry of either: published and derived value, tolerance, verdicts, and whether they match.

    A number that neither has matches; one that only one has does not.
    """
    columns = [*on, "sentence", "value", "verdict"]
    both = published[[*columns, "tolerance"]].merge(derived[columns], on=on, how="outer", suffixes=("_published", "_derived"))
    gap = (both["value_published"] - both["value_derived"]).abs()
    neither = both["value_published"].isna() & both["value_derived"].isna()
    same_claim = both["sentence_published"] == both["sentence_derived"]
    same_verdict = both["verdict_published"] == both["verdict_derived"]
    return both.assign(matches=same_claim & same_verdict & ((gap <= both["tolerance"]) | neither))
