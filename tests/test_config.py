"""Config: every bad value is refused by name, every good one has a lasting hash."""

import dataclasses
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asym.config import DATASETS, LOSSES, NETS, OPTIMIZERS, PRECISIONS, Config, last
from asym.nets import ACTIVATIONS, POOLINGS
from asym.rules import RULES

GOOD = {"hidden": (8, 6), "rules": ("bp", "fa", "fa")}
POGGIO = {"net": "poggio", "rules": ("bp",) * 5}


def listed(names):
    return f"one of {', '.join(names)}"


BAD_VALUES = [
    *[(name, value, listed(names)) for name, names in (
        ("dataset", DATASETS), ("net", NETS), ("activation", ACTIVATIONS), ("pooling", POOLINGS), ("loss", LOSSES),
        ("optimizer", OPTIMIZERS), ("precision", PRECISIONS),
    ) for value in ("nothing", None, 3)],
    *[(name, value, "true or false") for name in ("unverified_data", "tied_start", "clip_feedback") for value in (1, None)],
    *[(name, value, "a whole number >= 1") for name in ("epochs", "batch") for value in (0, -1, 1.0, "1", None, True)],
    *[(name, value, "a whole number >= 1") for name in ("subset", "test_subset") for value in (0, -5, 2.5, "all", True)],
    *[(name, value, "a whole number >= 0") for name in ("seed", "validation", "pretrained") for value in (-1, 0.5, None, False)],
    *[("hidden", value, "whole numbers >= 1") for value in ((8, 0), (8, -1), (8, 2.0), (8, True), (8, "6"))],
    *[("frozen", value, "whole numbers >= 0") for value in ((-1,), (0.0,), (True,))],
    *[(name, value, "a sequence") for name in ("hidden", "rules", "frozen") for value in (3, None, "fa", {1, 2})],
    *[("lr", value, "a number > 0") for value in (0, -1e-3, math.nan, math.inf, "fast", None, True)],
    *[(f"clip_{what}", value, "a number > 0") for what in ("value", "norm", "weight") for value in (0, -1, math.nan, "1", True)],
    *[(name, value, "a number >= 0") for name in ("weight_decay", "l2", "dropout") for value in (-1e-9, math.nan, math.inf)],
    *[("dropout", value, r"a probability in \[0, 1\)") for value in (1, 1.0, 2)],
]  # fmt: skip

