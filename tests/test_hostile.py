"""Hostile input: whatever a public boundary is given works as it should or is refused by the documented error.

The strategies stand in tests/hostile.py. Below each property stand the inputs that once went wrong.
"""

import ast
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.nn.functional as F
from hostile import ANYTHING, JSON, TRIED, damaged, spoiled, steady, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import asym
from asym import _download, cli, functional, publication, soundness
from asym._copies import standins_note
from asym._formats import DataError, decode_binary, decode_idx, decode_pickle, read_bounded, tar_member
from asym.cells import cell
from asym.config import Config
from asym.measures import MEASURES
from asym.presets import PRESETS, Preset, load
from asym.results import Record, Store
from asym.rules import RULES

ENOUGH = 2000  # inputs that the properties try together
PACKAGE = Path(asym.__file__).parent


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    monkeypatch.setenv("ASYM_UNTIED", "torch")


def tried(call, error=ValueError):
    """What the call gives, or None where it is refused: by this error alone, in a few plain words."""
    TRIED[os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]] += 1
    try:
        return call()
    except error as refusal:
        assert type(refusal) is error and 0 < len(str(refusal)) < 2000, refusal
        return None


# --- layers and operations ------------------------------------------------------------------------------------------------------


OPTIONS = {"bias": True, "device": None, "dtype": None, "rule": "fa", "generator": None}
LINEAR = {"in_features": 3, "out_features": 2} | OPTIONS
CONVOLUTION = {"in_channels": 2, "out_channels": 4, "kernel_size": (2, 3), "stride": 1, "padding": 1, "dilation": 1, "groups": 2}
CONVOLUTION |= {"padding_mode": "zeros"} | OPTIONS
MODES = st.sampled_from(["zeros", "reflect", "replicate", "circular"])
RULE = st.sampled_from([rule for rule in RULES if not RULES[rule].direct])


def as_torch(layer, stock, given, x):
    """A layer's value is torch's; the error that it sends back is that of torch's layer whose weight is its feedback path."""
    names = {name: value for name, value in given.items() if name not in ("rule", "generator")}
    twin, back = stock(**names), stock(**names)
    twin.load_state_dict(layer.state_dict(), strict=False)
    back.load_state_dict(layer.state_dict(), strict=False)
    path = layer.feedback_path()
    if path is not None:
        back.weight.data.copy_(path)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(ours)
    torch.testing.assert_close(y, twin(theirs))
    e = torch.ones_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, ours, e)[0], torch.autograd.grad(back(theirs), theirs, e)[0])


def vary(arguments, **values):
    """Another value for each argument that is as it was: what it was spoiled with may be a tensor, which has no one truth."""
    for name, value in values.items():
        if arguments[name] is CONVOLUTION[name]:
            arguments[name] = value


@steady(250)
@given(spoiled(LINEAR), RULE)
def test_linear_is_torchs_or_refuses_its_arguments(arguments, rule):
    vary(arguments, rule=rule)
    layer = tried(lambda: asym.Linear(**arguments))
    if layer is not None:
        as_torch(layer, nn.Linear, arguments, torch.randn(2, layer.in_features, dtype=layer.weight.dtype))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own
@steady(300)
@given(spoiled(CONVOLUTION), RULE, MODES, st.sampled_from([1, 1, "same", "valid", (0, 2), 3]))
def test_conv2d_is_torchs_or_refuses_its_arguments(arguments, rule, mode, padding):
    vary(arguments, rule=rule, padding_mode=mode, padding=padding)
    layer = tried(lambda: asym.Conv2d(**arguments))
    if layer is None:
        return
    x = torch.randn(2, layer.in_channels, 5, 4, dtype=layer.weight.dtype)
    if tried(lambda: layer(x)) is not None:
        as_torch(layer, nn.Conv2d, arguments, x)


@steady(300)
@given(spoiled(CONVOLUTION | {"input_size": (5, 4)}), RULE, MODES, st.sampled_from([1, 1, "same", "valid", (0, 2), 3]))
def test_untied_conv2d_is_a_convolution_or_refuses_its_arguments(arguments, rule, mode, padding):
    vary(arguments, rule=rule, padding_mode=mode, padding=padding)
    layer = tried(lambda: asym.UntiedConv2d(**arguments))
    if layer is None:
        return
    names = {name: value for name, value in arguments.items() if name not in ("input_size", "rule", "generator", "bias")}
    tied = nn.Conv2d(bias=False, **names)
    layer.tie_(tied.weight)
    x = torch.randn(2, layer.in_channels, *layer.input_size, dtype=layer.weight.dtype)
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(layer(x), tied(x) + bias, rtol=1e-3, atol=1e-3)
    layer(x).square().sum().backward()
    assert layer.weight.grad.isfinite().all()


