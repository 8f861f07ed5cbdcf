"""Runs what is missing of a grid, on any concurrent.futures executor."""

import ctypes
import math
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise, product
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import asym
from asym import data, gemm, kernels, stacked, versions
from asym.checkpoint import Checkpoint
from asym.checks import expect, expect_device, is_number, is_whole
from asym.config import Config
from asym.frames import TEST_IMAGES
from asym.holds import ATTEMPTS, PAUSE, Holds, Queue, Task
from asym.progress import Bar, tell, tell_to
from asym.results import Record, Store
from asym.train import History, build, expect_images, train

Ended = tuple[Config, Record | BaseException | None]  # a run with its record, its error, or None: another grid has stored it

SUBMITTED = 256  # runs that an executor of the caller's is given at once
TRAINING_IMAGES = 50_000  # of a whole data set, near enough for an estimate
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
ON_GPU = "convolutions in TF32"
DEVICES = re.compile(r"(cpu|cuda)(:\d+)?")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # where Linux tells a container's share of the processor
NEAREST = 20  # runs that together tell a rate
FEW = 10  # a run tells the rate of those on at most so many times its images
NO_WORKER = (
    "no worker process gets as far as its first run; what stops it stands above. Each of them imports the script that runs the "
    'grid, which therefore does so under `if __name__ == "__main__":`'
)
RATE = 6e10  # floating-point operations a second of one core in training, where no stored run tells


class Stillborn(BrokenExecutor):
    """A pool of which no process began to work."""


@dataclass(frozen=True)
class Outcome:
    """How many runs a grid finished, found done (at first, or by another grid meanwhile), and left for the next call (budget)."""

    ran: int
    done_before: int
    left: int