BAD_COMBINATIONS = [
    ({"net": "poggio", "hidden": (8, 6)}, "hidden", "empty with net='poggio', whose widths are given"),
    ({"pooling": "max"}, "pooling", "left out with net='dense'"),
    ({"tied_start": True}, "tied_start", "false with tied nets"),
    (POGGIO | {"hidden": (), "tied_start": True}, "tied_start", "false with tied nets"),
    ({"rules": ()}, "rules", "one rule for each of the net's 3 layers"),
    ({"rules": ("bp", "fa")}, "rules", "one rule for each of the net's 3 layers"),
    ({"rules": ("bp",) * 4}, "rules", "one rule for each of the net's 3 layers"),
    (POGGIO | {"hidden": (), "rules": ("bp",) * 4}, "rules", "one rule for each of the net's 5 layers"),
    ({"rules": ("fa", "fa", "fa")}, "rules", "'bp' for the first layer, which sends nothing back"),
    ({"rules": ("dfa", "dfa", "dfa")}, "rules", "'bp' for the first layer, which sends nothing back"),
    ({"frozen": (3,)}, "frozen", r"some of the layers 0\.\.2"),
    ({"frozen": (0, 1, 2)}, "frozen", r"some of the layers 0\.\.2"),
    ({"rules": ("bp", "fa", "kp")}, "weight_decay", "> 0 with rule kp, which is the decay of W and B"),
    ({"rules": ("bp", "kp", "kp"), "weight_decay": 0}, "weight_decay", "> 0 with rule kp"),
    ({"rules": ("bp", "fa", "shared_update"), "weight_decay": 1e-4}, "weight_decay", "0 with rule shared_update"),
    ({"rules": ("bp", "kp", "shared_update"), "weight_decay": 1e-4}, "weight_decay", "0 with rule shared_update"),
    ({"clip_feedback": True}, "clip_feedback", "used with clip_weight and a rule with B"),
    (
        {"clip_feedback": True, "clip_weight": 1.0, "rules": ("bp",) * 3},
        "clip_feedback",
        "used with clip_weight and a rule with B",
    ),
    ({"clip_feedback": True, "clip_weight": 1.0, "rules": ("bp", "usf", "dfa")}, "clip_feedback", "used with clip_weight"),
    ({"subset": 100, "batch": 101}, "batch", "at most subset=100"),
    ({"subset": 100, "batch": 51, "validation": 50}, "batch", "at most subset=100 - validation=50"),
    ({"subset": 100, "batch": 1, "validation": 100}, "batch", "at most subset=100 - validation=100"),
    ({"pretrained": 1}, "pretrained", "0 with net='dense': it is a convolution's"),
    ({"pretrained": 1, "frozen": (0,)}, "pretrained", "0 with net='dense': it is a convolution's"),
    (POGGIO | {"hidden": (), "pretrained": 2}, "pretrained", r"used with frozen=\(0, \.\.\.\)"),
    (POGGIO | {"hidden": (), "pretrained": 2, "frozen": (1, 2)}, "pretrained", r"used with frozen=\(0, \.\.\.\)"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_name_and_the_allowed_ones(name, value, allowed):
    with pytest.raises(ValueError, match=f"^{name} must be {allowed}.*; got ") as error:
        Config(**(GOOD | {name: value}))
    assert str(error.value).endswith(repr(value))


@pytest.mark.parametrize(("fields", "name", "allowed"), BAD_COMBINATIONS)
def test_a_bad_combination_is_refused_with_the_reason(fields, name, allowed):
    with pytest.raises(ValueError, match=f"^{name} must be {allowed}.*; got ") as error:
        Config(**(GOOD | fields))
    value = (GOOD | {field.name: field.default for field in dataclasses.fields(Config) if field.name not in GOOD} | fields)[name]
    assert str(error.value).endswith(repr(value))


@pytest.mark.parametrize("rule", ["hebb", "FA", "", None, 1])
def test_an_unknown_rule_is_refused_with_the_list(rule):
    with pytest.raises(ValueError, match=f"rule must be one of {', '.join(RULES)}; got {rule!r}"):
        Config(**GOOD | {"rules": ("bp", "fa", rule)})


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_config(rule):
    decay = 0.1 if RULES[rule].needs_decay else 0.0
    for fields in (GOOD | {"rules": ("bp", rule, rule)}, POGGIO | {"rules": last(rule, 4, 5)}):
        assert Config(**fields, weight_decay=decay).layers == len(fields["rules"])


def test_fields_are_named_and_frozen():
    with pytest.raises(TypeError):
        Config("mnist")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(**GOOD).lr = 1.0
    with pytest.raises(ValueError, match="unknown config fields batchsize, lrate; allowed: dataset, subset, .*precision"):
        Config.from_dict(GOOD | {"lrate": 1.0, "batchsize": 5})


def test_hashes_name_stored_runs_and_never_change():
    assert Config(rules=("bp",)).hash == "100e92fb57f0bcbf"
    many = Config(hidden=(512, 256), rules=("bp", "fa", "kp"), weight_decay=1.0, seed=3, clip_norm=0.5)
    assert many.hash == "89f8f09c1002a521"
    cifar = {"dataset": "cifar10", "hidden": (512, 256), "epochs": 100}
    assert Config(**cifar, rules=("bp", "fa", "fa"), seed=1).hash == "0c934223020009a6"
    assert Config(**cifar, rules=("bp", "bp", "shared_update"), loss="hinge").hash == "ff89acfe6b5215a0"


def test_held_out_images_leave_room_for_a_batch():
    assert Config(**GOOD, subset=100, validation=50, batch=50).validation == 50
    assert Config(**GOOD, validation=100_000).validation == 100_000  # how many images there are, the data set knows


def test_frozen_layers_have_no_order_and_count_once():
    config = Config(**GOOD, frozen=[1, 0, 1, 1])
    assert (
        config.frozen == (0, 1) and config == Config(**GOOD, frozen=(0, 1)) and config.hash == Config(**GOOD, frozen=(0, 1)).hash
    )


OTHER = {
    "dataset": "mnist", "subset": 1000, "net": None, "hidden": (8, 7), "rules": ("bp", "fa", "dfa"), "frozen": (1,),
    "activation": "tanh", "dropout": 0.5, "loss": "hinge", "optimizer": "sgd", "lr": 1e-2, "weight_decay": 0.1, "l2": 0.1,
    "clip_value": 1.0, "clip_norm": 1.0, "clip_weight": 2.0, "clip_feedback": True, "epochs": 2, "batch": 499, "seed": 1,
    "precision": "bf16", "pooling": "max", "tied_start": True, "test_subset": 1000, "validation": 1000, "pretrained": 1,
}  # fmt: skip


def test_every_field_but_unverified_data_moves_the_hash():
    assert OTHER.keys() | {"unverified_data"} == {field.name for field in dataclasses.fields(Config)}
    plain = Config(**GOOD, clip_weight=1.0)
    untied = Config(**POGGIO | {"net": "poggio_untied"})
    frozen = Config(**POGGIO, frozen=(0,))
    bases = {"pooling": untied, "tied_start": untied, "pretrained": frozen}
    hashes = [plain.hash, untied.hash, frozen.hash, Config(**POGGIO).hash]
    hashes += [replace(bases.get(name, plain), **{name: value}).hash for name, value in OTHER.items() if name != "net"]
    assert len(set(hashes)) == len(hashes) == len(OTHER) + 3
    assert replace(plain, unverified_data=True).hash == plain.hash


@pytest.mark.parametrize("name", ["lr", "weight_decay", "l2", "clip_value", "clip_norm", "clip_weight"])
def test_a_whole_number_is_the_same_number(name):
    whole, real = Config(**GOOD | {name: 2}), Config(**GOOD | {name: 2.0})
    assert whole == real and whole.hash == real.hash


def test_sequences_may_be_lists():
    assert Config(hidden=[8, 6], rules=["bp", "fa", "fa"], frozen=[0]) == Config(**GOOD, frozen=(0,))


POSITIVE = st.floats(1e-9, 1e9)


@st.composite
def configs(draw):
    net = draw(st.sampled_from(NETS))
    hidden = tuple(draw(st.lists(st.integers(1, 4096), max_size=4))) if net == "dense" else ()
    layers = len(hidden) + 1 if net == "dense" else 5
    rules = ("bp", *draw(st.lists(st.sampled_from(sorted(RULES)), min_size=layers - 1, max_size=layers - 1)))
    decay = draw(st.just(0.0) | POSITIVE)
    if any(RULES[rule].needs_decay for rule in rules):
        rules, decay = tuple("fa" if rule == "shared_update" else rule for rule in rules), draw(POSITIVE)
    elif "shared_update" in rules:
        decay = 0.0
    clip_weight = draw(st.none() | POSITIVE)
    has_feedback = any(RULES[rule].store for rule in rules) and clip_weight is not None
    subset = draw(st.none() | st.integers(1, 60000))
    validation = draw(st.integers(0, (subset or 60000) - 1))
    frozen = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
    return {
        "dataset": draw(st.sampled_from(DATASETS)),
        "subset": subset,
        "test_subset": draw(st.none() | st.integers(1, 10000)),
        "validation": validation,
        "unverified_data": draw(st.booleans()),
        "net": net,
        "hidden": hidden,
        "rules": rules,
        "frozen": tuple(frozen),
        "pretrained": draw(st.integers(0, 100)) if net != "dense" and 0 in frozen else 0,
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "pooling": "average" if net == "dense" else draw(st.sampled_from(sorted(POOLINGS))),
        "tied_start": draw(st.booleans()) if net == "poggio_untied" else False,
        "dropout": draw(st.floats(0, 0.99)),
        "loss": draw(st.sampled_from(LOSSES)),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "lr": draw(POSITIVE),
        "weight_decay": decay,
        "l2": draw(st.floats(0, 10)),
        "clip_value": draw(st.none() | POSITIVE),
        "clip_norm": draw(st.none() | POSITIVE),
        "clip_weight": clip_weight,
        "clip_feedback": draw(st.booleans()) if has_feedback else False,
        "epochs": draw(st.integers(1, 1000)),
        "batch": draw(st.integers(1, subset - validation if subset else 500)),
        "seed": draw(st.integers(0, 2**40)),
        "precision": draw(st.sampled_from(PRECISIONS)),
    }


@settings(max_examples=100, deadline=None, database=None)
@given(configs())
def test_a_config_survives_its_dictionary(fields):
    config = Config(**fields)
    plain = config.to_dict()
    again = Config.from_dict(plain | {"unverified_data": config.unverified_data})
    assert again == config and again.hash == config.hash and hash(again) == hash(config)
    assert all(isinstance(value, str | int | float | list | bool) for value in plain.values())
    assert not [name for name, value in plain.items() if value == Config.__dataclass_fields__[name].default]


def test_last_is_the_originals_notation():
    assert last("fa", 2, 3) == ("bp", "fa", "fa")
    assert last("fa", 0, 3) == ("bp",) * 3
