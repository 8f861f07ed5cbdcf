"""Untied (locally connected) convolution's three products: by the compiled kernel where it serves, else in torch alone."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from asym import kernels


class Geometry(NamedTuple):
    """Channels and size of input and output; how the windows lie: kernel, stride, dilation, padding at the top left; groups."""

    c: int
    h: int
    w: int
    o: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    top: int
    left: int
    groups: int

    @property
    def spans(self) -> tuple[int, int]:
        """The height and width of what all windows cover, from the padding's corner on."""
        return (self.oh - 1) * self.sh + (self.kh - 1) * self.dh + 1, (self.ow - 1) * self.sw + (self.kw - 1) * self.dw + 1

    def pieces(self, device: torch.device) -> Iterator[tuple[int, slice, slice]]:
        """(kernel row, output rows, the input rows that they meet): a row at a time on the CPU, where its windows are then a view
        and nothing is gathered; all rows on a GPU, where launches cost more than copies."""
        step = 1 if device.type == "cpu" else self.oh
        for top in range(0, self.oh, step):
            for i in range(self.kh):
                first = top * self.sh + i * self.dh
                yield i, slice(top, top + step), slice(first, first + (step - 1) * self.sh + 1, self.sh)


def product(kind: str, first: Tensor, second: Tensor, geometry: Geometry) -> Tensor:
    """One of the three products: kind "y" of x and W, "x" (dx) of e and W, "w" (dW) of x and e.

    x (N, C, H, W), e and y (N, O, H', W'), W (P, C/groups * kh * kw, O).
    """
    served = first.device.type == "cpu" and first.dtype == second.dtype and first.dtype in (torch.float32, torch.bfloat16)
    weights = math.prod((geometry.oh, geometry.ow, geometry.c // geometry.groups, geometry.kh, geometry.kw, geometry.o))
    if served and weights >= kernels.untied_from() and kernels.untied() == "compiled":
        return kernels.Product.apply(kind, first, second, tuple(geometry))
    return {"y": _output, "x": _input_error, "w": _weight_gradient}[kind](first, second, geometry)


def _output(x: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    x, weight = _padded_rows(x, g), _by_kernel_rows(weight, g)
    result = y = None
    for i, rows, meets in g.pieces(x.device):
        factors = _windows(x[meets], g), weight[i, rows].flatten(0, 1)
        y = torch.baddbmm(y, *factors) if i else torch.bmm(*factors)
        if result is None:  # channels last, and no view of another: what is in place may follow
            result = y.new_empty_strided((x.shape[2], g.o, g.oh, g.ow), (g.oh * g.ow * g.o, 1, g.ow * g.o, g.o))
        if i == g.kh - 1:
            result[:, :, rows] = y.unflatten(0, (-1, g.groups, g.ow)).permute(3, 1, 4, 0, 2).flatten(1, 2)  # N, O, rows, W'
    return result


def _input_error(e: Tensor, weight: Tensor, g: Geometry) -> Tensor:
    weight = _by_kernel_rows(weight, g)
    height, width = (max(pair) for pair in zip(g.spans, (g.top + g.h, g.left + g.w), strict=True))
    dx = e.new_zeros(height, g.groups, e.shape[0], width, g.c // g.groups)
    e = _by_positions(e, g)
    for i, rows, meets in g.pieces(e.device):
        windows = torch.bmm(e[rows].flatten(0, 1), weight[i, rows].flatten(0, 1).transpose(1, 2))
        windows = windows.unflatten(2, (g.kw, -1)).unflatten(0, (-1, g.groups, g.ow)).transpose(2, 3)
        for j in range(g.kw):
            left = j * g.dw
            dx[meets, :, :, left : left + g.sw * (g.ow - 1) + 1 : g.sw] += windows[:, :, :, :, j]
    dx = dx[g.top : g.top + g.h, :, :, g.left : g.left + g.w]
    return dx.permute(2, 0, 3, 1, 4).flatten(3).contiguous().permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, e: Tensor, g: Geometry) -> Tensor:
    x, e = _padded_rows(x, g), _by_positions(e, g)
    pieces = []
    for _, rows, meets in g.pieces(x.device):
        dw = torch.bmm(_windows(x[meets], g).transpose(1, 2), e[rows].flatten(0, 1))
        pieces.append(dw.unflatten(1, (g.kw, -1)).unflatten(0, (-1, g.groups, g.ow)))
    dw = torch.stack(pieces).unflatten(0, (-1, g.kh))  # pieces, kh, rows, groups, W', kw, C/groups, O/groups
    return dw.permute(0, 2, 4, 6, 1, 5, 3, 7).reshape(g.oh * g.ow, -1, g.o)


def _by_rows(images: Tensor, groups: int) -> Tensor:
    """(N, C, H, W) -> (H, groups, N, W, C/groups): a window of one row is then a plain matrix of a row step, W * C/groups."""
    n, c, h, w = images.shape
    return images.reshape(n, groups, c // groups, h, w).permute(3, 1, 0, 4, 2)


def _padded_rows(x: Tensor, g: Geometry) -> Tensor:
    height, width = g.spans
    bottom, right = (max(0, pad) for pad in (height - g.top - g.h, width - g.left - g.w))
    x = _by_rows(x, g.groups)
    if not any((g.left, right, g.top, bottom)):
        return x.contiguous()
    return F.pad(x.permute(1, 2, 4, 0, 3), (g.left, right, g.top, bottom)).permute(3, 0, 1, 4, 2).contiguous()


def _by_positions(e: Tensor, g: Geometry) -> Tensor:
    """(N, O, H', W') -> (H', groups * W', N, O/groups)."""
    return _by_rows(e, g.groups).transpose(2, 3).reshape(g.oh, g.groups * g.ow, e.shape[0], g.o // g.groups)


def _windows(rows: Tensor, g: Geometry) -> Tensor:
    """(rows, groups, N, W, C/groups) -> (rows * groups * W', N, kw * C/groups)."""
    windows = rows.unfold(3, g.dw * (g.kw - 1) + 1, g.sw)[:, :, :, : g.ow, :, :: g.dw]
    return windows.permute(0, 1, 3, 2, 5, 4).flatten(4).flatten(0, 2)


def _by_kernel_rows(weight: Tensor, g: Geometry) -> Tensor:
    """(P, C/groups * kh * kw, O) -> (kh, H', groups * W', kw * C/groups, O/groups)."""
    weight = weight.reshape(g.oh, g.ow, g.c // g.groups, g.kh, g.kw, g.groups, g.o // g.groups)
    return weight.permute(3, 0, 5, 1, 4, 2, 6).flatten(4, 5).flatten(2, 3)
