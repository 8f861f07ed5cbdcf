"""What the tensors and the geometry of an operation must be, and how they must fit; ValueError names what does not."""

from typing import Any

import torch
from torch import Tensor

from asym.checks import expect, is_whole

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # a complex error would return through conj(W)
DTYPES = "float16, bfloat16, float32 or float64"
MOST = 2**31 - 1  # of a size or a step


def whole(name: str, value: Any) -> None:
    """A size: a whole number from 1 on."""
    expect(name, value, is_whole(value, 1, MOST), f"a whole number in 1..{MOST}")


def pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """One whole number for both axes, or one for each, as (vertical, horizontal)."""
    both = tuple(value) if isinstance(value, list | tuple) else (value, value)
    sound = len(both) == 2 and all(is_whole(v, least, MOST) for v in both)
    expect(name, value, sound, f"a whole number in {least}..{MOST}, or a pair of them")
    return both


def floating(*left_out: str, **tensors: Tensor | None) -> None:
    """Real floating tensors on one device, of one dtype where autocast does not see to that; left_out: those that may be None."""
    first = named = None
    for name, tensor in tensors.items():
        if tensor is None and name in left_out:
            continue
        if not (isinstance(tensor, Tensor) and tensor.dtype in REAL):
            expect(name, getattr(tensor, "dtype", tensor), False, f"a tensor of {DTYPES}")
        expect(f"{name}.is_nested", tensor.is_nested, not tensor.is_nested, "False")
        if first is None:
            first, named = tensor, name
        if tensor.device != first.device:
            expect(name, str(tensor.device), False, f"on {named}'s device {first.device}")
        if tensor.dtype != first.dtype and not _autocast(tensor.dtype, first):
            expect(name, tensor.dtype, False, f"of {named}'s dtype {first.dtype}")


def _autocast(dtype: torch.dtype, first: Tensor) -> bool:
    """Whether autocast brings both to one dtype: it leaves float64 alone."""
    return torch.float64 not in (dtype, first.dtype) and autocasts(first.device)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on there; torch cannot say so of the meta device, which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def fits(name: str, tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    """A tensor's shape, where there is a tensor; what: the shape in words."""
    if tensor is not None and tuple(tensor.shape) != tuple(shape):
        expect(name, tuple(tensor.shape), False, f"of shape {what} = {tuple(shape)}")


def axes(name: str, tensor: Tensor, counts: tuple[int, ...], what: str, filled: int) -> None:
    """The number of a tensor's axes, the last of which (filled: so many) are not empty; what: the axes in words."""
    if tensor.dim() not in counts or 0 in tensor.shape[-filled:]:
        expect(name, tuple(tensor.shape), False, f"of shape {what}, its last {filled} axes not empty")


def windows(padded: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """(H', W'): how many windows of the kernel lie in a padded input, of which there must be one at least."""
    sizes = [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(padded, kernel, stride, dilation, strict=True)]
    if min(sizes) < 1:
        expect("kernel_size", tuple(kernel), False, f"within the padded input {tuple(padded)} (dilation {tuple(dilation)})")
    return sizes


def paddable(mode: str, pads: list[int], size: tuple[int, int]) -> None:
    """Reflection repeats less than the input on a side, a circle no more than all of it; pads: left, right, top, bottom."""
    for side, around in ((size[1], pads[:2]), (size[0], pads[2:])):
        most = {"reflect": side - 1, "circular": side}.get(mode, MOST)
        if max(around) > most:
            expect("padding", max(around), False, f"at most {most} with padding_mode={mode!r} and this input")
