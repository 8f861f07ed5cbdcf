"""The research questions: which runs answer each. A new question is one function and one entry in QUESTIONS."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from asym.config import Config, last
from asym.presets import Preset

SHALLOW = (512, 256)
DEEP = (512, 512, 256, 256)
SWEEP_RULES = ("bp", "fa", "shared_update", "kp", "dfa")
SWEEP_DEPTHS = tuple(range(2, 9))
SWEEP_WIDTH = 256
SWEEP_EPOCHS = 100
KP_DECAY = 1.0  # with Adam's 1e-3, W - B loses 0.1 % a step: 10 % a CIFAR epoch


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table or one point of a figure: the network's printed name, and its run for one seed."""

    part: str
    network: str
    config: Config


def _named(prefix: str, name: str, layers: int) -> tuple[str, ...]:
    """The rules of a network named in the original's notation: DS0, DSR2, DDR4-U."""
    if name == f"{prefix}0":
        return last("bp", 0, layers)
    count = int(name.removeprefix(f"{prefix}R").removesuffix("-U"))
    return last("shared_update" if name.endswith("-U") else "fa", count, layers)


def _table(part: str, prefix: str, counts: tuple[int, ...], hidden: tuple[int, ...], epochs: int) -> Iterator[Cell]:
    """A table of dense nets in the original's order: both losses, the control, R, then R*."""
    names = [f"{prefix}0", *(f"{prefix}R{n}" for n in counts), *(f"{prefix}R{n}-U" for n in counts)]
    for loss in ("ce", "hinge"):
        for name in names:
            # the original trained its deep control for 100 epochs only; here it gets the budget of the nets beside it
            config = Config(hidden=hidden, rules=_named(prefix, name, len(hidden) + 1), loss=loss, epochs=epochs)
            yield Cell(part=part, network=name, config=config)


def _dense() -> Iterator[Cell]:
    yield from _table("table 2", "DS", (1, 2), SHALLOW, 100)


def _depth() -> Iterator[Cell]:
    yield from _table("table 4", "DD", (1, 2, 4), DEEP, 200)
    for depth in SWEEP_DEPTHS:
        for rule in SWEEP_RULES:
            hidden = (SWEEP_WIDTH,) * (depth - 1)
            decay = KP_DECAY if rule == "kp" else 0.0
            config = Config(hidden=hidden, rules=last(rule, depth - 1, depth), epochs=SWEEP_EPOCHS, weight_decay=decay)
            yield Cell(part="sweep", network=f"{depth} layers, {rule}", config=config)


QUESTIONS = {"dense": _dense, "depth": _depth}


def cells(question: str, preset: Preset) -> list[Cell]:
    """Every run of a question at a preset, seeds outermost, so that an interrupted grid is a whole table with fewer seeds.

    ValueError lists the questions.
    """
    if question not in QUESTIONS:
        raise ValueError(f"question must be one of {', '.join(QUESTIONS)}; got {question!r}")
    found = []
    for seed in preset.seeds:
        for cell in QUESTIONS[question]():
            epochs = cell.config.epochs if preset.epochs is None else min(preset.epochs, cell.config.epochs)
            data = {"dataset": preset.dataset, "subset": preset.subset, "unverified_data": preset.unverified_data}
            found.append(replace(cell, config=replace(cell.config, epochs=epochs, seed=seed, **data)))
    return found
