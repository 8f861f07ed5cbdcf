"""All that the bench times: ours, by the trainer that every run uses; the peers; and what the machine can do at most."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from asym import data, gemm, grid
from asym.bench import peers
from asym.bench.peers import Step
from asym.config import Config
from asym.layers import UntiedConv2d
from asym.results import Store
from asym.train import Trainer

GEMM = 2048  # rows and columns of the products that measure a library
STREAM = 2**25  # numbers of 4 bytes: past every cache
EPOCH = 50_000  # images of CIFAR-10's
BATCHES = {"dense": 4, "poggio": 1, "poggio_untied": 1}  # a timed step's


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def config(net: str, rule: str, batch: int, precision: str = "fp32") -> Config:
    """A net under a rule; its first layer, which sends nothing back, learns by bp."""
    hidden = peers.HIDDEN if net == "dense" else ()
    layers = len(hidden) + 1 if hidden else 5
    rules = ("bp",) + (rule,) * (layers - 1)
    return Config(dataset="cifar10", net=net, hidden=hidden, rules=rules, batch=batch, precision=precision)


def trainer(net: str, rule: str, batch: int, precision: str = "fp32") -> Trainer:
    """The trainer of a net on random images, BATCHES of them an epoch."""
    return Trainer(config(net, rule, batch, precision), peers.images(batch, BATCHES[net]))


def _ours(net: str, rule: str, batch: int, precision: str = "fp32") -> Step:
    return trainer(net, rule, batch, precision).epoch


def _untied_in_torch(batch: int) -> Step:
    with _environment(ASYM_UNTIED="torch"):
        epoch = _ours("poggio_untied", "fa", batch)

    def step():
        with _environment(ASYM_UNTIED="torch"):
            epoch()

    return step


def _untied_layer(batch: int) -> Step:
    c, size, o, k = peers.LAYER.values()
    layer = UntiedConv2d(c, o, k, size, padding=k // 2, bias=False, rule="fa")
    x = torch.randn(batch, c, size, size, requires_grad=True)
    return lambda: torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))


def _stock(net: str, batch: int, untied: bool = False) -> Step:
    return peers.epochs_of(peers.stock(net, untied), batch, BATCHES[net])


def _biotorch(net: str, rule: str, batch: int) -> Step:
    return peers.biotorch(net, rule, batch, BATCHES[net])


def _measures(net: str, batch: int) -> Step:
    """One look at a net that has learned a step: what every epoch ends with."""
    made = trainer(net, "fa", batch)
    made.epoch()
    return made.probe.measure


def _data_path(batch: int, batches: int) -> Step:
    dataset, generator = peers.images(batch, batches), torch.Generator().manual_seed(0)

    def epoch():
        for index in data.batches(len(dataset.train_labels), batch, generator):
            dataset.standardise(dataset.train_images.index_select(0, index)).sum()

    return epoch


def _matrices(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(GEMM, GEMM, generator=generator).to(dtype) for _ in range(2))


def _product(library: str, dtype: torch.dtype) -> Step:
    """`torch.mm` in its own library, or in oneDNN; in bf16 torch has no other than oneDNN."""
    a, b = _matrices(dtype)
    return partial(gemm.onednn_linear if library == "onednn" else torch.mm, a, b)


def _copy() -> Step:
    a, b = torch.ones(STREAM), torch.empty(STREAM)
    return lambda: b.copy_(a)


def _triad() -> Step:
    a, b, c = (torch.ones(STREAM) for _ in range(3))
    return lambda: torch.add(a, b, alpha=3, out=c)


def run_once() -> float:
    """A small run with all that belongs to one: the data loaded, the record kept; the seconds of its epochs."""
    config = Config(rules=("bp", "fa"), hidden=(64,), subset=1000, test_subset=1000)
    with tempfile.TemporaryDirectory() as folder:
        record = grid.perform(config)
        Store(folder).save(record)
    return record.epochs[-1]["seconds"]


# name -> (which process, what makes the step). "ours" keeps freed memory as every run does, "theirs" is torch as it comes.
FORMS: dict[str, tuple[str, Callable[[], Step]]] = {
    "fp32 product, torch": ("ours", partial(_product, "stock", torch.float32)),
    "fp32 product, oneDNN": ("ours", partial(_product, "onednn", torch.float32)),
    "bf16 product, torch": ("ours", partial(_product, "stock", torch.bfloat16)),
    "bf16 product, oneDNN": ("ours", partial(_product, "onednn", torch.bfloat16)),
    "memory copy": ("ours", _copy),
    "memory triad": ("ours", _triad),
    "data path": ("ours", partial(_data_path, 500, 4)),
    "DataLoader": ("theirs", partial(peers.loader, 500, 4)),
    "untied layer, fa": ("ours", partial(_untied_layer, 500)),
    "untied layer, JAX's own": ("theirs", partial(peers.jax_local, 500, "library")),
    "untied layer, JAX by hand": ("theirs", partial(peers.jax_local, 500, "batched")),
    "poggio_untied, fa, torch form": ("ours", partial(_untied_in_torch, 500)),
    "poggio_untied, unfold and einsum": ("theirs", partial(_stock, "poggio", 500, untied=True)),
}
for _net in ("dense", "poggio"):
    FORMS |= {
        f"{_net}, stock bp": ("theirs", partial(_stock, _net, 500)),
        f"{_net}, bp": ("ours", partial(_ours, _net, "bp", 500)),
        f"{_net}, fa": ("ours", partial(_ours, _net, "fa", 500)),
        f"{_net}, dfa": ("ours", partial(_ours, _net, "dfa", 500)),
        f"{_net}, fa, bf16": ("ours", partial(_ours, _net, "fa", 500, "bf16")),
        f"{_net}, BioTorch fa": ("theirs", partial(_biotorch, _net, "fa", 500)),
        f"{_net}, BioTorch dfa": ("theirs", partial(_biotorch, _net, "dfa", 500)),
        f"{_net}, one look": ("ours", partial(_measures, _net, 500)),
    }
for _net in ("dense", "poggio_untied"):
    FORMS[f"{_net}, shared_update"] = ("ours", partial(_ours, _net, "shared_update", 500))
for _batch in (500, 128):
    FORMS |= {
        f"poggio, bp, batch {_batch}": ("ours", partial(_ours, "poggio", "bp", _batch)),
        f"poggio_untied, fa, batch {_batch}": ("ours", partial(_ours, "poggio_untied", "fa", _batch)),
    }
