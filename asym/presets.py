"""Presets: how much of a question is run. One YAML file a level; any value can be overridden by name."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

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
        if not (isinstance(self.seeds, list | tuple) and self.seeds and len(set(self.seeds)) == len(self.seeds)):
            raise ValueError(f"seeds must be a list of different whole numbers; got {self.seeds!r}")
        if self.epochs is not None and (not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1):
            raise ValueError(f"epochs must be a whole number >= 1, or empty for the original's; got {self.epochs!r}")
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
    values = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text())
    return Preset(**values | {name: value for name, value in overrides.items() if value is not None})
