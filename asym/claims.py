"""The register's entries: numbers and claims, each a quantity derived from stored runs, a claim with bounds and a verdict."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pandas as pd

from asym.frames import extremes, interval
from asym.numbered import Numbered
from asym.quantities import Evidence, Quantity, Value
from asym.tables import original, points, telling

HOLDS, CONTRADICTED, OPEN, UNTESTED = "holds", "contradicted", "not settled", "not yet tested"
SCALE = {"points": 100, "%": 100, "°": 180}  # an interval as wide tells nothing
# what a rerun may differ by beyond both its and the published interval: other processors, other chaos
RERUN = {"points": 5.0, "%": 35.0, "°": 15.0, "runs": 0.35, "": 0.5}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the book and the quantity behind it; with least or most, it holds if the quantity lies between them.

    published: the original's value, where its tables give one. The verdict: holds if the whole 95 % t interval over seeds lies
    within the bounds, contradicted if it lies outside, whatever stand-ins among the test images may have done to the values, else
    not settled; not yet tested where fewer than 3 seeds ran the planned data to the planned epoch. A sentence without bounds
    states a number, and has no verdict. answers: whether the original's answer says so; another sentence has its own verdict but
    no part in the question's.
    """

    id: str
    sentence: str
    quantity: Quantity
    least: float = -math.inf
    most: float = math.inf
    published: float = math.nan
    answers: bool = True

    @property
    def bounded(self) -> bool:
        return self.least > -math.inf or self.most < math.inf

    def derive(self, evidence: Evidence) -> dict:
        """The claim's row of the register."""
        values = list(self.quantity.of(evidence).values())
        numbers = pd.Series([value.value for value in values], dtype=float)
        mean, half = interval(numbers)
        lowest, highest = extremes(numbers, max((value.doubt for value in values), default=0.0))
        whole = bool(values) and all(value.whole for value in values)
        tested = whole and len(values) >= 3
        return {
            "claim": self.id,
            "sentence": self.sentence,
            "computed_from": self.quantity.text,
            "unit": self.quantity.unit,
            "original": self.published,
            "value": mean,
            "half_width": half,
            "seeds": len(values),
            "trained_on": _words(values),
            "whole": whole,
            "as_planned": tested,
            "least": self.least,
            "most": self.most,
            "lowest": lowest,
            "highest": highest,
            "tolerance": RERUN[self.quantity.unit],
            "answers": self.answers,
            "verdict": "" if not self.bounded else self._verdict(lowest, highest) if tested else UNTESTED,
        }

    def _verdict(self, lowest: float, highest: float) -> str:
        if self.least <= lowest and highest <= self.most:
            return HOLDS
        return CONTRADICTED if highest < self.least or lowest > self.most else OPEN


def told(entry: dict, sign: str = "") -> str:
    """An entry of the register as prose says it: mean ± half-width, signed with "+" if asked, or of how many runs; with a dagger
    where not all runs are of the planned data and epochs, else with an asterisk where they are of fewer than 3 seeds."""
    number = _number(entry, ".1f")
    if not number:
        return "(none yet)"
    plus = "" if number.startswith("-") else sign
    degrees = "°" if entry["unit"] == "°" else ""  # other units stand in the sentence
    return f"{plus}{number}{degrees}{_mark(entry)}"


def _number(entry: dict, form: str) -> str:
    if entry["unit"] == "runs" and entry["seeds"]:
        return f"{round(entry['value'] * entry['seeds'])} of {entry['seeds']}"
    return points(entry["value"], telling(entry["half_width"], SCALE.get(entry["unit"], math.inf)), form)


def _mark(entry: dict) -> str:
    return "" if entry["as_planned"] or not entry["seeds"] else "*" if entry["whole"] else "†"


def daggers(judged: pd.DataFrame) -> str:
    """On which data and for how long the nets behind the numbers with a dagger are trained, in words."""
    short = judged.loc[~judged["whole"] & (judged["seeds"] > 0), "trained_on"]
    runs = [text.removesuffix(" epochs").split(", ") for told in short for text in told.split("; ")]
    data, epochs = (" or ".join(dict.fromkeys(words[end] for words in runs)) for end in (0, -1))
    return f"{data} after {epochs} epochs" if runs else "nothing here"


def _words(values: list[Value]) -> str:
    """On which data, to which epoch."""
    return "; ".join(dict.fromkeys(f"{value.data}, {value.epochs} epochs" for value in values))


