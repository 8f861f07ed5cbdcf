"""Which published runs the present code might not make again: a gate between what decides a run and the pages that show it."""

import ast
import csv
import hashlib
import io
import tokenize
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from asym.results import Record

PACKAGE = Path(__file__).parent
# What a run's numbers come from. The data's own files are told by the run's data_fingerprint, whatever code reads them.
DECIDING = (
    "atomic.py",
    "checkpoint.py",
    "checks.py",
    "config.py",
    "data.py",
    "functional.py",
    "gemm.py",
    "kernels.py",
    "layers.py",
    "measures.py",
    "nets.py",
    "network.py",
    "recorded.py",
    "rules.py",
    "shapes.py",
    "stacked.py",
    "train.py",
    "untied.cpp",
    "untied.py",
)
EQUAL = PACKAGE / "versions.csv"


def _learned_wrongly(record: Record) -> bool:
    """A conv net on a GPU, before the padding of its averages was laid beforehand there (asym.nets.AvgPool2d)."""
    config = record.config
    return config.net != "dense" and config.pooling == "average" and record.provenance["device"].startswith("NVIDIA")


def _regularised_otherwise(record: Record) -> bool:
    """An untied net whose L2 and dropout were those of its tied layers too."""
    return record.config.net == "poggio_untied" and bool(record.config.l2 or record.config.dropout)


# From a version of the list on: which runs it does not make as those before it did, though it makes all others so.
SINCE = {"4303c0efd9d54940": (_learned_wrongly, _regularised_otherwise)}


@cache
def current() -> str:
    """16 hex digits over the text of the modules that decide a run, without comments, docstrings and blank lines."""
    return digest((name, (PACKAGE / name).read_text()) for name in DECIDING)


def digest(sources: Iterable[tuple[str, str]]) -> str:
    """The same of other texts, each with its file's name."""
    total = hashlib.sha256()
    for name, text in sources:
        total.update(f"{name}\n{_bare(text) if name.endswith('.py') else text}\n".encode())
    return total.hexdigest()[:16]


@cache
def equal() -> dict[str, str]:
    """The versions whose runs the present code makes again, with the reason: code digests, or commits of runs that tell none.

    They were compared with one another; code that is not among them has been compared with none, and has no equal.
    """
    with EQUAL.open(newline="") as file:
        compared = {row["version"]: row["because"] for row in csv.DictReader(file)}
    return compared if current() in compared else {}


def of(record: Record) -> str:
    """The version of the code that made a run: the digest it tells, else its commit."""
    return record.provenance.get("code") or record.provenance["commit"]


def stale(records: Iterable[Record]) -> list[Record]:
    """The runs that were made by a version neither current nor known to be equal to it, of such runs too."""
    known = list(equal())
    fresh = {current(), *known}
    before = {version: known[: known.index(version)] for version in SINCE if version in known}

    def changed(record: Record) -> bool:
        return any(of(record) in earlier and any(kind(record) for kind in SINCE[version]) for version, earlier in before.items())

    return [record for record in records if of(record) not in fresh or changed(record)]


def _bare(text: str) -> str:
    """The code alone. By positions, not by tokens or trees, which differ from one Python to the next."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            words = node.body[0]
            lines[words.lineno - 1 : words.end_lineno] = [""] * (words.end_lineno - words.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())
