"""Image data sets: verified, whole in memory, as tensors on the device.

Fashion-MNIST comes with the package. The others are read from the folder that the environment variable ASYM_DATA names
(in torchvision's layouts, the binary layouts, or the archives as published), or else downloaded once into the cache.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from asym._copies import Arrays, read_any
from asym._download import fetch
from asym._formats import DataError
from asym._published import SOURCES, Source
from asym.checks import expect, expect_device, expect_generator, is_whole

__all__ = ["DataError", "Dataset", "batches", "load"]

EMBEDDED = Path(__file__).parent / "embedded"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    train_images, test_images: uint8 (N, C, H, W); train_labels, test_labels: int64 (N,), in 0..classes-1;
    mean, std: float32 (C,), of the whole training set, pixels scaled to 0..1;
    verified: every file met its published checksum; note: what else is known of an unverified copy;
    fingerprint: SHA-256 (hex) over the bytes of the four tensors, in the order of the fields.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    mean: Tensor
    std: Tensor
    verified: bool
    fingerprint: str
    note: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.train_images.shape[1:])

    def to(self, device: str | torch.device) -> "Dataset":
        """The same data set with its tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)})

    def subset(self, n: int) -> "Dataset":
        """The first `n` training images; test set, mean, std and fingerprint stay those of the full set.

        Raises ValueError unless 1 <= n <= N.
        """
        expect("subset", n, is_whole(n, 1, len(self.train_labels)), f"a whole number in 1..{len(self.train_labels)}")
        return replace(self, train_images=self.train_images[:n], train_labels=self.train_labels[:n])

    def standardise(self, images: Tensor) -> Tensor:
        """(images / 255 - mean) / std per channel: uint8 (N, C, H, W) to float32 on the images' device, strides kept."""
        scale = (1 / (255 * self.std)).to(images.device).view(-1, 1, 1)
        shift = (-self.mean / self.std).to(images.device).view(-1, 1, 1)
        return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


def load(name: str, *, unverified: bool = False, device: str | torch.device = "cpu") -> Dataset:
    """The data set `name` (fashion_mnist, mnist, cifar10 or cifar100), read once a process.

    `unverified` accepts files whose checksums are not the published ones, if their structure is right.
    Raises ValueError for an unknown name or device, DataError for files that are missing, damaged or not the published ones.
    """
    expect("name", name, isinstance(name, str) and name in SOURCES, f"one of {', '.join(SOURCES)}")
    return _load(name, bool(unverified), str(expect_device(device)), os.environ.get("ASYM_DATA", ""))


def batches(n: int, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """The batches of one epoch: index tensors (size,) int64 from a fresh permutation of 0..n-1, the partial last one dropped.

    Raises ValueError unless n is a whole number, 1 <= size <= n, and the generator is one (or None, torch's global one).
    """
    expect("n", n, is_whole(n, 1), "a whole number from 1 on")
    expect("size", size, is_whole(size, 1, n), f"a whole number in 1..{n}")
    expect_generator(generator)
    return iter(torch.randperm(n, generator=generator)[: n - n % size].split(size))


@lru_cache(maxsize=8)
def _load(name: str, unverified: bool, device: str, folder: str) -> Dataset:
    if device != "cpu":
        return _load(name, unverified, "cpu", folder).to(device)
    source = SOURCES[name]
    arrays, verified, note = _find(name, source, unverified, folder)
    train_images, train_labels, test_images, test_labels = tensors = [torch.from_numpy(array) for array in arrays]
    mean, std = _statistics(name, train_images)
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy())
    return Dataset(
        name, train_images, train_labels, test_images, test_labels, source.classes, mean, std, verified, digest.hexdigest(), note
    )


def _find(name: str, source: Source, unverified: bool, folder: str) -> tuple[Arrays, bool, str]:
    """The arrays from ASYM_DATA (`folder`), from the package, or from the cache; and whether verified, and the note."""
    if folder:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(f"ASYM_DATA={folder}: no such folder")
        found = read_any(source, root, unverified)
        if found or source.downloads:
            return found or _absent(name, source, folder)
    root = fetch(source.downloads) if source.downloads else EMBEDDED
    return read_any(source, root, unverified=False) or _absent(name, source, root)


def _absent(name: str, source: Source, folder: str | Path) -> NoReturn:
    places = [place for layout in source.layouts for place in (f"{layout.folder}/", layout.archive) if place]
    raise DataError(
        f"{folder}: has no {name}; looked for {', '.join(places)}. Put one of them there and set ASYM_DATA "
        "to this folder, or unset ASYM_DATA to use the package's copy or to download one"
    )


def _statistics(name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of images scaled to 0..1, exact through the counts of the 256 values."""
    channels = images.transpose(0, 1).flatten(1)  # (C, N H W)
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).double()  # (C, 256)
    values = torch.arange(256).double() / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    if (std == 0).any():
        raise DataError(f"{name}: a channel of the training images is constant")
    return mean.float(), std.float()