REFUSED = [
    *[(asym.Linear, LINEAR, {name: value}, name) for name in ("in_features", "out_features")
      for value in (True, 0, -1, 3.0, "3", None, [3], torch.tensor(3), 2**31, 10**5000)],
    *[(asym.Conv2d, CONVOLUTION, {"kernel_size": value}, "kernel_size") for value in (0, True, (2,), (2, 2, 2), (2, -2), "33")],
    *[(asym.Conv2d, CONVOLUTION, {"stride": value}, "stride") for value in (0, -1, (1,), (1, 0), 1.0, b"1")],
    *[(asym.Conv2d, CONVOLUTION, {"padding": value}, "padding") for value in (-1, (1, -1), 0.5, [1], {})],
    *[(asym.UntiedConv2d, CONVOLUTION | {"input_size": 5}, {name: value}, name)
      for name in ("input_size", "stride", "dilation", "groups") for value in (0, -2, None, True)],
    *[(asym.Conv2d, CONVOLUTION, {"groups": value}, "groups") for value in (3, 4)],
    *[(asym.Linear, LINEAR, {"bias": value}, "bias") for value in (None, "no", 0, torch.ones(2))],
    *[(asym.Linear, LINEAR, {"dtype": value}, "dtype") for value in (torch.int64, torch.complex64, "float32", float)],
    *[(asym.Linear, LINEAR, {"device": value}, "device") for value in ("nowhere", -1, True, "cuda:99")],
    *[(asym.Linear, LINEAR, {"rule": value}, "rule") for value in ([], {}, ["fa"], None, b"fa")],
    *[(asym.Linear, LINEAR, {"generator": value}, "generator") for value in (0, True, "seed", torch.ones(1))],
    (asym.UntiedConv2d, CONVOLUTION | {"input_size": 3}, {"padding": 3, "padding_mode": "reflect"}, "padding"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "good", "wrong", "name"), REFUSED)
def test_a_wrong_argument_is_named(kind, good, wrong, name):
    with pytest.raises(ValueError, match=f"^{name} must be .*; got "):
        kind(**good | wrong)


def test_numpys_whole_numbers_are_whole_numbers():
    layer = asym.Conv2d(np.int64(2), np.int32(4), np.int64(3), padding=(np.int64(1), 1))
    assert layer(torch.ones(1, 2, 5, 5)).shape == (1, 4, 5, 5)


def test_reflection_beyond_the_input_is_refused():
    layer = asym.Conv2d(1, 1, 3, padding=3, padding_mode="reflect")
    with pytest.raises(ValueError, match="padding must be at most 2 with padding_mode='reflect'"):
        layer(torch.ones(1, 1, 3, 3))


@st.composite
def operands(draw, x, weight, bias):
    feedback = draw(tensors(weight) | st.none())
    return draw(tensors(x)), draw(tensors(weight)), feedback, draw(tensors(bias) | st.none())


def sent_back(y, x):
    """The gradient of an operation that took its operands; a NaN in them is the caller's."""
    if x.requires_grad:
        (dx,) = torch.autograd.grad(y.float().sum(), x)
        assert dx.shape == x.shape


@steady(250)
@given(operands((2, 3), (4, 3), (4,)))
def test_the_linear_operation_fits_or_refuses(given):
    y = tried(lambda: functional.linear(*given))
    if y is not None:
        x, weight, _, bias = given
        torch.testing.assert_close(y, F.linear(x, weight) + (0 if bias is None else bias), equal_nan=True)
        x = x.clone().requires_grad_()
        sent_back(functional.linear(x, *given[1:]), x)


@steady(250)
@given(operands((2, 2, 5, 4), (4, 1, 3, 2), (4,)), spoiled({"stride": 1, "padding": 1, "dilation": 1, "groups": 2}))
def test_the_convolution_fits_or_refuses(given, geometry):
    y = tried(lambda: functional.conv2d(*given, **geometry))
    if y is not None:
        x, weight, _, bias = given
        torch.testing.assert_close(y, F.conv2d(x, weight, bias, **geometry), equal_nan=True)
        x = x.clone().requires_grad_()
        sent_back(functional.conv2d(x, *given[1:], **geometry), x)


GEOMETRY = {"kernel_size": (3, 2), "stride": 1, "padding": 1, "dilation": 1, "groups": 2}


@steady(250)
@given(operands((2, 2, 4, 3), (16, 6, 4), (4, 4, 4)), spoiled(GEOMETRY))
def test_the_untied_operation_fits_or_refuses(given, geometry):
    y = tried(lambda: functional.untied_conv2d(*given, **geometry))
    if y is not None:
        kernel = geometry["kernel_size"]
        patches = F.unfold(given[0].float(), kernel, *(geometry[name] for name in ("dilation", "padding", "stride")))
        assert y.shape[1] == given[1].shape[2] and y.shape[2] * y.shape[3] == given[1].shape[0] == patches.shape[-1]
        x = given[0].clone().requires_grad_()
        sent_back(functional.untied_conv2d(x, *given[1:], **geometry), x)


@steady(150)
@given(tensors((3, 4)), tensors((3, 2, 5)), tensors((4, 10)))
def test_direct_feedback_fits_or_refuses(logits, hidden, feedback):
    y = tried(lambda: functional.direct_feedback(logits, hidden, feedback))
    if y is not None:
        torch.testing.assert_close(y, logits, equal_nan=True)
        hidden = hidden.clone().requires_grad_()
        sent_back(functional.direct_feedback(logits, hidden, feedback), hidden)


