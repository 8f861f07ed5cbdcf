"""Two pages over all questions: the nine verdicts, and the reader's own runs beside the published ones."""

from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from asym import claims, presets, tables, verify
from asym.numbered import Numbered
from asym.quantities import Evidence
from asym.questions import QUESTIONS, cells
from asym.results import Store

SPOKEN = (claims.HOLDS, claims.CONTRADICTED, claims.OPEN, claims.UNTESTED)


def verdicts(figures: Path) -> pd.DataFrame:
    """One row a question, in the original's order: what it asks, the original's answer, our verdict, and the claims behind it by
    verdict, each derived from the published runs."""
    rows = []
    nine = {name: question for name, question in QUESTIONS.items() if question.answer}
    for number, (name, question) in enumerate(nine.items(), 1):
        judged = verify.derive(name, figures)
        ids = {word: list(judged.loc[judged["verdict"] == word, "claim"]) for word in SPOKEN}
        row = {"number": number, "name": name, "question": question.asks, "answer": question.answer}
        rows.append(row | {"verdict": claims.verdict(judged), "figure": question.figure} | ids)
    return pd.DataFrame(rows)


def show_verdicts(table: pd.DataFrame) -> Numbered:
    """The nine questions with links to the pages and figures that answer them."""
    rows = [
        {
            "#": entry["number"],
            "question": f"[{entry['question']}]({entry['name']}.ipynb)",
            "the original's answer": entry["answer"],
            "ours": f"**{entry['verdict']}**",
            "claims": ", ".join(f"{len(entry[word])} {word}" for word in SPOKEN if entry[word]),
            "evidence": f"{{numref}}`{entry['figure']}`",
        }
        for entry in table.to_dict("records")
    ]
    caption = "The original's nine answers, our verdict on each, and the claims behind it by their own verdicts."
    return Numbered(pd.DataFrame(rows), "tbl-verdicts", caption, "verdicts", markdown=("question", "ours", "evidence"))


def show_claims(table: pd.DataFrame, word: str) -> Numbered | Markdown:
    """The ids of the claims that have a verdict, by question."""
    rows = [{"question": entry["name"], "claims": ", ".join(entry[word])} for entry in table.to_dict("records") if entry[word]]
    if not rows:
        return Markdown("None.")
    name = f"tbl-verdicts-{word.replace(' ', '-')}"
    return Numbered(pd.DataFrame(rows), name, f"Claims with the verdict *{word}*, by question.", "ids")


def beside_published(figures: Path, preset: str, store: Store) -> pd.DataFrame:
    """Every number and claim that the store's runs of a preset give, beside the published one of the same preset.

    The columns of verify.compare, with the question; empty without runs. ValueError lists the presets.
    """
    level, found = presets.load(preset), []
    for name, question in QUESTIONS.items():
        mine = claims.judge(question.claims, Evidence(store.find(cells(name, level))))
        theirs = verify.derive(name, figures, preset)
        compared = verify.compare(theirs, mine, on=["claim"])
        found.append(compared.assign(question=name).dropna(subset="value_derived"))
    return pd.concat(found, ignore_index=True)


def show_beside(compared: pd.DataFrame) -> Numbered:
    """Yours beside the published, a row a number; a question's numbers that agree within their tolerance are counted."""
    rows = [
        {
            "question": entry["question"],
            "id": entry["claim"],
            "published": tables.points(entry["value_published"]),
            "yours": tables.points(entry["value_derived"]),
            "tolerance": f"{entry['tolerance']:.2f}",
            "agrees": "yes" if entry["matches"] else "no",
        }
        for entry in compared.to_dict("records")
    ]
    return Numbered(pd.DataFrame(rows), "tbl-your-run", "Your numbers beside the published ones of the same preset.", "your-run")
