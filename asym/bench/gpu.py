"""What a step costs on a GPU: launched kernel by kernel, recorded, and with several seeds in one program."""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

import torch
from tqdm import tqdm

from asym import data, grid
from asym.bench import forms, peers
from asym.recorded import Recorded
from asym.stacked import Stack
from asym.train import Trainer

FORMS = (  # net, precision, seeds in one program, recorded
    ("dense", "fp32", 1, False),
    ("dense", "fp32", 1, True),
    ("dense", "fp32", 3, True),
    ("dense", "fp32", 5, True),
    ("poggio", "fp32", 1, False),
    ("poggio", "fp32", 1, True),
    ("poggio", "bf16", 1, True),
    ("poggio", "fp32", 3, True),
    ("poggio_untied", "fp32", 1, True),
    ("poggio_untied", "bf16", 1, True),
)
BATCH, STEPS, ROUNDS, TESTED = 500, 100, 3, 10_000  # an epoch has so many steps; epochs timed, after one that is not; test images


def report(device: str, wanted: Iterable[tuple] = FORMS) -> dict:
    """The machine and every form's measurements, ready for JSON; on random images of CIFAR-10's size."""
    images = peers.images(BATCH, STEPS)
    images = replace(images, test_images=images.train_images[:TESTED], test_labels=images.train_labels[:TESTED]).to(device)
    machine = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
        "convolutions": "TF32" if grid.tf32() else "fp32",
        "commit": grid.commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    return {"machine": machine, "forms": [measure(*form, images, device) for form in tqdm(wanted, unit="form", disable=None)]}


def measure(net: str, precision: str, seeds: int, recorded: bool, dataset: data.Dataset, device: str) -> dict:
    """A form's medians over epochs: milliseconds a step, and seconds for accuracies and measures after an epoch, each a seed;
    and the most memory that it took (GiB)."""
    torch.cuda.reset_peak_memory_stats(device)
    configs = [replace(forms.config(net, "fa", BATCH, precision), seed=seed) for seed in range(seeds)]
    trainers = [Trainer(config, dataset, device) for config in configs]
    learner = Stack(trainers) if seeds > 1 else trainers[0]
    learner.recorded = Recorded(torch.device(device), recorded)
    epochs, ends = [], []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        learner.epoch()
        epochs.append(time.perf_counter() - start)
        start = time.perf_counter()
        for trainer in trainers:
            trainer.accuracies(), trainer.probe.measure()
        ends.append(time.perf_counter() - start)
    return {
        "net": net,
        "precision": precision,
        "seeds": seeds,
        "recorded": recorded,
        "ms_a_step": 1000 * median(epochs[1:]) / STEPS / seeds,
        "s_an_end": median(ends[1:]) / seeds,
        "gib": torch.cuda.max_memory_allocated(device) / 2**30,
    }