ONES = torch.ones
MISFITS = {
    "a bias that would spread": lambda: functional.linear(ONES(2, 3), ONES(4, 3), ONES(4, 3), ONES(1)),
    "a bias of the batch's size": lambda: functional.linear(ONES(4, 3), ONES(4, 3), ONES(4, 3), ONES(4, 4)),
    "a convolution's bias that would spread": lambda: functional.conv2d(
        ONES(1, 2, 4, 4), ONES(4, 2, 3, 3), ONES(4, 2, 3, 3), ONES(1)
    ),
    "feedback of another dtype": lambda: functional.linear(ONES(2, 3), ONES(4, 3), ONES(4, 3, dtype=torch.float64)),
    "complex numbers": lambda: functional.linear(*[ONES(3, 3, dtype=torch.complex64)] * 3),
    "whole numbers": lambda: functional.linear(*[ONES(3, 3, dtype=torch.int64)] * 3),
    "a batch less": lambda: functional.direct_feedback(ONES(3, 4), ONES(2, 5), ONES(4, 5)),
    "no step": lambda: functional.untied_conv2d(ONES(1, 1, 4, 4), ONES(4, 9, 2), None, kernel_size=3, stride=0),
    "steps back": lambda: functional.untied_conv2d(ONES(1, 1, 4, 4), ONES(4, 9, 2), None, kernel_size=3, stride=-1),
    "a cropping": lambda: functional.untied_conv2d(ONES(1, 1, 4, 4), ONES(4, 9, 2), None, kernel_size=3, padding=-1),
    "a kernel that is too large": lambda: functional.conv2d(ONES(1, 1, 2, 2), ONES(1, 1, 3, 3), ONES(1, 1, 3, 3)),
}


@pytest.mark.parametrize("call", MISFITS.values(), ids=MISFITS)
def test_tensors_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match=" must be .*; got "):
        call()


@pytest.mark.parametrize("taps", [1, 8, 10, 900])
def test_the_compiled_kernel_never_sees_a_weight_of_other_windows(taps, monkeypatch):
    """It computes with addresses: a weight with too few taps would be read beyond its end."""
    monkeypatch.setenv("ASYM_UNTIED", "compiled")
    with pytest.raises(ValueError, match="x must be of shape"):
        functional.untied_conv2d(ONES(2, 1, 4, 4), ONES(4, taps, 2), ONES(4, taps, 2), kernel_size=3)


# --- convert --------------------------------------------------------------------------------------------------------------------


CONVERSION = {"model": "a net", "rule": "fa", "generator": None, "example_input": None}


@steady(200)
@given(spoiled(CONVERSION), st.dictionaries(st.sampled_from(["0", "2", "1", "", "weight"]) | st.text(max_size=2), RULE | JSON))
def test_convert_gives_a_model_or_refuses(arguments, named):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model = net if arguments["model"] == "a net" else arguments["model"]
    rule = named if arguments["rule"] == "fa" and named else arguments["rule"]
    rest = {name: arguments[name] for name in ("generator", "example_input")}
    found = tried(lambda: asym.convert(model, rule, **rest))
    if found is not None:
        torch.testing.assert_close(found(ONES(2, 4)), net(ONES(2, 4)))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"model": "net"}, "model"), ({"model": None}, "model"), ({"rule": None}, "rule"), ({"rule": {0: "fa"}}, "rule"),
     ({"rule": {"0": ["fa"]}}, "rule"), ({"generator": 3}, "generator"), ({"example_input": [1]}, "example_input")],
)  # fmt: skip
def test_convert_names_what_is_wrong(wrong, name):
    with pytest.raises(ValueError, match=f"^{name} must be .*; got "):
        asym.convert(**{"model": nn.Sequential(nn.Linear(4, 3)), "rule": "fa"} | wrong)


@pytest.mark.parametrize("layer", [nn.Linear(2, 2, dtype=torch.complex64), nn.Conv2d(1, 1, 1, dtype=torch.complex64)])
def test_convert_refuses_complex_weights(layer):
    """Their error returns through the conjugate, which a feedback does not know."""
    with pytest.raises(ValueError, match="weight must be a tensor of float16"):
        asym.convert(layer, "fa")


@pytest.mark.parametrize("wrong", [("net", None), (nn.Linear(2, 2), 3)])
def test_between_steps_names_what_is_wrong(wrong):
    with pytest.raises(ValueError, match="^(model|generator) must be "):
        asym.between_steps(*wrong)


# --- configs and presets --------------------------------------------------------------------------------------------------------


DENSE = {"dataset": "mnist", "net": "dense", "hidden": [8, 6], "rules": ["bp", "fa", "kp"], "weight_decay": 0.5, "frozen": [1]}
DENSE |= {"subset": 100, "batch": 10, "lr": 1e-3, "clip_weight": 1.0, "clip_feedback": True, "seed": 3, "epochs": 2, "l2": 0.0}
DENSE |= {"dropout": 0.2, "validation": 10, "test_subset": 50, "precision": "bf16", "unverified_data": True}
POGGIO = {"net": "poggio_untied", "rules": ["bp"] * 5, "tied_start": True, "pooling": "max", "pretrained": 1, "frozen": [0]}


KINDS = {"hidden": int, "frozen": int, "rules": str, "unverified_data": bool, "tied_start": bool, "clip_feedback": bool}
KINDS |= dict.fromkeys(("subset", "test_subset", "validation", "pretrained", "epochs", "batch", "seed"), int)
KINDS |= dict.fromkeys(("dropout", "lr", "weight_decay", "l2", "clip_value", "clip_norm", "clip_weight"), float)


