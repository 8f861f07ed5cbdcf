"""A table as a page shows it: numbered and captioned in the book, plain in a notebook."""

import re
from dataclasses import dataclass

import pandas as pd
from markdown_it import MarkdownIt

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|$~#])")  # what Markdown would read as its own
ROLE = re.compile(r"\{[\w:]+\}`([^`]*)`")  # of the book alone: a notebook shows what it names
NUMBER = re.compile(r"[+-]?\d[\d.e-]*( ± [\d.e-]+)?( %)?[*†]?")


def label(question: str, table: str) -> str:
    """What `numref` refers to a table of a question's page by."""
    return f"tbl-{question}-{table}".replace("_", "-")


@dataclass(frozen=True)
class Numbered:
    """A table with a caption.

    rows: one a line, shown as text; name: what `numref` refers to it by; caption: in Markdown; kind: its CSS class;
    markdown: columns whose text is Markdown already; said: columns that the caption tells where all rows have one value, if they
    are there.
    """

    rows: pd.DataFrame
    name: str
    caption: str
    kind: str
    markdown: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        return f"~~~{{table}} {self._captioned()}\n:name: {self.name}\n:class: {self.kind}\n\n{self._lines()}\n~~~\n"

    def _repr_html_(self) -> str:
        text = ROLE.sub(r"\1", f"{self._captioned()}\n\n{self._lines()}")
        return MarkdownIt("commonmark").enable("table").render(text)

    def _constant(self) -> dict[str, str]:
        """The columns that the caption tells, with the one value of each."""
        columns = (name for name in self.said if name in self.rows and len(self.rows) > 1 and self.rows[name].nunique() == 1)
        return {name: str(self.rows[name].iloc[0]) for name in columns}

    def _captioned(self) -> str:
        told = ", ".join(f"{name} {_escaped(value)}" for name, value in self._constant().items() if value)
        return f"{self.caption} In every row: {told}." if told else self.caption

    def _lines(self) -> str:
        """The rows in the pipe form of Markdown, numbers to the right."""
        rows = self.rows.drop(columns=list(self._constant())).astype(str)
        sides = ["---:" if all(not text or NUMBER.fullmatch(text) for text in rows[name]) else ":---" for name in rows]
        plain = rows.apply(lambda column: column if column.name in self.markdown else column.map(_escaped))
        lines = [list(map(_escaped, rows.columns)), sides, *plain.to_numpy().tolist()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)