def cores() -> int:
    """The processor cores that this process may use, which a batch system or a container may have made fewer than there are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS, Windows: all
    try:
        quota, period = map(int, QUOTA.read_text().split())
    except (OSError, ValueError):  # no such file, or "max": the share is not limited
        return allowed
    return max(1, min(allowed, quota // period))


def tf32() -> bool:
    """Whether a GPU's convolutions round to TF32, by the newer of torch's two switches, which follows the older and is always to
    be read."""
    return torch.backends.cudnn.conv.fp32_precision == "tf32"


@cache
def commit() -> str:
    """The checkout's commit, with + if files of the package differ from it; empty outside a checkout, and where the package is
    installed inside another project's."""
    git = ["git", "-C", str(Path(asym.__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed.strip() else "")


@cache
def keep_memory() -> None:
    """glibc gives large blocks back and a step page-faults them in again; from here on it keeps them, for some more memory."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
            libc.mallopt(option, value)


def perform(config: Config, device: str = "cpu", threads: int | None = 1) -> Record:
    """Trains one config and returns its record; from then on this process computes in so many threads (None: in as many as it
    did)."""
    return perform_task((config,), device, threads)[0]


def perform_task(
    task: Task, device: str = "cpu", threads: int | None = 1, library: str | None = None, keep: Path | None = None
) -> list[Record]:
    """Trains a task's configs, several of them stacked, and returns their records; what every executor's workers call.

    library: the grid's choice of asym.gemm.LIBRARIES, which a worker takes unless its own environment has one. keep: the file of
    its checkpoint, if the worker reaches that folder.
    """
    keep_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    if library not in (None, gemm.library()):
        os.environ["ASYM_GEMM"] = os.environ.get("ASYM_GEMM") or library
    started, clock, at = datetime.now(UTC), time.perf_counter(), commit()  # which may be another when the training ends
    made_by = _made_by(task[0], device)
    checkpoint = Checkpoint(keep, made_by) if keep is not None and keep.parent.is_dir() else None
    options = {"device": device, "on_epoch": lambda row: tell(task[0], len(task) * row["epoch"]), "checkpoint": checkpoint}
    histories = [train(task[0], **options)] if len(task) == 1 else stacked.train(task, **options)
    told = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(((checkpoint.seconds if checkpoint else 0) + time.perf_counter() - clock) / len(task), 3),
        **made_by,
        "commit": at,
    }
    if len(task) > 1:
        told["stacked"] = len(task)  # and its seconds are a share
    if checkpoint is not None and checkpoint.sittings > 1:
        told["sittings"] = checkpoint.sittings  # it was stopped and gone on with; started is the last one's
    return [_record(history, told) for history in histories]


def _made_by(config: Config, device: str) -> dict[str, str | int]:
    """What decides a run's numbers beside its config and data."""
    stock = f"stock, {ON_GPU}" if device.startswith("cuda") and tf32() else "stock"
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else gemm.processor(),
        "threads": torch.get_num_threads(),
        "matrix_products": gemm.library() if device == "cpu" else stock,
        "untied_products": kernels.untied() if device == "cpu" and config.net == "poggio_untied" else "",
        "code": versions.current(),
        "asym": asym.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def library() -> str:
    """The library for matrix products (asym.gemm) that all workers are told, chosen as they compute: in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return gemm.library()
    finally:
        torch.set_num_threads(threads)


def in_tf32(record: Record) -> bool:
    """Whether the run's convolutions were taken in TF32, on a GPU."""
    return ON_GPU in record.provenance.get("matrix_products", "")


def _record(history: History, told: dict[str, str | int | float]) -> Record:
    of_data = {"data_fingerprint": history.data_fingerprint, "data_note": history.data_note}
    return Record(history.config, history.epochs, history.diverged, told | of_data)


def estimate(configs: Iterable[Config], records: Iterable[Record], rate: float | None = RATE) -> float:
    """Roughly how many seconds of one worker the configs need, each at the rate of the records that took about as many operations
    in its net and precision, or in fp32 where none tells of another. A run on few images tells nothing of one on many, and one
    whose last layer learns alone, which has hardly any operations, nothing of one that learns as a whole.

    rate: operations a second of a net that none tells of; NaN is returned if there is such a net and it is None.
    """
    known: dict[tuple[str, str, bool], list[tuple[float, float, int]]] = {}
    for record in records:
        taken, config = record.provenance.get("seconds"), record.config
        if taken and not record.diverged:
            kind = config.net, config.precision, config.last_alone
            known.setdefault(kind, []).append((_operations(config), taken, _images(config)))

    @cache
    def told(net: str, precision: str, alone: bool, images: int, operations: float) -> float | None:
        # locally connected layers take longer for an operation, narrow nets, small batches and short runs for all of them
        alike = [pair for pair in known.get((net, precision, alone), ()) if images <= FEW * pair[2]]
        nearest = sorted(alike, key=lambda pair: abs(math.log(pair[0] / operations)))[:NEAREST]
        return sum(operations for operations, _, _ in nearest) / sum(taken for _, taken, _ in nearest) if alike else None

    def seconds(config: Config) -> float:
        operations = _operations(config)
        kinds = product(dict.fromkeys((config.last_alone, False)), (config.precision, "fp32"))
        speeds = (told(config.net, precision, alone, _images(config), operations) for alone, precision in kinds)
        return operations / (next(filter(None, speeds), rate) or math.nan)

    return sum(map(seconds, configs))


def _images(config: Config) -> int:
    return config.subset or TRAINING_IMAGES


def _operations(config: Config) -> float:
    """Floating-point operations of a run: a forward pass for each image tested, before the first epoch and after each, and three
    for each trained on, with those of the backward pass; the tied net that a pretrained convolution comes from takes as many. A
    last layer that learns alone takes next to none: what it is given is computed once."""
    trained = _images(config) - config.validation
    tested = (config.test_subset or TEST_IMAGES) + config.validation
    passes = trained + tested if config.last_alone else 3 * config.epochs * trained + (config.epochs + 1) * tested
    tied = config.net.removesuffix("_untied")  # which multiplies as often
    once = _forward_operations(config.dataset, tied, config.hidden, config.layers)
    return (3 * config.pretrained * trained + passes) * once


@cache
def _forward_operations(dataset: str, net: str, hidden: tuple[int, ...], layers: int) -> int:
    """Of one image: two for each weight at each place where it is used."""
    source = data.SOURCES[dataset]
    if net == "dense":
        widths = (math.prod(source.shape), *hidden, source.classes)
        return 2 * sum(wide * out for wide, out in pairwise(widths))
    config, passages = Config(dataset=dataset, net=net, rules=("bp",) * layers), []
    with torch.no_grad():
        build(config, source.shape, source.classes)(torch.zeros(1, *source.shape), passages)
    return 2 * sum(passage.output.numel() * passage.layer.weight[0].numel() for passage in passages)


def run(
    configs: Iterable[Config],
    store: Store,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    budget: float | None = None,
    executor: Executor | None = None,
    stack: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Runs the configs that the store lacks, in their order, and stores each as it ends; a second call goes on where one stopped.

    jobs: processes of one thread each (default: the cores that this process may use, on a GPU one); with an executor (a Dask
    client's get_executor(), say) how many runs it is given at once (default: 256). stack: so many seeds of a config are trained
    in one program where they can be, for a GPU; their first one's turn is theirs. budget: seconds after which no run is started
    and those still going are given up; of a run that is given up, or whose process dies, the last epochs are lost (see
    asym.checkpoint).
    progress(done, total) is called after each run; without it a bar of epochs is shown where stderr is a terminal. Ctrl-C leaves
    what is stored. A run whose process dies is tried again, three times in all. A run that another grid on this store is making
    is left to it, and awaited. Raises data.DataError before the first run if a data set is missing or damaged, ValueError for
    jobs, stack or budget that do not count, a device that is not here, a config that takes more images than there are, or an
    unknown form in $ASYM_UNTIED or $ASYM_GEMM; RuntimeError, after all the others, for runs that failed, naming the first, and
    where no worker process gets as far as a run: a script calls this under `if __name__ == "__main__":`.
    """
    for name, value in (("jobs", 1 if jobs is None else jobs), ("stack", stack)):
        expect(name, value, is_whole(value, 1), "a whole number, at least 1")
    expect("budget", budget, budget is None or is_number(budget) and budget >= 0, "a number of seconds, at least 0, or None")
    wanted = list(dict.fromkeys(configs))
    there = {config: record for config in wanted if (record := store.load(config)) is not None}
    missing = [config for config in wanted if config not in there]
    expect("device", device, bool(DEVICES.fullmatch(str(device))), "cpu, or cuda, cuda:1 ...")
    if executor is None and missing:
        device = str(expect_device(device))
        kernels.untied_from()
    copies = {(config.dataset, config.unverified_data) for config in missing}
    here = {name: data.load(name, unverified=unverified) for name, unverified in copies}
    for config in missing:
        expect_images(config, here[config.dataset])
    if missing:
        _warn_of_others(there.values(), {name: dataset.fingerprint for name, dataset in here.items()})
    deadline = math.inf if budget is None else time.monotonic() + budget
    done, ran, failed = len(there), 0, {}
    with Bar(wanted, set(there), quiet=progress is not None) as bar, Holds(store.folder) as holds:
        queue = Queue(_tasks(missing, stack), store, holds)
        with closing(_finish(queue, jobs, device, deadline, executor, bar.teller)) as finished:
            for config, made in finished:
                if isinstance(made, BaseException):
                    failed[config] = made
                else:
                    if made is not None:
                        store.save(made)
                        ran += 1
                    done += 1
                    bar.stored(config)
                    if progress is not None:
                        progress(done, len(wanted))
                holds.drop(config)
    if failed:
        config, error = next(iter(failed.items()))
        raise RuntimeError(f"{len(failed)} runs failed, the others are stored; first {config.to_dict()}: {error!r}") from error
    return Outcome(ran, done - ran, len(wanted) - done)


def _warn_of_others(there: Collection[Record], here: dict[str, str]) -> None:
    """They count as done, though what is run now may not be like them. here: the data sets' fingerprints."""
    told = Counter("were made by other code, which may not make the same numbers" for _ in versions.stale(there))
    told.update(
        f"used another copy of {record.config.dataset} than this machine has (no difference is taken between two copies)"
        for record in there
        if here.get(record.config.dataset) not in (None, record.provenance.get("data_fingerprint"))
    )
    for what, count in told.items():
        warnings.warn(
            f"{count} of the runs that are there {what}, and stay; to run them anew, name a new folder in ASYM_RUNS", stacklevel=3
        )


def _tasks(configs: list[Config], stack: int) -> list[Task]:
    """The configs in their order; those that differ by their seed alone come together, `stack` at a time."""
    groups: dict[Config, list[Config]] = {}
    for config in configs:
        groups.setdefault(replace(config, seed=0) if stack > 1 and stacked.stackable(config) else config, []).append(config)
    return [tuple(group[start : start + stack]) for group in groups.values() for start in range(0, len(group), stack)]


def _finish(
    queue: Queue, jobs: int | None, device: str, deadline: float, executor: Executor | None, teller: Connection | None
) -> Iterator[Ended]:
    """The runs as they end; a pool that breaks is replaced, and the runs that it held are tried again."""
    processes = jobs or (cores() if device == "cpu" else 1)
    window = jobs or SUBMITTED if executor else 2 * processes  # runs that a broken pool loses, at most
    stillborn = 0
    while queue and time.monotonic() < deadline:
        running: dict[Future, Task] = {}
        try:
            with nullcontext(executor) if executor else _processes(processes, teller) as pool:
                yield from _drain(pool, queue, running, window, device, deadline)
        except BrokenExecutor as broken:
            if executor is not None:
                raise
            stillborn = stillborn + 1 if isinstance(broken, Stillborn) else 0
            if stillborn == ATTEMPTS:
                raise RuntimeError(NO_WORKER) from None
            error = BrokenExecutor(f"its process died {ATTEMPTS} times")
            yield from ((config, error) for task in queue.lose(running.values()) for config in task)
        finally:
            for future in running:
                future.cancel()


def _drain(
    pool: Executor, queue: Queue, running: dict[Future, Task], window: int, device: str, deadline: float
) -> Iterator[Ended]:
    """Keeps `window` runs submitted and gives each as it ends, until none is left or the pool breaks."""
    products = library()
    while (queue or running) and time.monotonic() < deadline:
        while len(running) < window and (task := queue.take(running.values())):
            try:
                keep = queue.store.checkpoint(task[-1]).absolute()  # which goes as the last of them is saved
                running[pool.submit(perform_task, task, device, 1, products, keep)] = task
            except BrokenExecutor:
                queue.put_back([task])
                raise
        while queue.found:
            yield queue.found.popleft(), None
        if not running:
            if not queue.put_off:
                continue
            queue.tell()
        ended = _wait(running, min(deadline - time.monotonic(), PAUSE if queue.put_off else math.inf))
        lost = {future for future in ended if future.cancelled() or isinstance(future.exception(), BrokenExecutor)}
        for future in ended - lost:
            task = running.pop(future)
            yield from zip(task, [future.exception()] * len(task) if future.exception() else future.result(), strict=True)
        if lost:
            raise BrokenExecutor("the executor gave its runs up")


def _wait(running: Collection[Future], seconds: float) -> set[Future]:
    """Those that have ended, as soon as one has, or after so many seconds."""
    if running:
        return wait(running, None if seconds == math.inf else max(0.0, seconds), FIRST_COMPLETED).done
    time.sleep(max(0.0, seconds))
    return set()


@contextmanager
def _processes(jobs: int, teller: Connection | None) -> Iterator[Executor]:
    """A pool of processes that end with this block, or with this process if it is killed, whatever they are doing.

    teller: where they tell their epochs. If it breaks before any of them has taken its first steps, it does so as Stillborn.
    """
    context = multiprocessing.get_context("spawn")
    lifeline, held = context.Pipe()
    pool = ProcessPoolExecutor(jobs, context, _attend, (lifeline, held, library(), teller))
    with lifeline, held:
        try:
            yield pool
        except BrokenExecutor as broken:
            if held.poll():
                raise
            raise Stillborn from broken
        finally:
            for worker in list((pool._processes or {}).values()):  # Python 3.14 has kill_workers()
                worker.kill()  # one that is suspended would not notice the lifeline
            pool.shutdown(cancel_futures=True)  # waits: Python's exit trips over a pool that is about to close


def _attend(lifeline: Connection, held: Connection, library: str, teller: Connection | None) -> None:
    """A new worker's first steps: leave Ctrl-C to the parent, multiply as the other workers do, end when the lifeline is cut."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    held.close()  # the parent's end, which a worker must not keep open
    lifeline.send_bytes(b"here")
    os.environ["ASYM_GEMM"] = library
    tell_to(teller)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()  # nothing is ever sent this way: this waits for the other end to close
    finally:
        os._exit(1)