def sound(config):
    """What every config is, whatever it was made of."""
    plain = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert Config.from_dict(plain | {"unverified_data": config.unverified_data}) == config
    for field in fields(Config):
        value = getattr(config, field.name)
        for entry in value if isinstance(value, tuple) else [value]:
            assert type(entry) is KINDS.get(field.name, str) or (entry is None and "None" in str(field.type)), field.name
            assert not isinstance(entry, float) or math.isfinite(entry)
            assert not isinstance(entry, int) or 0 <= entry < 2**63


@steady(350)
@given(st.sampled_from([DENSE, POGGIO]).flatmap(spoiled))
def test_a_config_is_sound_or_refused(given):
    config = tried(lambda: Config.from_dict(given))
    if config is not None:
        sound(config)


@steady(150)
@given(ANYTHING | st.dictionaries(st.sampled_from([f.name for f in fields(Config)]), ANYTHING, max_size=4))
def test_a_config_of_anything_is_sound_or_refused(given):
    config = tried(lambda: Config.from_dict(given))
    if config is not None:
        sound(config)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        *[({"lr": value}, "lr") for value in (10**400, 10**5000, math.inf)],
        *[({"hidden": value}, "hidden") for value in (b"ab", bytearray(b"ab"), [2**63, 6], [10**5000, 6], torch.ones(2))],
        *[({name: 2**63}, name) for name in ("epochs", "batch", "seed", "subset", "validation")],
        *[({"rules": ["bp", "fa", value]}, "rule") for value in (["fa"], {}, b"fa")],
        *[({"dataset": value}, "dataset") for value in (np.array(["mnist", "mnist"]), torch.ones(2), ["mnist"])],
    ],
)
def test_a_field_of_a_config_is_named(wrong, name):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Config.from_dict(DENSE | wrong)


@pytest.mark.parametrize("given", [None, 3, "net", ["net"], [["net", "dense"]], {3: 4}, {"lr": 1.0, 3: 4}])
def test_a_config_of_no_mapping_is_refused(given):
    with pytest.raises(ValueError, match="^config must be a mapping of fields; got "):
        Config.from_dict(given)


def test_numpys_numbers_give_the_same_config():
    ours = Config.from_dict(DENSE)
    theirs = Config.from_dict(DENSE | {"seed": np.int64(3), "hidden": list(np.array([8, 6])), "lr": np.float64(1e-3)})
    assert ours == theirs and ours.hash == theirs.hash


PRESET = {"preset": "mine", "dataset": "mnist", "subset": 500, "epochs": 2, "seeds": [0, 1], "test_subset": 50, "batch": 100}
PRESET |= {"precision": "fp32", "unverified_data": False, "nets": {"dense": {"epochs": 1}}}
PRESET |= {"questions": {"dense": {"parts": ["table"], "losses": ["ce"], "seeds": [2]}}}
PLAN = [cell("table", network, epochs=5) for network in ("DSR1", "PGR1")]


@st.composite
def nested(draw):
    """Overrides for the nets and questions too, anything among their values."""
    inner = st.dictionaries(st.sampled_from(["epochs", "seeds", "parts", "losses", "batch", "lr"]), ANYTHING, max_size=2)
    outer = st.dictionaries(st.sampled_from(["dense", "poggio", "else"]) | st.integers(0, 1), inner, max_size=2)
    return draw(spoiled(PRESET)) | draw(st.fixed_dictionaries({}, optional={"nets": outer, "questions": outer}))


def scaled(level):
    """The plan's cells at a level, if it asks for what can be."""
    for made in tried(lambda: level.cells("dense", PLAN)) or []:
        sound(made.config)


@steady(200)
@given(nested())
def test_a_preset_scales_a_plan_or_is_refused(given):
    level = tried(lambda: Preset(**given))
    if level is not None:
        scaled(level)


@steady(150)
@given(
    st.sampled_from(PRESETS) | ANYTHING,
    nested().flatmap(lambda given: st.sampled_from(sorted(given)).map(lambda k: {k: given[k]})),
)
def test_an_override_of_a_preset_is_taken_or_refused(name, given):
    level = tried(lambda: load(name, **{k: v for k, v in given.items() if k != "preset"}))
    if level is not None:
        scaled(level)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"preset": 3}, "preset"), ({"seeds": [(1, [2])]}, "seeds"), ({"seeds": [0, math.nan]}, "seeds"),
     ({"seeds": [1e400]}, "seeds"),
     ({"questions": {3: {}}}, "questions"), ({"questions": {"dense": {"parts": [3]}}}, "parts"),
     ({"questions": {"dense": {"losses": [["ce"]]}}}, "losses")],
)  # fmt: skip
def test_a_value_of_a_preset_is_named(wrong, name):
    with pytest.raises(ValueError, match=f"^{name} must be .*; got "):
        Preset(**PRESET | wrong)


# --- result files of others -----------------------------------------------------------------------------------------------------


RUN = Config(subset=500, hidden=(8,), rules=("bp", "fa"), epochs=2)


def run(config=RUN):
    row = {"train_loss": 1.0, "train_accuracy": 0.25, "test_accuracy": 0.5, "seconds": 1.0} | {
        name: [0.5, 0.25] for name in MEASURES
    }
    told = {
        "seconds": 1.0,
        "device": "a processor",
        "threads": 1,
        "torch": "2.13",
        "commit": "0" * 40,
        "data_note": "",
        "code": "ab",
    }
    return Record(config, [{"epoch": number} | row for number in range(3)], False, told)


