"""The research questions: the runs behind each, and what they are to show. A new question is one module and one line here."""

from dataclasses import dataclass

from asym.cells import Cell
from asym.checks import expect
from asym.claims import Claim
from asym.presets import Preset
from asym.questions import (
    b_updates,
    beat_bp,
    clipping,
    conv_dense_head,
    dense,
    depth,
    literature,
    multilayer,
    untied_conv,
    untied_feedback,
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question of the book: its words, the original's own answer, the figure to look at first, its planned cells and claims."""

    asks: str
    answer: str
    figure: str
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]


def _question(module) -> Question:
    return Question(
        asks=module.ASKS,
        answer=module.ANSWER,
        figure=module.FIGURE,
        cells=tuple(module.cells()),
        claims=tuple(module.claims()),
    )


QUESTIONS = {
    module.__name__.rpartition(".")[2]: _question(module)
    for module in (
        dense,
        depth,
        multilayer,
        conv_dense_head,
        untied_conv,
        untied_feedback,
        clipping,
        b_updates,
        beat_bp,
        literature,
    )
}  # in the order of the original's nine questions; then what it did not ask, without an answer of its own


def find(question: str) -> Question:
    """The question of a name; ValueError lists the names."""
    if question not in QUESTIONS:
        raise ValueError(f"question must be one of {', '.join(QUESTIONS)}; got {question!r}")
    return QUESTIONS[question]


def cells(question: str, preset: Preset) -> list[Cell]:
    """Every run of a question at a preset, seeds outermost; ValueError lists the questions, parts or losses that there are, where
    the preset names others."""
    plan = find(question).cells
    for name, own in preset.questions.items():
        theirs = [cell for cell in find(name).cells if cell.of is None]  # the others are selected where they are at home
        for kind, there in (("parts", [cell.part for cell in theirs]), ("losses", [cell.config.loss for cell in theirs])):
            chosen = own.get(kind, ())
            expect(f"{kind} of {name}", chosen, set(chosen) <= set(there), f"among {', '.join(map(repr, dict.fromkeys(there)))}")
    return preset.cells(question, plan)
