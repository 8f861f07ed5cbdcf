"""Everything that decides a run, checked once, named by its hash."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asym.checks import expect, is_number, is_whole
from asym.nets import ACTIVATIONS, POGGIO_CHANNELS, POOLINGS
from asym.rules import find

DATASETS = ("fashion_mnist", "mnist", "cifar10", "cifar100")
NETS = ("dense", "poggio", "poggio_untied")
LOSSES = ("ce", "hinge")
OPTIMIZERS = ("adam", "sgd", "nesterov")
PRECISIONS = ("fp32", "bf16")
WHOLE = {"epochs": 1, "batch": 1, "seed": 0, "subset": 1, "test_subset": 1, "validation": 0, "pretrained": 0}  # and the least
BELOW = " and < 2**63"
OPTIONAL = ("subset", "test_subset")
NUMBERS = ("lr", "weight_decay", "l2", "dropout", "clip_value", "clip_norm", "clip_weight")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run. Two equal configs give the same run; the hash names the run's record.

    dataset, subset and test_subset (first n training and test images; None: all), validation (the last n training images are not
    trained on; their accuracy may choose something), unverified_data (accept files whose checksum is not the published one).
    net: "dense" with the widths of its hidden layers, or "poggio" / "poggio_untied"; rules: one feedback rule a layer, from input
    to output, "bp" for the first, which sends nothing back; frozen: indices of layers that keep their first weight.
    pretrained: the first convolution is tied, frozen, and that of a tied net trained by backpropagation for so many epochs, with
    relu on it whatever the activation; 0: it is a layer like the others.
    pooling: of the second and third convolution; tied_start: untied kernels start equal; dropout: probability, after every hidden
    dense layer of "dense", every convolution of "poggio" and every untied one of "poggio_untied".
    loss: "ce" or "hinge"; optimizer: "adam" (Kingma and Ba 2015), "sgd" or "nesterov" (momentum 0.9); lr: step size.
    weight_decay: decoupled from Adam's gradient scale, on W and on a learned B; l2: lambda of lambda W added to W's gradient,
    in "poggio_untied" to that of the untied ones, and so to that of a B which shares its update. clip_value, clip_norm: of the
    gradient, by element, by its norm over all W.
    clip_weight: every weight that learns is clipped to [-c, c] after each step; clip_feedback: every B too.
    epochs, batch (a partial last batch is dropped), seed, precision ("bf16": autocast).

    ValueError for a value or a combination that is not allowed, naming both.
    """

    dataset: str = "fashion_mnist"
    subset: int | None = None
    test_subset: int | None = None
    validation: int = 0
    unverified_data: bool = False
    net: str = "dense"
    hidden: tuple[int, ...] = ()
    rules: tuple[str, ...] = ()
    frozen: tuple[int, ...] = ()
    pretrained: int = 0
    activation: str = "relu"
    pooling: str = "average"
    tied_start: bool = False
    dropout: float = 0.0
    loss: str = "ce"
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    l2: float = 0.0
    clip_value: float | None = None
    clip_norm: float | None = None
    clip_weight: float | None = None
    clip_feedback: bool = False
    epochs: int = 1
    batch: int = 500
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self):
        for name in ("hidden", "rules", "frozen"):
            value = getattr(self, name)
            text = isinstance(value, str | bytes | bytearray | memoryview)  # a sequence of numbers to Python, not to a reader
            expect(name, value, isinstance(value, Sequence) and not text, "a sequence")
            object.__setattr__(self, name, tuple(value))
        self._check_values()
        object.__setattr__(self, "hidden", tuple(map(int, self.hidden)))
        object.__setattr__(self, "frozen", tuple(sorted(set(map(int, self.frozen)))))
        self._check_combinations()
        for names, kind in ((NUMBERS, float), (WHOLE, int)):  # 1, 1.0 and numpy's 1 are one config and must have one hash
            for name in names:
                if getattr(self, name) is not None:
                    object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def layers(self) -> int:
        """The number of weight layers."""
        return len(self.hidden) + 1 if self.net == "dense" else len(POGGIO_CHANNELS) + 2

    @property
    def last_alone(self) -> bool:
        """Whether only the last layer learns, from what never changes and so needs to be computed but once."""
        return bool(self.frozen) and self.frozen == tuple(range(self.layers - 1)) and not self.dropout

    @property
    def hash(self) -> str:
        """16 hex digits over the fields that differ from their defaults, so that a field added later renames no record.

        unverified_data is left out: it allows a copy of the data; the record's provenance says which copy was used.
        """
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain JSON values."""
        changed = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "unverified_data" and value != field.default:
                changed[field.name] = list(value) if isinstance(value, tuple) else value
        return changed

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Config":
        """The config of a dictionary; ValueError for what is no mapping by names, and for names that are not fields."""
        expect(
            "config", fields, isinstance(fields, Mapping) and all(isinstance(name, str) for name in fields), "a mapping of fields"
        )
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            allowed = ", ".join(field.name for field in dataclasses.fields(cls))
            raise ValueError(f"unknown config fields {', '.join(unknown)}; allowed: {allowed}")
        return cls(**fields)

    def _check_values(self) -> None:
        for name, allowed in (
            ("dataset", DATASETS),
            ("net", NETS),
            ("activation", tuple(ACTIVATIONS)),
            ("pooling", tuple(POOLINGS)),
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            expect(name, value, isinstance(value, str) and value in allowed, f"one of {', '.join(allowed)}")
        for name in ("unverified_data", "tied_start", "clip_feedback"):
            expect(name, getattr(self, name), isinstance(getattr(self, name), bool), "true or false")
        for name, least in WHOLE.items():
            value = getattr(self, name)
            expect(
                name, value, (name in OPTIONAL and value is None) or is_whole(value, least), f"a whole number >= {least}{BELOW}"
            )
        for name in ("hidden", "frozen"):
            least = 1 if name == "hidden" else 0
            expect(
                name,
                getattr(self, name),
                all(is_whole(v, least) for v in getattr(self, name)),
                f"whole numbers >= {least}{BELOW}",
            )
        for name in ("lr", "clip_value", "clip_norm", "clip_weight"):
            value = getattr(self, name)
            expect(name, value, (name != "lr" and value is None) or is_number(value) and value > 0, "a number > 0")
        for name in ("weight_decay", "l2", "dropout"):
            expect(name, getattr(self, name), is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number >= 0")
        expect("dropout", self.dropout, self.dropout < 1, "a probability in [0, 1)")

    def _check_combinations(self) -> None:
        dense = self.net == "dense"
        expect("hidden", self.hidden, dense or not self.hidden, f"empty with net={self.net!r}, whose widths are given")
        expect("pooling", self.pooling, not dense or self.pooling == "average", "left out with net='dense'")
        fits = self.subset is None or self.batch <= self.subset - self.validation
        held = f" - validation={self.validation}" if self.validation else ""
        expect("batch", self.batch, fits, f"at most subset={self.subset}{held}")
        expect("tied_start", self.tied_start, not self.tied_start or self.net == "poggio_untied", "false with tied nets")
        expect("rules", self.rules, len(self.rules) == self.layers, f"one rule for each of the net's {self.layers} layers")
        rules = [find(rule) for rule in self.rules]
        expect("rules", self.rules, self.rules[0] == "bp", "'bp' for the first layer, which sends nothing back")
        expect("frozen", self.frozen, set(self.frozen) < set(range(self.layers)), f"some of the layers 0..{self.layers - 1}")
        decay = "> 0 with rule kp, which is the decay of W and B" if any(r.needs_decay for r in rules) else None
        expect("weight_decay", self.weight_decay, decay is None or self.weight_decay > 0, decay)
        shared = "shared_update" in self.rules and self.weight_decay > 0
        expect("weight_decay", self.weight_decay, not shared, "0 with rule shared_update: with decay it is rule kp")
        expect("pretrained", self.pretrained, not (dense and self.pretrained), "0 with net='dense': it is a convolution's")
        expect("pretrained", self.pretrained, not self.pretrained or 0 in self.frozen, "used with frozen=(0, ...)")
        learns = any(r.store for r in rules) and self.clip_weight is not None
        expect("clip_feedback", self.clip_feedback, not self.clip_feedback or learns, "used with clip_weight and a rule with B")


def last(rule: str, count: int, layers: int) -> tuple[str, ...]:
    """The original's R notation: the rule on the last `count` of `layers` layers, backpropagation below."""
    return ("bp",) * (layers - count) + (rule,) * count