def body():
    """What the file of a run says, but for its checksum."""
    record = run()
    columns = {name: [row[name] for row in record.epochs] for name in record.epochs[0]}
    plain = {"schema": 1, "config": RUN.to_dict(), "epochs": columns, "diverged": False, "provenance": record.provenance}
    return json.loads(json.dumps(plain))


def sealed(content):
    """The text of a record whose checksum is right, as another program would write it."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest})


def places(content, path=()):
    """Every place in nested mappings and lists, as the keys that lead to it."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield (*path, key)
        if isinstance(content[key], dict | list):
            yield from places(content[key], (*path, key))


@st.composite
def changed(draw):
    """A record with one or two of its places given another value, or taken away, or with a name more."""
    content = body()
    for _ in range(draw(st.integers(1, 2))):
        *way, key = draw(st.sampled_from(sorted(places(content), key=str)))
        inner = content
        for step in way:
            inner = inner[step]
        kind = draw(st.sampled_from(["value", "value", "gone", "more"]))
        if kind == "gone":
            del inner[key]
        elif isinstance(inner, dict) and kind == "more":
            inner[draw(st.text(max_size=5) | st.sampled_from(["run", "config", "provenance", "__class__"]))] = draw(JSON)
        else:
            inner[key] = draw(JSON)
    return content


def plausible(record):
    """What must be true of any run that was taken over, in other words than the package's."""
    assert [row["epoch"] for row in record.epochs] == list(range(len(record.epochs))) and record.epochs
    assert len(record.epochs) == record.config.epochs + 1 or record.diverged is True
    for row in record.epochs:
        assert type(row["epoch"]) is int and 0 <= row["test_accuracy"] <= 1 and row["seconds"] >= 0
        assert all(len(row[name]) == 2 and all(type(v) in (int, float) for v in row[name]) for name in MEASURES)
        assert not {"run", "config", "diverged", "provenance"} & set(row)
    assert all(type(value) in (str, int, float, bool, type(None)) for value in record.provenance.values())
    assert not any("\x1b" in str(value) for value in record.provenance.values())


