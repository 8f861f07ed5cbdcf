"""How fast the layers are beside their peers and the machine's ceilings: forms timed in turn, medians of paired ratios."""

import multiprocessing
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

import asym
from asym import gemm, grid, kernels
from asym.bench import roofline
from asym.bench.forms import BATCHES, FORMS, GEMM, STREAM, run_once, trainer
from asym.bench.goals import Seconds, all_goals

ROUNDS = {"ceilings": 15, "dense": 15, "poggio": 11, "untied": 9, "slow": 3, "jax": 3, "data": 15, "overhead": 5}
QUICK = {"ceilings": 5, "dense": 7, "poggio": 3, "untied": 3, "data": 5, "overhead": 2}  # without the slowest peers
PRODUCTS = {p: (f"{p} product, torch", f"{p} product, oneDNN") for p in ("fp32", "bf16")}
MEMORY = {"memory copy": 2, "memory triad": 3}  # form -> how many arrays it reads or writes
STEPS = {"dense": "dense, fa", "poggio": "poggio, fa", "poggio_untied": "poggio_untied, fa, batch 500"}  # under the roof
BESIDE = {"ceilings": (*PRODUCTS["fp32"], *PRODUCTS["bf16"], *MEMORY), "poggio": PRODUCTS["fp32"]}  # timed with a group's forms

Pools = dict[str, ProcessPoolExecutor]
_steps: dict[str, object] = {}  # in a worker: what it times


def measure(quick: bool = False) -> dict:
    """Times every form and judges every goal: machine, ceilings, forms, goals, roofline, problems, all of it ready for JSON.

    quick: fewer rounds, and without the slowest peers. A peer that is not installed, or that fails, leaves its goals not
    measured; problems says why.
    """
    machine, aims, rounds = _machine(quick), all_goals(), QUICK if quick else ROUNDS
    taken: dict[str, Seconds] = {}
    problems: dict[str, str] = {}
    with _pools() as pools, tqdm(total=sum(rounds.values()), unit="round", disable=None) as bar:
        for group, count in rounds.items():
            bar.set_description(group)
            if group == "overhead":
                taken[group] = _overheads(count, bar)
                continue
            forms = [*(form for goal in aims if goal.group == group for form in goal.forms), *BESIDE.get(group, ())]
            taken[group] = _in_turn(pools, [form for form in dict.fromkeys(forms) if form in FORMS], count, problems, bar)
    timed: dict[str, dict] = {}
    for group, forms in taken.items():
        for form, seconds in forms.items():  # some are timed in several groups: the one with most rounds tells most
            if len(seconds) > timed.get(form, {"rounds": 0})["rounds"]:
                timed[form] = {"group": group, "seconds": median(seconds), "rounds": len(seconds)}
    return {
        "machine": machine,
        "ceilings": _ceilings(taken["ceilings"]),
        "forms": timed,
        "goals": [goal.judge(taken.get(goal.group, {})) for goal in aims],
        "roofline": [_point(net, timed[form]["seconds"]) for net, form in STEPS.items() if form in timed],
        "problems": problems,
    }


@contextmanager
def _pools() -> Iterator[Pools]:
    """Two processes that take turns: "ours" keeps the memory it frees, as a grid's runs do; "theirs" is torch as it comes."""
    pools = {name: _pool(name) for name in ("ours", "theirs")}
    try:
        yield pools
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def _pool(name: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (name == "ours",))


def _begin(keeps_memory: bool) -> None:
    if keeps_memory:
        grid.keep_memory()


def _in_turn(pools: Pools, forms: Iterable[str], rounds: int, problems: dict[str, str], bar: tqdm) -> Seconds:
    """Every round times each form once, in an order that turns round each time. A form that fails is left out, and of a process
    that dies all forms that it had prepared."""
    seconds: Seconds = {}

    def ask(step: Callable[[str], Any], form: str) -> Any:
        try:
            return pools[FORMS[form][0]].submit(step, form).result()
        except Exception as error:  # whatever a peer raises is its own
            problems[form] = f"{type(error).__name__}: {error}"
            seconds.pop(form, None)

    for form in forms:
        seconds[form] = []
        ask(_prepare, form)
    for turn in range(rounds):
        for form in list(seconds)[:: -1 if turn % 2 else 1]:
            if (taken := ask(_time, form)) is not None:
                seconds[form].append(taken)
        bar.update()
    for name, pool in pools.items():
        try:
            pool.submit(_forget).result()
        except BrokenExecutor:
            pools[name] = _pool(name)
    for precision, products in PRODUCTS.items():
        times = [seconds[form] for form in products if form in seconds]
        if times:
            seconds[f"{precision} product"] = [min(both) for both in zip(*times, strict=True)]
    return seconds


def _prepare(form: str) -> None:
    """The form's first steps, in which memory is found and a peer may compile: three, or as many as begin within a second."""
    with redirect_stdout(StringIO()):  # BioTorch tells of every layer
        _steps[form] = FORMS[form][1]()
        start = time.perf_counter()
        for _ in range(3):
            if time.perf_counter() - start < 1:
                _steps[form]()


def _time(form: str) -> float:
    start = time.perf_counter()
    _steps[form]()
    return time.perf_counter() - start


def _forget() -> None:
    _steps.clear()


def _overheads(rounds: int, bar: tqdm) -> Seconds:
    """What a run takes beside its epochs: as the first of a process that must start for it, and as the next in that process."""
    seconds: Seconds = {"first run": [], "warm run": []}
    for _ in range(rounds):
        with _pools() as pools:
            for taken in seconds.values():
                taken.append(_beside_epochs(pools["ours"]))
        bar.update()
    return seconds


def _beside_epochs(pool: ProcessPoolExecutor) -> float:
    start = time.perf_counter()
    epochs = pool.submit(run_once).result()
    return time.perf_counter() - start - epochs


def _ceilings(seconds: Seconds) -> dict[str, float]:
    """Operations (Gflop/s) and memory (GB/s) at the best of the rounds: other work only ever slows a machine."""
    products = {form: 2 * GEMM**3 / min(seconds[form]) / 1e9 for pair in PRODUCTS.values() for form in pair if form in seconds}
    memory = {form: 4 * STREAM * arrays / min(seconds[form]) / 1e9 for form, arrays in MEMORY.items() if form in seconds}
    return products | memory


def _point(net: str, seconds: float) -> dict:
    """A net's step by feedback alignment at batch 500."""
    made = trainer(net, "fa", 500)
    at_least = {"operations": roofline.operations(made), "bytes": roofline.traffic(made)}
    return {"net": net} | at_least | {"seconds": seconds / BATCHES[net]}


def _machine(quick: bool) -> dict:
    return {
        "processor": gemm.processor(),
        "cores": grid.cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "asym": asym.__version__,
        "commit": grid.commit(),
        "matrix_products": gemm.library(),
        "untied_products": kernels.untied(),
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
    }
