"""Presets: how much of a question is run. One YAML file a level; any value can be overridden by name."""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from asym.config import Config

FOLDER = Path(__file__).parent / "presets"
PRESETS = ("smoke", "quick", "cpu", "paper")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """preset: its name; dataset; subset: first n training images (None: all); epochs: at most so many (None: the original's);
    seeds: one run of every cell for each; unverified_data: accept files whose checksum is not the published one."""

    preset: str
    dataset: str
    subset: int | None
    epochs: int | None
    seeds: tuple[int, ...]
    unverified_data: bool = False

    def __post_init__(self):
        if not (isinstance(self.seeds, list | tuple) and self.seeds and all(self.seeds.count(s) == 1 for s in self.seeds)):
            raise ValueError(f"seeds must be a list of different whole numbers; got {self.seeds!r}")
        data = {"dataset": self.dataset, "subset": self.subset, "unverified_data": self.unverified_data}
        for seed in self.seeds:  # Config knows what it allows
            Config(rules=("bp",), epochs=1 if self.epochs is None else self.epochs, seed=seed, **data)
        object.__setattr__(self, "seeds", tuple(self.seeds))

    @property
    def altered(self) -> bool:
        """Whether a value differs from the preset's file: then its runs are not the preset's."""
        return {k: v for k, v in asdict(self).items() if k != "unverified_data"} != {
            k: v for k, v in asdict(load(self.preset)).items() if k != "unverified_data"
        }


def load(preset: str, **overrides: Any) -> Preset:
    """The named preset with the given values in place of its own; a value None in overrides leaves the preset's.

    ValueError lists the presets, or the parameters, that exist.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    allowed = [field.name for field in fields(Preset)]
    unknown = sorted(set(overrides) - set(allowed))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return Preset(**_read(FOLDER / f"{preset}.yaml") | {name: value for name, value in overrides.items() if value is not None})


def _read(path: Path) -> dict[str, Any]:
    """The values of a preset's file; ValueError names it if a value lacks, or if one is not a preset's."""
    needed = {field.name for field in fields(Preset) if field.default is MISSING}
    allowed = {field.name for field in fields(Preset)}
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(values, dict) or not needed <= set(values) <= allowed:
        found = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        raise ValueError(f"{path}: a preset gives {', '.join(sorted(needed))}, each a value; got {found}")
    return values