def merged(folder, content, name=f"{RUN.hash}.json"):
    """What merging a folder with this one file gives, the runs taken over, and what the store then has."""
    theirs = folder / "theirs"
    theirs.mkdir(exist_ok=True)
    for old in [*theirs.iterdir(), *(folder / "ours").glob("*")]:
        old.unlink()
    (theirs / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    store = Store(folder / "ours")
    found = store.merge(theirs)
    assert len(found.new) + len(found.refused) == 1 and all(len(reason) < 400 for reason in found.refused.values())
    assert all(reason.isprintable() and reason for reason in found.refused.values())
    assert {path.name for path in folder.iterdir()} <= {"theirs", "ours"}
    return found, list(store.records())


@steady(400)
@given(changed())
def test_a_changed_record_is_plausible_or_refused(tmp_path, content):
    try:
        text = sealed(content).replace("Infinity", "1e400")  # which is one in JSON, and the same to the checksum
    except (ValueError, TypeError):  # a number of 5,000 digits, mixed keys: no JSON
        text = "{}"
    found, stored = tried(lambda: merged(tmp_path, text))
    for record in stored:
        plausible(record)
    assert len(stored) == len(found.new)


@steady(150)
@given(damaged(sealed(body()).encode()) | JSON.map(lambda value: json.dumps(value, default=str).encode()[:2000]) | st.binary())
def test_a_damaged_record_is_refused(tmp_path, content):
    found, stored = tried(lambda: merged(tmp_path, content))
    assert not stored or json.dumps(stored[0].epochs) == json.dumps(run().epochs)


def with_epochs(**columns):
    return body() | {"epochs": body()["epochs"] | columns}


def with_provenance(**told):
    return body() | {"provenance": body()["provenance"] | told}


DEEP = "[" * 100_000
FOREIGN = {
    "epochs that are no whole numbers": (with_epochs(epoch=[0.0, 1.0, 2.0]), "epoch must be a whole number"),
    "epochs that are truths": (with_epochs(epoch=[False, True, 2]), "epoch must be a whole number"),
    "an accuracy of 17": (with_epochs(test_accuracy=[0.1, 17, 0.2]), r"test_accuracy must be in 0\.\.1"),
    "an accuracy that is not told": (with_epochs(test_accuracy=[0.1, None, 0.2]), "test_accuracy must be a number"),
    "time that runs back": (with_epochs(seconds=[0.1, -1, 0.2]), r"seconds must be in 0\.\.inf"),
    "an angle of 200 degrees": (with_epochs(weight_angle=[[1, 200]] * 3), r"weight_angle must be in 0\.\.180"),
    "a column that names the run": (with_epochs(run=["x"] * 3), "columns must be "),
    "a number without end": (with_epochs(drift=[[1, 10**400]] * 3), r"drift must be in 0\.\.inf"),
    "terminal codes": (with_provenance(device="\x1b[2J\x1b[1;1Hroot #"), "provenance device must be a printable text"),
    "half a character": (with_provenance(device="\ud800"), "provenance device must be a printable text"),
    "nested provenance": (with_provenance(more={"a": [1]}), "provenance more must be a printable text"),
    "code that is no text": (with_provenance(code=3), "provenance code must be of its kind"),
    "a fingerprint that is no text": (with_provenance(data_fingerprint=3), "provenance data_fingerprint must be of its kind"),
    "NaN": (with_epochs(train_loss=[math.nan] * 3), "NaN is no number of JSON"),
    "Infinity": (with_epochs(train_loss=[math.inf] * 3), "Infinity is no number of JSON"),
    "a name of terminal codes": (body() | {"config": {"\x1b[2J" * 500: 1}}, r"unknown config fields \\x1b"),
}
TEXTS = {
    "1e400": (sealed(with_provenance(more=math.inf)).replace("Infinity", "1e400"), "provenance more must be a printable text"),
    "a name twice": (sealed(body()).replace('"diverged"', '"schema": 1, "diverged"'), "a name stands twice"),
    "depth": (DEEP, "RecursionError"),
    "depth in a record": (sealed(body())[:-1] + ', "x": ' + DEEP, "RecursionError"),
    "5,000 digits": (sealed(body()).replace('"epochs": 2', f'"epochs": {"9" * 5000}'), "4300 digits"),
}
TOLD = {name: (sealed(content), reason) for name, (content, reason) in FOREIGN.items()} | TEXTS


@pytest.mark.parametrize(("text", "reason"), TOLD.values(), ids=TOLD)
def test_a_record_that_tells_nonsense_is_refused_with_the_reason(tmp_path, text, reason):
    found, stored = merged(tmp_path, text)
    (told,) = found.refused.values()
    assert re.search(reason, told) and not stored


OUTSIDE = {
    "train_accuracy": 1.2,
    "validation_accuracy": 1.2,
    "sign_agreement": [0.5, 1.2],
    "idle": [0.5, 1.2],
    "weight_angle": [90.0, 181.0],
    "delta_angle": [90.0, 181.0],
    "gradient_angle": [90.0, 181.0],
}
UNTOLD = dict.fromkeys(("test_accuracy", "validation_accuracy", "seconds"), math.nan)


@pytest.mark.parametrize(("name", "value"), [*OUTSIDE.items(), *UNTOLD.items()])
def test_each_column_of_a_run_has_its_bounds_and_what_is_always_told(name, value):
    held_out = run(replace(RUN, subset=1000, validation=500))
    *first, last = [row | {"validation_accuracy": 0.5} for row in held_out.epochs]
    soundness.check(replace(held_out, epochs=[*first, last]))
    with pytest.raises(ValueError, match=f"{name} must be "):
        soundness.check(replace(held_out, epochs=[*first, last | {name: value}]))


@pytest.mark.parametrize("diverged", [False, True])
def test_a_record_of_a_billion_epochs_makes_no_list_of_them(tmp_path, diverged):
    endless = replace(RUN, epochs=10**9)
    content = body() | {"config": endless.to_dict(), "diverged": diverged}
    found, stored = merged(tmp_path, sealed(content), f"{endless.hash}.json")
    assert len(found.refused) == (not diverged) and len(stored) == diverged


@pytest.fixture
def strange(tmp_path):
    """A folder of what is no file, or no honest one."""
    folder = tmp_path / "strange"
    folder.mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "directory.json").mkdir()
    (folder / "endless.json").symlink_to("/dev/zero")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "nowhere.json").symlink_to(tmp_path / "nowhere")
    (folder / "pipe behind a link.json").symlink_to(folder / "pipe.json")
    (folder / "..json").write_text("[]")
    (folder / "[red] \x1b[2J.json").write_text("[]")
    Path(os.fsdecode(bytes(folder) + b"/\xff\xfe.json")).write_text("[]")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.json"))
        yield folder


def test_what_is_no_file_is_refused_and_never_waited_for(strange, tmp_path, monkeypatch):
    """In a process of its own, as a user calls it: a wait would have no end."""
    environment = os.environ | {"ASYM_RUNS": str(tmp_path / "ours"), "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "asym", "merge", str(strange)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 1 and b"0 runs new, 0 alike, 0 differ, 10 files refused" in done.stdout, done.stderr
    assert b"Traceback" not in done.stderr and not (tmp_path / "ours").exists()


def test_a_growing_file_is_read_to_the_bound(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**40)  # takes no space
    (reason,) = Store(tmp_path / "ours").merge(tmp_path).refused.values()
    assert reason == "more than the 16777216 bytes that a record can have"


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "secret.json").write_text(sealed(body()))
    (tmp_path / "secret.json").chmod(0)
    opened = Path.open

    def as_a_user(path, *arguments):  # root may read all
        if path.name == "secret.json":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", as_a_user)
    (reason,) = Store(tmp_path / "ours").merge(tmp_path).refused.values()
    assert "Permission denied" in reason