def printed(part: str, network: str, epoch: int | None = None, **fields: str) -> float:
    """The original's number of a cell (epoch None: the only or the last one); NaN where it prints none."""
    asked = {"network": network, **({"epochs": epoch} if epoch else {}), **fields}
    found = [row["accuracy_percent"] for row in _rows_of(part) if all(row[name] == value for name, value in asked.items())]
    return float(found[-1]) if found else math.nan


@cache
def _rows_of(part: str) -> list[dict]:
    return original(part).to_dict("records")


def judge(claims: Iterable[Claim], evidence: Evidence) -> pd.DataFrame:
    """Every claim derived from the runs: one row each, the columns of Claim.derive."""
    return pd.DataFrame([claim.derive(evidence) for claim in claims])


def as_text(judged: pd.DataFrame) -> list[dict]:
    """The lines of a table of claims: what each says, the original's value, ours with its interval and mark, what it was trained
    on, and the verdict, in brackets where the question's does not read it."""
    return [
        {
            "claim": entry["sentence"],
            "original": points(entry["original"]),
            "ours": _number(entry, ".2f" if entry["unit"] else ".2g") + _mark(entry),  # a ratio may be tiny
            "unit": entry["unit"],
            "seeds": entry["seeds"],
            "trained on": entry["trained_on"],
            "verdict": f"({entry['verdict']})" if entry["verdict"] and not entry["answers"] else entry["verdict"],
        }
        for entry in judged.to_dict("records")
    ]


def as_table(lines: list[dict], name: str, caption: str, said: tuple[str, ...], markdown: tuple[str, ...] = ()) -> Numbered:
    """Such lines as a table without empty columns; the caption tells what all runs were trained on, the rows what else."""
    rows = pd.DataFrame(lines)
    told = [[words.split(", ") for words in text.split("; ")] for text in rows["trained on"]]  # of a row, on each of its data
    every = [words for row in told for words in row if words != [""]]
    common = [word for word in every[0] if all(word in words for words in every)] if every else []
    rows["trained on"] = ["; ".join(", ".join(word for word in words if word not in common) for words in row) for row in told]
    caption += f" In all runs: {', '.join(common)}." if common else ""
    return Numbered(rows.loc[:, (rows != "").any()], name, caption, "claims", markdown, said)


def verdict(judged: pd.DataFrame) -> str:
    """The question's verdict from those of the claims that the original's answer makes: holds or contradicted, "where settled" if
    the others are not settled; holds in part if some hold and some are contradicted; not settled; "so far" where some are not yet
    tested; not yet tested where none is."""
    verdicts = _verdicts(judged, True)
    known = verdicts[verdicts != UNTESTED]
    if not len(known):
        return UNTESTED
    found = [kind for kind in (HOLDS, CONTRADICTED) if (known == kind).any()]
    settled = f"{HOLDS} in part" if len(found) == 2 else found[0] if found else OPEN
    where = " where settled" if len(found) == 1 and (known == OPEN).any() else ""
    return f"{settled}{where}" + ("" if len(known) == len(verdicts) else " so far")


def summary(judged: pd.DataFrame) -> str:
    """How many of the claims that the question's verdict reads have which verdict, in words; and how many of the others."""
    mine, others = counted(judged, True), counted(judged, False)
    return f"of the answer's claims {mine}; of the others {others}" if others else f"of the claims {mine}"


def settled(judged: pd.DataFrame) -> str:
    """How many of the claims that the original's answer makes are settled, and how many are tested."""
    verdicts = _verdicts(judged, True)
    found = verdicts.isin([HOLDS, CONTRADICTED]).sum()
    return f"{found} of {len(verdicts)} claims settled, {(verdicts != UNTESTED).sum()} tested"


def counted(judged: pd.DataFrame, answers: bool) -> str:
    """How many of the claims that the original's answer makes, or of the others, have which verdict."""
    counts = _verdicts(judged, answers).value_counts()
    words = {kind: "hold" if kind == HOLDS and count > 1 else kind for kind, count in counts.items()}
    return ", ".join(f"{counts[kind]} {words[kind]}" for kind in (HOLDS, CONTRADICTED, OPEN, UNTESTED) if kind in counts)


def _verdicts(judged: pd.DataFrame, answers: bool) -> pd.Series:
    """Of the claims that the original's answer makes, or of the others."""
    return judged.loc[(judged["verdict"] != "") & (judged["answers"] == answers), "verdict"]
