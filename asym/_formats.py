"""File formats: the bytes of one image file to arrays, with bounds on everything that a file says about itself."""

import gzip
import io
import math
import pickle
import pickletools
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

MEMO = 2**17  # places in a pickle's memo; CIFAR-100's use some 50,000


class DataError(Exception):
    """A data file is missing, damaged, not the published one, or cannot be downloaded."""


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked if it ends in .gz or .tgz.

    At most `limit` bytes are ever unpacked: a longer file raises DataError, as does one that cannot be read, or is no plain file.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            raise DataError(f"{path}: is not a plain file")
        with gzip.open(path) if path.suffix in (".gz", ".tgz") else open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, or is cut short ({error})") from error
    if len(data) > limit:
        raise DataError(f"{path}: holds more than the {limit} bytes expected")
    return data


def tar_member(archive: bytes, member: str, limit: int) -> bytes:
    """The content of the one regular file called `member` in a tar archive; nothing is written to disk."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            entry = _entry(tar, member)
            if not entry.isreg() or entry.size > limit:  # links are not followed
                raise DataError(f"{member}: is not a plain file of at most {limit} bytes")
            return tar.extractfile(entry).read()
    except KeyError as error:
        raise DataError(f"{member}: missing") from error
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{member}: damaged archive ({error})") from error


def _entry(tar: tarfile.TarFile, member: str) -> tarfile.TarInfo:
    """The last entry of this name, as tar has it. One that says to go back in the archive could be read for ever."""
    found, reached = None, -1
    for entry in tar:
        if entry.offset <= reached:
            raise DataError(f"{member}: damaged archive (an entry lies before the last one)")
        found, reached = (entry if entry.name == member else found), entry.offset
    if found is None:
        raise KeyError(member)
    return found


# Decoders: (data, count, shape, classes) -> (images (count, *shape) or None, labels (count,) or None)


def decode_idx(data: bytes, count: int, shape: tuple[int, ...], classes: int):
    """IDX: big-endian magic number (2051 images, 2049 labels), the sizes, then one byte an entry."""
    pixels = np.frombuffer(data, np.uint8)
    for size, *header in ((math.prod(shape), 2051, count, *shape[1:]), (1, 2049, count)):
        head = struct.pack(f">{len(header)}I", *header)
        if data[: len(head)] == head and len(data) == len(head) + count * size:
            body = pixels[len(head) :]
            return (body.reshape(count, *shape), None) if size > 1 else (None, checked(body, classes))
    raise DataError(f"is not an IDX file of {count} labels or {count} images of shape {shape}")


def decode_binary(data: bytes, count: int, shape: tuple[int, ...], classes: int):
    """CIFAR binary: one row an image, of one label byte (CIFAR-100: coarse, then fine) and the pixels."""
    labels = 2 if classes == 100 else 1
    row = labels + math.prod(shape)
    if len(data) != count * row:
        raise DataError(f"has {len(data)} bytes, expected {count * row}")
    rows = np.frombuffer(data, np.uint8).reshape(count, row)
    return rows[:, labels:].reshape(count, *shape), checked(rows[:, labels - 1], classes)


def decode_pickle(data: bytes, count: int, shape: tuple[int, ...], classes: int):
    """CIFAR python version: a pickled dict with `data` (count, pixels) and `labels` or `fine_labels`."""
    try:
        _check_memo(data)
        batch = _Plain(io.BytesIO(data), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        labels = batch["fine_labels" if classes == 100 else "labels"]
        pixels = batch["data"].bytes((count, math.prod(shape)))
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"is not a plain CIFAR pickle of {count} images ({error})") from error
    if type(labels) is not list or len(labels) != count or not all(type(k) is int and 0 <= k < classes for k in labels):
        raise DataError(f"needs {count} labels in 0..{classes - 1}")
    return pixels.reshape(count, *shape), np.array(labels, np.int64)


def _check_memo(data: bytes) -> None:
    """A place far out in the memo would make the unpickler lay out all the memory before it."""
    places = [place for code, place, _ in pickletools.genops(data) if code.name in ("PUT", "BINPUT", "LONG_BINPUT")]
    if max(places, default=0) >= MEMO:
        raise ValueError(f"memo of {max(places)} places, expected less than {MEMO}")


def checked(labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels as int64, or DataError if one is not in 0..classes-1."""
    if labels.max() >= classes:
        raise DataError(f"has a label {labels.max()}, expected 0..{classes - 1}")
    return labels.astype(np.int64)


class _Array:
    """Stands in for everything of numpy in a pickle: keeps what it is given, runs nothing."""

    def __init__(self, *given):
        self.given, self.state = given, ()

    def __setstate__(self, state):
        self.state = state

    def bytes(self, shape: tuple[int, int]) -> np.ndarray:
        """The uint8 array of this shape whose state this is (numpy's: version, shape, dtype, fortran, content)."""
        _, held, dtype, fortran, content = self.state
        if held != shape or dtype.given[0] not in (b"u1", "u1"):
            raise ValueError(f"data of shape {held}, expected uint8 {shape}")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Plain(pickle.Unpickler):
    """Reads dicts, lists, bytes, strings, numbers and numpy arrays; any other global is refused, so nothing is called."""

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Array
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