def test_conflicting_runs_are_told_and_markup_in_them_is_text(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYM_RUNS", str(tmp_path / "ours"))
    Store().save(run())
    theirs = with_epochs(test_accuracy=[0.1, 0.2, 0.3]) | {"provenance": body()["provenance"] | {"device": "[/bold] [red]x"}}
    (tmp_path / f"{RUN.hash}.json").write_text(sealed(theirs))
    monkeypatch.setattr(cli.console, "width", 400)
    done = CliRunner().invoke(cli.app, ["merge", str(tmp_path)])
    assert done.exception is None and "theirs 30.00 % on [/bold] [red]x" in done.stdout
    assert [row["test_accuracy"] for row in Store().load(RUN).epochs] == [0.5] * 3


# --- published files of others --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "runs.parquet"
    publication.publish([run(), run(replace(RUN, seed=1))], path)
    return path.read_bytes()


@steady(80)
@given(data=st.data())
def test_a_damaged_published_file_is_refused_by_its_name(tmp_path, parquet, data):
    path = tmp_path / "runs.parquet"
    path.write_bytes(data.draw(damaged(parquet) | st.binary(max_size=20)))
    for record in tried(lambda: publication.published(path)) or []:
        assert set(record.epochs[0]) >= {"epoch", *MEASURES} and record.config.layers == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"run": "another"}, "run must be "),
        ({"config": "{"}, "Expecting"),
        ({"config": "[" * 100_000}, "recursion"),
        ({"config": '{"colour": 1}'}, "unknown config fields colour"),
        ({"provenance": "[]"}, "provenance must be a mapping"),
        ({"provenance": json.dumps(run().provenance | {"device": 3})}, "provenance device must be of its kind"),
        ({"epoch": 0.5}, "epoch must be a whole number"),
        ({"test_accuracy": "high"}, "test_accuracy must be a number"),
        ({"drift": [[0.5]] * 3}, "drift must be a list of 2 numbers"),
        ({"more": 1.0}, "columns must be "),
    ],
)
def test_a_published_file_that_tells_nonsense_is_refused(tmp_path, wrong, reason):
    path = tmp_path / "dense" / "runs.parquet"
    publication.publish([run()], path)
    frame = pd.read_parquet(path)
    frame.assign(**{name: value if isinstance(value, list) else [value] * 3 for name, value in wrong.items()}).to_parquet(path)
    with pytest.raises(ValueError, match=f"^{path}: not a file of published runs .*{reason}"):
        publication.published(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", pickle.dumps([run().epochs])])
def test_verify_tells_of_a_file_that_is_none(tmp_path, content):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "runs.parquet").write_bytes(content)
    done = CliRunner().invoke(cli.app, ["verify", "dense", "--figures", str(tmp_path)])
    assert done.exit_code == 2 and "not a file of published runs" in done.stderr


def test_a_folder_in_a_published_files_place_is_refused(tmp_path):
    (tmp_path / "runs.parquet").mkdir()
    with pytest.raises(ValueError, match="runs.parquet: not a file of published runs .not a file."):
        publication.published(tmp_path / "runs.parquet")


# --- data files -----------------------------------------------------------------------------------------------------------------


SHAPE, COUNT = (3, 4, 4), 5
PIXELS = np.arange(COUNT * 48, dtype=np.uint8).reshape(COUNT, 48)
LABELS = [3, 1, 4, 1, 5]
GREY = {
    "idx images": struct.pack(">4I", 2051, 3, 4, 4) + bytes(range(48)),
    "idx labels": struct.pack(">2I", 2049, 3) + bytes([1, 2, 3]),
}
ROWS = np.concatenate([np.array(LABELS, np.uint8)[:, None], PIXELS], 1).tobytes()
PICKLED = pickle.dumps({"data": PIXELS, "labels": LABELS, "fine_labels": LABELS, "filenames": ["a.png"] * COUNT}, 4)


def decoded(decode, content, count, shape, classes):
    """Sound arrays, or a refusal."""
    found = tried(lambda: decode(content, count, shape, classes), DataError)
    if found is not None:
        images, labels = found
        assert images is None or (images.shape == (count, *shape) and images.dtype == np.uint8)
        assert labels is None or (
            labels.shape == (count,) and labels.dtype == np.int64 and 0 <= labels.min() <= labels.max() < classes
        )


def test_what_is_damaged_below_is_sound_above():
    assert decode_idx(GREY["idx images"], 3, (1, 4, 4), 10)[0].shape == (3, 1, 4, 4)
    for decode, content in ((decode_binary, ROWS), (decode_pickle, PICKLED)):
        images, labels = decode(content, COUNT, SHAPE, 10)
        assert images.tobytes() == PIXELS.tobytes() and labels.tolist() == LABELS


@steady(150)
@given(st.sampled_from(sorted(GREY)).flatmap(lambda name: damaged(GREY[name])))
def test_damaged_idx_files_give_sound_arrays_or_are_refused(content):
    decoded(decode_idx, content, 3, (1, 4, 4), 10)


@steady(150)
@given(damaged(ROWS) | damaged(ROWS).flatmap(damaged), st.sampled_from([10, 100]))
def test_damaged_binary_files_give_sound_arrays_or_are_refused(content, classes):
    decoded(decode_binary, content, COUNT, SHAPE, classes)


@steady(400)
@given(damaged(PICKLED) | damaged(PICKLED).flatmap(damaged), st.sampled_from([10, 100]))
def test_damaged_pickles_give_sound_arrays_or_are_refused(content, classes):
    decoded(decode_pickle, content, COUNT, SHAPE, classes)


