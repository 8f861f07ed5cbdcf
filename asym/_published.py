"""What is published: each data set's files, the checksum of each, and the ways to store them that are known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from asym._formats import decode_binary, decode_idx, decode_pickle


@dataclass(frozen=True)
class File:
    """One file: its name, how many images or labels it holds, and "algorithm:hex" of its unpacked content."""

    name: str
    count: int
    checksum: str


@dataclass(frozen=True)
class Layout:
    """One way to store a data set: a folder of files, or an archive that holds this folder."""

    folder: str
    decode: Callable
    train: tuple[File, ...]
    test: tuple[File, ...]
    archive: str = ""


@dataclass(frozen=True)
class Download:
    """One published file: its URL, "md5:hex", and the place in a data folder where a layout expects it."""

    url: str
    checksum: str
    place: str


@dataclass(frozen=True)
class Source:
    """A data set: image shape (C, H, W), number of classes, its layouts in order of trial, and what to download."""

    shape: tuple[int, int, int]
    classes: int
    layouts: tuple[Layout, ...]
    downloads: tuple[Download, ...] = ()

    def limit(self, file: File) -> int:
        """Bytes that a file of this set can have; 64 an image beside the pixels serve for labels and names."""
        return file.count * (math.prod(self.shape) + 64) + 4096


def _idx(folder: str, *checksums: str) -> Layout:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    files = [
        File(name, count, checksum) for name, count, checksum in zip(names, (60000, 60000, 10000, 10000), checksums, strict=True)
    ]
    return Layout(folder, decode_idx, tuple(files[:2]), tuple(files[2:]))


def _cifar10(folder: str, archive: str, decode: Callable, suffix: str, *checksums: str) -> Layout:
    names = [f"data_batch_{k}{suffix}" for k in range(1, 6)] + [f"test_batch{suffix}"]
    files = [File(name, 10000, checksum) for name, checksum in zip(names, checksums, strict=True)]
    return Layout(folder, decode, tuple(files[:5]), tuple(files[5:]), archive)


def _cifar100(folder: str, archive: str, decode: Callable, suffix: str, train: str, test: str) -> Layout:
    return Layout(folder, decode, (File(f"train{suffix}", 50000, train),), (File(f"test{suffix}", 10000, test),), archive)


FASHION = (
    "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
MNIST = (
    "md5:6bbc9ace898e44ae57da46a324031adb",
    "md5:a25bea736e30d166cdddb491f175f624",
    "md5:2646ac647ad5339dbf082846283269ea",
    "md5:27ae3e4e09519cfbb04c329615203637",
)
CIFAR10_BINARY = (
    "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
    "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
)
CIFAR10_PYTHON = (
    "md5:c99cafc152244af753f735de768cd75f",
    "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "md5:54ebc095f3ab1f0389bbae665268c751",
    "md5:634d18415352ddfa80567beed471001a",
    "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "md5:40351d587109b95175f43aff81a1287e",
)
CIFAR100_BINARY = ("sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e", "sha1:8fb6623e830365ff53cf14adec797474f5478006")
CIFAR100_PYTHON = ("md5:16019d7e3df5f24257cddd939b257f8d", "md5:f0ef6b0ae62326f3e7ffdfab6717acfc")

TORONTO = "https://www.cs.toronto.edu/~kriz/"
OSSCI = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SOURCES = {
    "fashion_mnist": Source((1, 28, 28), 10, (_idx("FashionMNIST/raw", *FASHION), _idx("fashion-mnist", *FASHION))),
    "mnist": Source(
        (1, 28, 28),
        10,
        (_idx("MNIST/raw", *MNIST),),
        tuple(
            Download(f"{OSSCI}{name}", f"md5:{md5}", f"MNIST/raw/{name}")
            for name, md5 in (
                ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
            )
        ),
    ),
    "cifar10": Source(
        (3, 32, 32),
        10,
        (
            _cifar10("cifar-10-batches-bin", "cifar-10-binary.tar.gz", decode_binary, ".bin", *CIFAR10_BINARY),
            _cifar10("cifar-10-batches-py", "cifar-10-python.tar.gz", decode_pickle, "", *CIFAR10_PYTHON),
            _cifar10("cifar-10-incomplete", "", decode_binary, ".bin", *CIFAR10_BINARY),
        ),
        (Download(f"{TORONTO}cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-binary.tar.gz"),),
    ),
    "cifar100": Source(
        (3, 32, 32),
        100,
        (
            _cifar100("cifar-100-binary", "cifar-100-binary.tar.gz", decode_binary, ".bin", *CIFAR100_BINARY),
            _cifar100("cifar-100-python", "cifar-100-python.tar.gz", decode_pickle, "", *CIFAR100_PYTHON),
        ),
        (Download(f"{TORONTO}cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary.tar.gz"),),
    ),
}
