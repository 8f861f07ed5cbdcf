"""Two pages over all questions: the nine verdicts, and the reader's own runs beside the published ones."""

from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from asym import claims, presets, tables, verify
from asym.numbered import Numbered, label
from asym.publication import library
from asym.quantities import Evidence
from asym.questions import QUESTIONS, cells
from asym.results import Store


def verdicts(figures: Path) -> list[dict]:
    """Of each question, in the original's order: its number and name, what it asks, the original's answer, our verdict, the
    figure that shows it, and its register, derived from the published runs."""
    nine = ((name, question) for name, question in QUESTIONS.items() if question.answer)
    found = []
    for number, (name, question) in enumerate(nine, 1):
        judged = verify.derive(name, figures)
        row = {"number": number, "name": name, "question": question.asks, "answer": question.answer}
        found.append(row | {"verdict": claims.verdict(judged), "figure": question.figure, "judged": judged})
    return found


def counted(questions: list[dict]) -> dict[str, str]:
    """How many claims there are of all questions, and how many of them are tested, for the prose."""
    verdicts = pd.concat([entry["judged"]["verdict"] for entry in questions])
    asked = verdicts[verdicts != ""]
    return {"claims_tested": str((asked != claims.UNTESTED).sum()), "claims_all": str(len(asked))}


def otherwise(questions: list[dict]) -> str:
    """What the questions would read, if that is something else, were every claim counted that has a verdict, in words."""
    every = ((entry, claims.verdict(entry["judged"].assign(answers=True))) for entry in questions)
    found = [f"question {entry['number']} would read “{verdict}”" for entry, verdict in every if verdict != entry["verdict"]]
    return ", ".join(found) or "no question would read otherwise"


def show_verdicts(questions: list[dict]) -> Numbered:
    """The nine questions with links to the pages and figures that answer them."""
    rows = [
        {
            "#": entry["number"],
            "question": _link(entry["question"], entry),
            "the original's answer": entry["answer"],
            "ours": f"**{entry['verdict']}**",
            "claims": claims.counted(entry["judged"], True),
            "beside them": claims.counted(entry["judged"], False),
            "evidence": f"{{numref}}`{entry['figure']}`",
        }
        for entry in questions
    ]
    caption = (
        "The original's nine answers, our verdict on each, the claims that the answer makes by their own verdicts, and those "
        "that stand beside them."
    )
    return Numbered(pd.DataFrame(rows), "tbl-verdicts", caption, "verdicts", markdown=("question", "ours", "evidence"))


def show_claims(questions: list[dict], word: str) -> Numbered | Markdown:
    """The claims that have a verdict, with their numbers, each with a link to its page."""
    having = [(entry, entry["judged"][entry["judged"]["verdict"] == word]) for entry in questions]
    lines = [{"page": _link(entry["name"], entry)} | line for entry, judged in having for line in claims.as_text(judged)]
    if not lines:
        return Markdown("None.")
    caption = (
        "Each claim, the original's value where it prints one, and ours: the mean over seeds with its 95 % t interval. A verdict "
        "in brackets has no part in its question's."
    )
    return claims.as_table(lines, f"tbl-verdicts-{word.replace(' ', '-')}", caption, ("unit", "seeds", "verdict"), ("page",))


def show_untested(questions: list[dict]) -> Numbered | Markdown:
    """How many claims of each question have no verdict yet, and the table that names them."""
    counts = [(entry, (entry["judged"]["verdict"] == claims.UNTESTED).sum()) for entry in questions]
    rows = [
        {"page": _link(entry["name"], entry), "claims": count, "named in": f"{{numref}}`{label(entry['name'], 'claims')}`"}
        for entry, count in counts
        if count
    ]
    if not rows:
        return Markdown("None.")
    caption = "How many claims of each page are not yet tested."
    return Numbered(pd.DataFrame(rows), "tbl-verdicts-untested", caption, "untested", markdown=("page", "named in"))


def _link(text: str, entry: dict) -> str:
    """To a question's page."""
    return f"[{text}]({entry['name']}.ipynb)"


def beside_published(figures: Path, preset: str, store: Store) -> pd.DataFrame:
    """Every number that both the store's runs of a preset and the published ones give; a published run that the store has taken
    over is none of its own.

    The columns of verify.compare, with the question, and agrees: whether the values do, within the tolerance, from however many
    seeds; empty without runs. ValueError lists the presets.
    """
    level, published, found = presets.load(preset), library(figures), []
    for name, question in QUESTIONS.items():
        asked = cells(name, level)
        theirs = [(cell, published[cell.config.hash]) for cell in asked if cell.config.hash in published]
        made_elsewhere = {cell.config.hash: record.provenance for cell, record in theirs}
        mine = [(cell, run) for cell, run in store.find(asked) if run.provenance != made_elsewhere.get(cell.config.hash)]
        sides = [claims.judge(question.claims, Evidence(runs)) for runs in (theirs, mine)]
        compared = verify.compare(*sides, on=["claim"]).dropna(subset=["value_published", "value_derived"])
        differs = compared["differs"].str.split(", ").map(set)
        found.append(compared.assign(question=name, agrees=~differs.map({"value"}.issubset).astype(bool)))
    return pd.concat(found, ignore_index=True)


def show_beside(compared: pd.DataFrame) -> Numbered:
    """Yours beside the published, a row a number."""
    rows = [
        {
            "question": entry["question"],
            "id": entry["claim"],
            "published": tables.points(entry["value_published"]),
            "yours": tables.points(entry["value_derived"]),
            "tolerance": f"{entry['tolerance']:.2f}",
            "agrees": "yes" if entry["agrees"] else "no",
        }
        for entry in compared.to_dict("records")
    ]
    return Numbered(pd.DataFrame(rows), "tbl-your-run", "Your numbers beside the published ones of the same preset.", "your-run")
