"""What a careless or a malicious caller may give: values, tensors and bytes, as strategies that draw the same in every run."""

import math
from collections import Counter

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TRIED = Counter()  # inputs, by property


def steady(examples):
    """So many examples, the same ones on every machine: a red CI can be repeated, and a green one says something of this code."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


HUGE = [2**31, 2**63, -(2**63), 10**30, 10**400]  # of the last no float can be made
NUMBERS = st.integers(-3, 6) | st.sampled_from(HUGE) | st.floats() | st.booleans() | st.sampled_from([1e308, 5e-324, math.nan])
SCALARS = st.none() | NUMBERS | st.text(max_size=6) | st.sampled_from(["", "1", "nan", "../..", "\x1b[2J", "\ud800", "[/]"])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)
OBJECTS = [
    b"",
    b"ab",
    bytearray(b"a"),
    {1, 2},
    object(),
    int,
    len,
    1j,
    range(3),
    torch.tensor(2),
    torch.ones(2, 3),
    torch.float32,
]
ANYTHING = JSON | st.sampled_from(OBJECTS) | st.tuples(NUMBERS, NUMBERS) | st.dictionaries(st.integers(0, 2), SCALARS, max_size=2)


@st.composite
def spoiled(draw, good):
    """The mapping with up to two of its values replaced by anything."""
    names = draw(st.lists(st.sampled_from(sorted(good)), max_size=2, unique=True))
    near = st.sampled_from(list(good.values())) | st.integers(0, 6) | st.floats(0, 1)
    return good | {name: draw(draw(st.sampled_from([near, ANYTHING]))) for name in names}


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@st.composite
def tensors(draw, shape):
    """Mostly a float32 tensor of the shape; else of another shape or dtype, or no tensor."""
    kind = draw(st.sampled_from(["right"] * 6 + ["axis", "shape", "dtype", "nan", "view", "anything"]))
    if kind == "anything":
        return draw(ANYTHING)
    if kind == "shape":
        shape = draw(st.lists(st.integers(0, 4), max_size=5))
    elif kind == "axis" and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        shape = (*shape[:axis], draw(st.integers(0, 5)), *shape[axis + 1 :])
    tensor = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(draw(st.integers(0, 3))))
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from(DTYPES)))
    if kind == "view" and tensor.dim() > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor.fill_(math.nan) if kind == "nan" else tensor


@st.composite
def damaged(draw, content):
    """The bytes cut, with some flipped, with some of their own put elsewhere, or with others between."""
    kind = draw(st.sampled_from(["cut", "flip", "splice", "insert"]))
    if not content:
        return draw(st.binary(max_size=12))
    place = draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 64)))
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=12)) + content[place:]
    changed = bytearray(content)
    if kind == "splice":
        source, size = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 64))
        changed[place : place + size] = content[source : source + size]
        return bytes(changed)
    for _ in range(draw(st.integers(1, 4))):
        changed[place] ^= 1 << draw(st.integers(0, 7))
        place = draw(st.integers(0, len(content) - 1))
    return bytes(changed)
