"""Presets: how much of each question is run. One YAML file a level; any value can be overridden by name."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from asym.cells import Cell
from asym.checks import expect, is_whole
from asym.config import NETS, Config

FOLDER = Path(__file__).parent / "presets"
PRESETS = ("smoke", "quick", "cpu", "bf16", "paper")
SCALE = ("subset", "test_subset", "epochs", "batch", "seeds", "precision")  # what a net or a question may have of its own
SELECTION = ("parts", "losses")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """preset: its name; dataset; subset, test_subset: first n images (None: all); epochs: at most so many (None: the plan's);
    batch, precision (None: the plan's); seeds: one run of every cell for each; unverified_data: accept files whose checksum is
    not the published one. nets: values that a kind of net has of its own; questions: values of a question, which go before those
    of a net, the parts and losses of it that are run (all without), and nets of its own, which go before everything."""

    preset: str
    dataset: str
    subset: int | None
    epochs: int | None
    seeds: tuple[int, ...]
    test_subset: int | None = None
    batch: int | None = None
    precision: str | None = None
    unverified_data: bool = False
    nets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    questions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        expect("preset", self.preset, isinstance(self.preset, str), "a name")
        _mapping("nets", self.nets, SCALE, NETS)
        _mapping("questions", self.questions, (*SCALE, *SELECTION, "nets"))
        own = [values.get("nets", {}) for values in self.questions.values()]
        for nets in own:
            _mapping("nets", nets, SCALE, NETS)
        of_nets = [values for nets in (self.nets, *own) for values in nets.values()]
        for values in (self._base(), *of_nets, *self.questions.values()):
            self._check(self._base() | dict(values))
        object.__setattr__(self, "seeds", tuple(self.seeds))

    def cells(self, question: str, plan: list[Cell]) -> list[Cell]:
        """The plan's cells at this level, seeds outermost: an interrupted grid is a whole table with fewer seeds."""
        asked = [(*(cell.of or (question, cell.part)), cell) for cell in plan]
        chosen = [
            (cell, self._scale(of, cell.config.net)) for of, part, cell in asked if self._selects(of, part, cell.config.loss)
        ]
        seeds = list(dict.fromkeys(seed for _, scale in chosen for seed in scale["seeds"]))
        return [self._scaled(cell, scale, seed) for seed in seeds for cell, scale in chosen if seed in scale["seeds"]]

    def _base(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SCALE}

    def _scale(self, question: str, net: str) -> dict[str, Any]:
        own = self.questions.get(question, {})
        scale = {name: value for name, value in own.items() if name in SCALE}
        return self._base() | dict(self.nets.get(net, {})) | scale | dict(own.get("nets", {}).get(net, {}))

    def _selects(self, question: str, part: str, loss: str) -> bool:
        own = self.questions.get(question, {})
        return part in own.get("parts", [part]) and loss in own.get("losses", [loss])

    def _scaled(self, cell: Cell, scale: dict[str, Any], seed: int) -> Cell:
        plan = cell.config
        shorter = lambda epochs: epochs if scale["epochs"] is None else min(epochs, scale["epochs"])
        batch = scale["batch"] or plan.batch
        fifth = plan.validation if scale["subset"] is None else scale["subset"] // 5  # held back of a level's few images
        config = replace(
            plan,
            dataset=plan.dataset if self.dataset == "cifar10" else self.dataset,  # a plan's CIFAR-100 beside its CIFAR-10
            subset=scale["subset"],
            test_subset=scale["test_subset"],
            unverified_data=self.unverified_data,
            epochs=shorter(plan.epochs),
            pretrained=shorter(plan.pretrained),
            validation=min(plan.validation, fifth),
            batch=batch,
            precision=scale["precision"] or plan.precision,
            seed=seed,
        )
        return replace(cell, config=config, plan=plan)

    def _check(self, scale: dict[str, Any]) -> None:
        """Config knows what it allows."""
        seeds = scale["seeds"]
        sound = isinstance(seeds, list | tuple) and seeds and all(is_whole(s, 0) for s in seeds)
        expect("seeds", seeds, sound and len(set(seeds)) == len(seeds), "a list of whole numbers, at least one and all different")
        data = {"dataset": self.dataset, "unverified_data": self.unverified_data}
        data |= {name: scale[name] for name in ("subset", "test_subset")}
        defaults = {"epochs": 1, "batch": Config.batch, "precision": Config.precision}
        data |= {name: scale[name] if scale[name] is not None else default for name, default in defaults.items()}
        for seed in seeds:
            Config(rules=("bp",), seed=seed, **data)


def load(preset: str, **overrides: Any) -> Preset:
    """The named preset with the given values in place of its own, for every net and question; None leaves the preset's.

    ValueError lists the presets, or the parameters, that exist.
    """
    expect("preset", preset, isinstance(preset, str) and preset in PRESETS, f"one of {', '.join(PRESETS)}")
    allowed = [f.name for f in fields(Preset)]
    unknown = sorted(set(overrides) - set(allowed))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    given = {name: value for name, value in overrides.items() if value is not None}
    level = Preset(**_read(FOLDER / f"{preset}.yaml"))
    return replace(level, **{"nets": _without(level.nets, given), "questions": _without(level.questions, given)} | given)


def _without(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those names, however deep they stand."""
    return {k: _without(v, names) if isinstance(v, Mapping) else v for k, v in values.items() if k not in names}


def _mapping(name: str, value: Any, allowed: tuple[str, ...], names: tuple[str, ...] | None = None) -> None:
    """A mapping of mappings with the allowed names."""
    sound = isinstance(value, Mapping) and all(isinstance(own, Mapping) and set(own) <= set(allowed) for own in value.values())
    of = f"for {', '.join(names)}" if names else "by question"
    named = sound and all(isinstance(key, str) and (names is None or key in names) for key in value)
    expect(name, value, named, f"values {of}, of {', '.join(allowed)}")
    for own in value.values():
        for key in own.keys() & set(SELECTION):
            listed = isinstance(own[key], list | tuple) and own[key] and all(isinstance(entry, str) for entry in own[key])
            expect(key, own[key], listed, "a list of names")


def _read(path: Path) -> dict[str, Any]:
    """The values of a preset's file; ValueError names it if a value lacks, or if one is not a preset's."""
    needed = {f.name for f in fields(Preset) if f.default is MISSING and f.default_factory is MISSING}
    allowed = {f.name for f in fields(Preset)}
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict) or not needed <= set(values) <= allowed:
        found = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        raise ValueError(f"{path}: a preset gives {', '.join(sorted(needed))}, each a value; got {found}")
    return values