def header(name, size, kind=b"0"):
    """A tar header, its size written as GNU does it for numbers that are negative or large."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    raw = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (size % 2**96).to_bytes(12, "big")
    raw[124] = 0xFF if size < 0 else 0x80
    checksum = 256 + sum(raw[:148]) + sum(raw[156:])
    raw[148:156] = b"%06o\0 " % checksum
    return bytes(raw)


def packed(**members):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


@steady(200)
@given(damaged(packed(other=b"x" * 600, wanted=b"y" * 700)[:4096]))
def test_damaged_archives_give_the_member_or_are_refused(content):
    found = tried(lambda: tar_member(content, "wanted", 1000), DataError)
    assert found is None or len(found) <= 1000


ARCHIVES = {
    "an entry that goes back": header("a", 0) + header("b", -512) + bytes(1024),
    "an entry before the first": header("a", -1024) + bytes(1024),
    "a size of 2**80": header("wanted", 2**80) + bytes(1024),
    "a pipe": header("wanted", 0, tarfile.FIFOTYPE) + bytes(1024),
    "a device": header("wanted", 0, tarfile.CHRTYPE) + bytes(1024),
    "a hard link": header("wanted", 0, tarfile.LNKTYPE) + bytes(1024),
    "a directory": header("wanted", 0, tarfile.DIRTYPE) + bytes(1024),
    "nothing": b"",
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_lies_is_refused_in_time(content):
    with pytest.raises(DataError, match="wanted"):
        tar_member(content, "wanted", 1000)


@pytest.mark.parametrize("place", [2**17, 10**8, 2**32 - 1])
def test_a_pickle_that_asks_for_a_far_place_in_the_memo_gets_no_memory(place):
    with pytest.raises(DataError, match=f"memo of {place} places"):
        decode_pickle(b"\x80\x02Nr" + struct.pack("<I", place) + b".", COUNT, SHAPE, 10)


@steady(120)
@given(damaged(gzip.compress(bytes(range(256)) * 4, mtime=0)))
def test_damaged_gzip_files_hold_at_most_the_bound_or_are_refused(tmp_path, content):
    (tmp_path / "images.gz").write_bytes(content)
    found = tried(lambda: read_bounded(tmp_path / "images.gz", 1024), DataError)
    assert found is None or len(found) <= 1024


def test_a_pipe_in_a_data_files_place_is_refused(tmp_path):
    os.mkfifo(tmp_path / "standins.json")
    with pytest.raises(DataError, match="is not a plain file"):
        read_bounded(tmp_path / "standins.json", 10)
    assert standins_note(tmp_path, 10, 10) == f"unverified copy ({tmp_path.name})"


@pytest.mark.parametrize("text", [DEEP, '""', "{}", "[true]", "[1.0]", "null", "[1e400]"])
def test_a_list_of_standins_that_is_none_is_not_believed(tmp_path, text):
    (tmp_path / "standins.json").write_text(text)
    assert standins_note(tmp_path, 10, 10) == f"unverified copy ({tmp_path.name})"


class Endless:
    """A server's answer that does not end."""

    headers = {}

    def iter_content(self, size):
        while True:
            yield bytes(size)


def test_a_download_without_end_is_given_up(tmp_path, monkeypatch):
    def unlink(path, real=Path.unlink):
        assert str(path) not in [file.path for file in psutil.Process().open_files()], "Windows removes no open file"
        real(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(_download, "LARGEST", 10**6)
    with pytest.raises(ValueError, match="more than the 1000000 bytes that a published file can have"):
        _download._write(Endless(), tmp_path / "x.part", 0)
    assert not list(tmp_path.iterdir())


# --- nothing is executed --------------------------------------------------------------------------------------------------------


NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler"}
NEVER |= {"torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "marshal.load"}
NEVER |= {"shelve.open", "pd.read_pickle", "pandas.read_pickle", "np.load", "numpy.load", "joblib.load", "subprocess.getoutput"}
SAFELY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}


def dangers(text):
    """The calls in a program's text that would execute what a file or a string says."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            safely = name in SAFELY and options.get(SAFELY[name][0]) is SAFELY[name][1]
            if (name in NEVER and not safely) or options.get("shell", False) is not False or None in options and name in NEVER:
                yield name
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"):
            yield f"from {node.module}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_executes_nothing_that_it_reads(path):
    assert not list(dangers(path.read_text()))


def test_a_pickle_is_read_by_a_class_that_knows_plain_values_alone():
    """Of pickle the package has one subclass, whose find_class refuses all but numpy's arrays, which it replaces."""
    uses = {path.name: path.read_text().count("pickle.") for path in PACKAGE.rglob("*.py") if "import pickle" in path.read_text()}
    assert set(uses) == {"_formats.py"}


@pytest.mark.parametrize(
    "text",
    ["eval(text)", "torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, **options)", "pickle.load(f)",
     "from pickle import loads",
     "exec(text)", "yaml.load(f)", "yaml.load(f, Loader=yaml.Loader)", "subprocess.run(c, shell=True)",
     "subprocess.run(c, shell=really)", "np.load(f, allow_pickle=True)", "os.system(c)"],
)  # fmt: skip
def test_the_search_for_dangers_finds_them(text):
    assert list(dangers(text))


@pytest.mark.parametrize("text", ["torch.load(f, weights_only=True)", "yaml.safe_load(f)", "subprocess.run(c)", "re.compile(t)"])
def test_the_search_for_dangers_leaves_the_rest(text):
    assert not list(dangers(text))


# --- enough ---------------------------------------------------------------------------------------------------------------------


PROPERTIES = {name for name, value in list(globals().items()) if getattr(value, "is_hypothesis_test", False)}


def test_enough_was_tried():
    if set(TRIED) != PROPERTIES:
        pytest.skip(f"needs every property of this file; {len(TRIED)} of {len(PROPERTIES)} ran")
    assert sum(TRIED.values()) >= ENOUGH, dict(TRIED)
    assert min(TRIED.values()) >= 50, dict(TRIED)
