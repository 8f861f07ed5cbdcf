"""Copies of a data set on disk: found, checked against what is published, and read."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from asym._formats import DataError, read_bounded, tar_member
from asym._published import File, Layout, Source
from asym.checks import is_whole

UNLISTED = "unverified copy"  # one that does not list its stand-in images
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train images, train labels, test images, test labels
WAY_OUT = "delete it and download it again, or accept unverified data (--unverified-data, Config(unverified_data=True))"


def read_any(source: Source, root: Path, unverified: bool) -> tuple[Arrays, bool, str] | None:
    """The first copy under `root` that meets its checksums: (arrays, verified, note), or None if there is no copy.

    With `unverified`, if none meets them, the first whose structure is right; copies that list their stand-in images
    (`standins.json`) come first. Raises DataError, with the reason for each copy, if none is good.
    """
    copies = [(layout, place) for layout in source.layouts for place in _places(layout, root)]
    refused = []
    for layout, place in copies:
        try:
            return read(source, layout, place, verify=True), True, ""
        except DataError as error:
            refused.append(str(error))
    if unverified:
        refused = []
        for layout, place in sorted(copies, key=lambda copy: not (copy[1] / "standins.json").is_file()):
            try:
                arrays = read(source, layout, place, verify=False)
                return arrays, False, standins_note(place, len(arrays[1]), len(arrays[3]))
            except DataError as error:
                refused.append(str(error))
    if refused:
        raise DataError("\n".join(refused))
    return None


def read(source: Source, layout: Layout, place: Path, verify: bool) -> Arrays:
    """The arrays of one copy, a folder or an archive; DataError names the file that is not as it should be."""
    contents = _contents(source, layout, place)
    return (*_split(source, layout, layout.train, contents, verify), *_split(source, layout, layout.test, contents, verify))


def _places(layout: Layout, root: Path) -> Iterator[Path]:
    if (root / layout.folder).is_dir():
        yield root / layout.folder
    if layout.archive and (root / layout.archive).is_file():
        yield root / layout.archive


def _contents(source: Source, layout: Layout, place: Path) -> Callable[[File], tuple[str, bytes]]:
    """A function from a file to its full name and its unpacked content."""

    def in_folder(file: File) -> tuple[str, bytes]:
        found = [path for path in (place / file.name, place / f"{file.name}.gz") if path.is_file()]
        if not found:
            raise DataError(f"{place / file.name}: missing")
        return str(found[0]), read_bounded(found[0], source.limit(file))

    if place.is_dir():
        return in_folder
    tar = read_bounded(place, sum(map(source.limit, layout.train + layout.test)) + 2**20)

    def in_archive(file: File) -> tuple[str, bytes]:
        try:
            return f"{place}: {file.name}", tar_member(tar, f"{layout.folder}/{file.name}", source.limit(file))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error

    return in_archive


def _split(source: Source, layout: Layout, files: tuple[File, ...], contents: Callable, verify: bool):
    """(images (N, C, H, W) uint8, labels (N,) int64) of the training or the test files."""
    images, labels = [], []
    for file in files:
        name, data = contents(file)
        if verify:
            check(name, data, file.checksum)
        try:
            decoded = layout.decode(data, file.count, source.shape, source.classes)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        for parts, part in zip((images, labels), decoded, strict=False):
            parts.extend([] if part is None else [part])
    if sum(map(len, images)) != sum(map(len, labels)):
        raise DataError(f"{name}: the set has {sum(map(len, images))} images but {sum(map(len, labels))} labels")
    return np.concatenate(images), np.concatenate(labels)


def check(name: str, data: bytes, checksum: str) -> None:
    """Raise DataError unless `data` has this checksum, "algorithm:hex"."""
    algorithm, expected = checksum.split(":")
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(f"{name}: expected {checksum}, found {algorithm}:{found} ({len(data)} bytes): {WAY_OUT}")


def standins_note(place: Path, train: int, test: int) -> str:
    """What is known of an unverified copy: the images that its `standins.json` lists, numbered over training then test."""
    try:
        listed = json.loads(read_bounded(place / "standins.json", 2**20))
        known = isinstance(listed, list) and all(is_whole(k, 0, train + test - 1) for k in listed)
    except (DataError, ValueError, RecursionError):
        known = False
    if not known:
        return f"{UNLISTED} ({place.name})"
    of_train = sum(k < train for k in set(listed))
    return f"{len(set(listed))} stand-in images ({of_train} train, {len(set(listed)) - of_train} test)"
