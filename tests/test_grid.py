"""The grid: it runs what is missing and nothing else, on any executor, and whatever stops it, a second call goes on."""

import errno
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from statistics import mean

import psutil
import pytest
import torch
from made import record as made_up
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import asym
from asym import data, gemm, grid, holds, train, versions
from asym.cli import app
from asym.config import NETS, Config
from asym.data import DataError
from asym.presets import load
from asym.questions import QUESTIONS, cells
from asym.train import build

TINY = Config(subset=500, hidden=(8,), rules=("bp", "fa"))
GRID = [replace(TINY, seed=seed, rules=("bp", rule)) for seed in (0, 1) for rule in ("bp", "fa", "shared_update")]
LONG = replace(TINY, epochs=100_000)  # hours
BAD = replace(TINY, hidden=(10**13,))  # more than torch counts to: this run raises
QUICK = [cell.config for cell in cells("dense", load("quick"))]


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def numbers(record):
    """All that a run's config decides, bit for bit: its rows without their seconds, and whether it diverged."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record.epochs]
    return json.dumps([record.config.to_dict(), rows, record.diverged, record.provenance["data_fingerprint"]])


@pytest.fixture(scope="module")
def undisturbed():
    """What each config's record must hold: trained here, in order, without a grid."""
    return {config: numbers(grid.perform(config)) for config in GRID + QUICK}


def same_as(undisturbed, store, configs):
    return all(numbers(store.load(config)) == undisturbed[config] for config in configs)


def until(condition, seconds=60):
    """Waits until the condition gives something, and returns that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail("waited in vain")


def workers(pid=None):
    """The worker processes of a grid's process."""
    return [p for p in psutil.Process(pid).children(recursive=True) if _is_worker(p)]


def _is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # ended meanwhile, or a zombie
        return False


def gone(processes, seconds=60):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def stored(store):
    """The names of the records."""
    return sorted(path.name for path in store.folder.glob("*.json"))


def files(store):
    """The names of all that is in the folder but the lock file."""
    return sorted({path.name for path in store.folder.iterdir()} - {holds.FILE})


class Counting(Executor):
    """Runs each call at once, in this thread, and keeps what was asked for in its order."""

    def __init__(self):
        self.asked = []

    def submit(self, function, *arguments):
        self.asked.extend(arguments[0])
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


# --- what is run ----------------------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_run_in_its_order_and_once(store, undisturbed):
    first, second = Counting(), Counting()
    assert grid.run([GRID[2], GRID[0], GRID[2]], store, executor=first) == grid.Outcome(2, 0, 0)
    assert grid.run(GRID, store, executor=second) == grid.Outcome(4, 2, 0)
    assert first.asked == [GRID[2], GRID[0]] and second.asked == [GRID[1], *GRID[3:]]
    assert grid.run(GRID, store, executor=Counting()) == grid.Outcome(0, 6, 0)
    assert same_as(undisturbed, store, GRID)


def test_an_empty_grid_is_done(store):
    assert grid.run([], store) == grid.Outcome(0, 0, 0)


def test_a_grid_that_is_done_starts_nothing_and_reads_no_data(store, monkeypatch, tmp_path):
    grid.run(GRID[:1], store, executor=Counting())
    monkeypatch.setenv("ASYM_DATA", str(tmp_path / "absent"))
    started = time.perf_counter()
    assert grid.run(GRID[:1], store) == grid.Outcome(0, 1, 0)
    assert time.perf_counter() - started < 1 and not workers()


def test_damaged_records_are_named_and_run_again(store, undisturbed):
    grid.run(GRID[:3], store, executor=Counting())
    store.path(GRID[0]).write_text(store.path(GRID[0]).read_text()[:-9])
    store.path(GRID[2]).write_bytes(store.path(GRID[1]).read_bytes())
    counting = Counting()
    with pytest.warns(UserWarning, match="no sound record") as caught:
        assert grid.run(GRID[:3], store, executor=counting) == grid.Outcome(2, 1, 0)
    assert counting.asked == [GRID[0], GRID[2]]
    assert [str(store.path(c)) in str(w.message) for c, w in zip(counting.asked, caught, strict=True)] == [True, True]
    assert same_as(undisturbed, store, GRID[:3])


def test_runs_of_another_copy_of_the_data_stay_and_are_counted(store, undisturbed):
    theirs = made_up(GRID[0])
    theirs.provenance.update(code=versions.current(), data_fingerprint="another")
    store.save(theirs)
    with pytest.warns(UserWarning, match="1 of the runs that are there used another copy of fashion_mnist") as caught:
        assert grid.run(GRID[:3], store, executor=Counting()) == grid.Outcome(2, 1, 0)
    assert len(caught) == 1 and store.load(GRID[0]) == theirs and same_as(undisturbed, store, GRID[1:3])


def test_runs_of_other_code_stay_and_are_counted(store, undisturbed):
    theirs = made_up(GRID[0])
    theirs.provenance.update(code="of another day", data_fingerprint=data.load("fashion_mnist").fingerprint)
    store.save(theirs)
    with pytest.warns(UserWarning, match="1 of the runs that are there were made by other code") as caught:
        assert grid.run(GRID[:2], store, executor=Counting()) == grid.Outcome(1, 1, 0)
    assert len(caught) == 1 and store.load(GRID[0]) == theirs and same_as(undisturbed, store, GRID[1:2])
    assert grid.run(GRID[:2], store) == grid.Outcome(0, 2, 0)  # nothing is made, nothing is said


def test_runs_on_data_that_no_missing_run_needs_are_not_of_another_copy(recwarn):
    done = made_up(replace(GRID[0], dataset="mnist"))
    done.provenance.update(code=versions.current(), data_fingerprint="theirs")
    grid._warn_of_others([done], {"fashion_mnist": "ours"})
    assert not recwarn.list


def test_progress_is_told_after_each_run(store):
    told = []
    grid.run(GRID[:1], store, executor=Counting())
    grid.run(GRID[:3], store, executor=Counting(), progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]


# --- the same numbers, whatever runs them ---------------------------------------------------------------------------------------


def test_two_threads_and_another_order_give_the_same_bits(store, threads, undisturbed):
    grid.run(reversed(GRID), store, executor=threads)
    assert same_as(undisturbed, store, GRID)


def test_local_processes_survive_the_death_of_one(store, undisturbed):
    """kill -9 of a worker in mid grid, as the kernel does when memory is short; its runs are made again."""
    killed = []

    def kill_one(done, total):
        if done == 1:
            killed.extend(workers())
            killed[0].kill()

    configs = [replace(config, epochs=8) for config in GRID]
    assert grid.run(configs, store, jobs=1, progress=kill_one) == grid.Outcome(len(configs), 0, 0)
    assert len(killed) == 1 and gone(workers())
    records = [store.load(config) for config in configs]
    assert {record.provenance["threads"] for record in records} == {1}
    assert {record.provenance["matrix_products"] for record in records} == {gemm.library()}
    assert [numbers(record) for record in records] == [numbers(grid.perform(config)) for config in configs]


# --- what fails -----------------------------------------------------------------------------------------------------------------


def test_a_run_that_raises_is_named_after_the_others_are_stored(store, threads, undisturbed):
    configs = [GRID[0], BAD, GRID[1], replace(BAD, seed=1), GRID[2]]
    for left in (2, 2):
        with pytest.raises(
            RuntimeError, match=r"^2 runs failed, the others are stored; first .*10000000000000.*out_features must be"
        ) as caught:
            grid.run(configs, store, executor=threads)
        assert isinstance(caught.value.__cause__, ValueError)
        assert len(stored(store)) == len(configs) - left
    assert same_as(undisturbed, store, GRID[:3])


def test_a_data_set_that_is_missing_is_told_before_any_run(store, monkeypatch, tmp_path):
    grid.run(GRID[:1], store, executor=Counting())
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ASYM_DATA", str(tmp_path / "data"))
    counting = Counting()
    with pytest.raises(DataError, match="has no cifar10"):
        grid.run([*GRID, replace(TINY, dataset="cifar10")], store, executor=counting)
    assert counting.asked == [] and files(store) == [f"{GRID[0].hash}.json"]


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cuda:", "meta", "meta?", "hpu", "mps", "cpu:x"])
def test_a_device_that_is_not_here_is_told_before_any_run(store, device):
    allowed = "one that torch has here" if device == "cuda:99" else "cpu, or cuda, cuda:1 ..."
    with pytest.raises(ValueError, match=f"device must be {re.escape(allowed)}; got '{re.escape(device)}'"):
        grid.run(GRID, store, device=device)
    assert not store.folder.exists() and not workers()


def test_the_processor_is_the_processor_by_whatever_number(store, monkeypatch):
    """What torch calls cpu:0 multiplies by the same library, in as many processes."""
    asked = []
    monkeypatch.setattr(grid, "perform_task", lambda task, device, *_: asked.append(device) or [made_up(c) for c in task])
    monkeypatch.setattr(grid, "_processes", lambda jobs, teller: asked.append(jobs) or ThreadPoolExecutor(jobs))
    grid.run(GRID[:1], store, device="cpu:0")
    assert asked == [grid.cores(), "cpu"]


def test_a_library_chosen_in_several_threads_is_not_that_of_one(monkeypatch, tmp_path):
    """A layer that was used before chose for its own threads."""
    monkeypatch.delenv("ASYM_GEMM", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(grid.gemm, "apart", lambda measured: "onednn" if torch.get_num_threads() == 2 else "stock")
    grid.gemm._remembered.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (grid.gemm.library(), grid.library(), grid.gemm.library()) == ("onednn", "stock", "onednn")
    finally:
        torch.set_num_threads(before)
        grid.gemm._remembered.cache_clear()


def test_workers_are_told_the_library_of_their_one_thread(monkeypatch):
    monkeypatch.setattr(grid.gemm, "library", lambda: f"of {torch.get_num_threads()}")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert grid.library() == "of 1" and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("own", "taken"), [("", "onednn"), ("stock", "stock")])
def test_a_worker_takes_the_grids_library_unless_it_has_its_own(monkeypatch, own, taken):
    monkeypatch.setenv("ASYM_GEMM", own)
    monkeypatch.setattr(grid.gemm, "library", lambda: "stock")
    monkeypatch.setattr(grid, "train", lambda config, **options: train.History(config))
    grid.perform_task((GRID[0],), library="onednn")
    assert os.environ["ASYM_GEMM"] == taken


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("subset", "60000, of fashion_mnist's images"),
        ("test_subset", "10000, of fashion_mnist's images"),
        ("batch", "the 60000 training images"),
        ("validation", f"{60_000 - TINY.batch}, to leave a batch"),
    ],
)
def test_more_images_than_there_are_are_refused_before_any_run(store, name, allowed):
    with pytest.raises(ValueError, match=f"{name} must be at most {allowed}; got 100000"):
        grid.run([*GRID, replace(TINY, **{"subset": None, name: 100_000})], store)
    assert not store.folder.exists() and not workers()


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [("jobs", 0, "a whole number"), ("stack", 1.5, "a whole number"), ("budget", "10", "a number"), ("budget", -1, "a number")],
)
def test_a_grid_refuses_what_it_cannot_count_with(store, name, given, allowed):
    with pytest.raises(ValueError, match=f"{name} must be {allowed}.*, at least .*; got {given!r}"):
        grid.run(GRID, store, **{name: given})
    assert not store.folder.exists()


@pytest.mark.parametrize(("device", "jobs", "processes"), [("cpu", None, grid.cores()), ("cuda", None, 1), ("cuda", 3, 3)])
def test_a_gpu_gets_one_process_unless_more_are_asked_for(store, monkeypatch, device, jobs, processes):
    asked = []

    @contextmanager
    def threads(jobs, teller):
        asked.append(jobs)
        with ThreadPoolExecutor(jobs) as pool:
            yield pool

    monkeypatch.setattr(grid, "_processes", threads)
    monkeypatch.setattr(grid, "expect_device", lambda device: device)
    monkeypatch.setattr(grid, "perform_task", lambda task, *_: [made_up(config) for config in task])
    grid.run(GRID, store, jobs=jobs, device=device)
    assert asked == [processes]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives a process all cores")
def test_the_cores_are_those_that_the_process_may_use(monkeypatch, tmp_path):
    """A batch system gives a job some of a machine's, and one process each of all would share them and the job's memory."""
    monkeypatch.setattr(grid, "QUOTA", tmp_path / "none")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert grid.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert grid.cores() == len(allowed)


@pytest.mark.parametrize(
    ("told", "cores"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), ("", 8)]
)
def test_a_containers_share_of_the_processor_counts(tmp_path, monkeypatch, told, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(grid, "QUOTA", tmp_path / "cpu.max")
    assert grid.cores() == 8
    grid.QUOTA.write_text(told)
    assert grid.cores() == cores


def test_either_switch_of_torch_tells_whether_convolutions_round():
    """In a process of its own: torch mixes the two, and does not take them back."""
    settings = ("fp32_precision = 'ieee'", "cudnn.conv.fp32_precision = 'tf32'", "cudnn.allow_tf32 = False")
    steps = "; ".join(f"torch.backends.{setting}; print(grid.tf32())" for setting in settings)
    script = f"import torch; from asym import grid; print(grid.tf32()); {steps}"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "False", "True", "False"]


def test_a_full_disk_ends_the_grid_at_once_and_loses_one_run(store, undisturbed, monkeypatch):
    """With a run of hours going on beside: its process is ended, not waited for."""
    real, started, running = os.fsync, time.monotonic(), []

    def full(descriptor):
        running.extend(workers())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    try:
        grid.run([GRID[0], LONG], store, jobs=1)
        pytest.fail("the disk was not full")
    except OSError as error:
        assert error.errno == errno.ENOSPC
        assert running and gone(running)  # though this exception still holds the grid's frames
    assert files(store) == [] and time.monotonic() - started < 60
    monkeypatch.setattr(os, "fsync", real)
    assert grid.run(GRID[:2], store, executor=Counting()) == grid.Outcome(2, 0, 0)
    assert same_as(undisturbed, store, GRID[:2])


def die(task, *_):
    """What kills its process for seed 1, and takes a moment for the others."""
    if task[0].seed == 1:
        os._exit(9)
    time.sleep(0.1)
    return [made_up(config) for config in task]


def test_a_run_that_kills_its_process_every_time_is_named_and_no_other_suffers(store, monkeypatch):
    """Neither those that ran beside it, nor those that it would have kept waiting."""
    pools = []

    @contextmanager
    def forked(jobs, teller):
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            pools.append(pool)
            yield pool

    monkeypatch.setattr(grid, "_processes", forked)
    monkeypatch.setattr(grid, "perform_task", die)
    configs = [replace(TINY, seed=seed) for seed in range(8)]
    with pytest.raises(RuntimeError, match=r"^1 runs failed, .*'seed': 1.*its process died 3 times"):
        grid.run(configs, store, jobs=2)
    assert len(pools) == 4  # three that broke, and the one that did the rest
    assert [config.seed for config in configs if store.load(config) is None] == [1]


def test_a_script_that_its_workers_cannot_import_is_told_of_its_guard(tmp_path):
    """As one that runs the grid at its top does: there the workers end in Python's own error."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nif __name__ != '__main__':\n    sys.exit(4)\n"
        "from asym import grid\nfrom asym.config import Config\nfrom asym.results import Store\n"
        f"grid.run([{TINY!r}], Store('runs'), jobs=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and done.stderr.endswith(f"RuntimeError: {grid.NO_WORKER}\n"), done.stderr
    assert 'if __name__ == "__main__":' in grid.NO_WORKER and not list(tmp_path.rglob("*.json"))


def test_a_broken_executor_of_the_callers_is_his_affair(store, monkeypatch):
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        monkeypatch.setattr(grid, "perform_task", die)
        for _ in range(2):  # the second time submit itself refuses
            with pytest.raises(Exception, match="gave its runs up|terminated abruptly"):
                grid.run([replace(TINY, seed=1)], store, executor=pool)
    assert files(store) == []


# --- what stops it --------------------------------------------------------------------------------------------------------------


def test_a_budget_ends_the_grid_and_the_next_call_goes_on(store, threads):
    configs = [replace(TINY, seed=seed) for seed in range(500)]
    grid.perform(configs[0])  # what a process does once is not the budget's
    started = time.monotonic()
    first = grid.run(configs, store, executor=threads, budget=1.0)
    assert time.monotonic() - started < 20
    assert first.ran > 0 and first.left > 0 and first.done_before == 0 and first.ran + first.left == 500
    assert len(stored(store)) == first.ran
    second = grid.run(configs[: first.ran + 4], store, executor=threads)
    assert second.left == 0 and second.ran >= 4 and second.ran + second.done_before == first.ran + 4


def test_no_budget_at_all_starts_nothing(store):
    assert grid.run(GRID, store, budget=0) == grid.Outcome(0, 0, 6)
    assert not workers() and not store.folder.exists()


def test_a_run_that_exceeds_the_budget_is_given_up_with_its_process(store):
    """Whatever the process does by then: here it may still be starting."""
    started = time.monotonic()
    assert grid.run([LONG], store, jobs=1, budget=1.0) == grid.Outcome(0, 0, 1)
    assert time.monotonic() - started < 20 and gone(workers())


@pytest.fixture
def terminal():
    """A terminal: what to start a process with so that it has it, what is typed there, and all that it has shown."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    shown = []

    def read():
        with suppress(OSError):  # the end of a terminal
            while chunk := os.read(ours, 4096):
                shown.append(chunk.decode(errors="replace"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def attach():
        os.login_tty(theirs)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it, children too

    yield {"preexec_fn": attach}, lambda keys: os.write(ours, keys), lambda: "".join(shown)
    os.close(theirs)
    reader.join(5)
    os.close(ours)


def test_two_grids_on_one_store_are_killed_and_interrupted_and_a_third_goes_on(store, undisturbed, terminal, monkeypatch):
    """kill -9 of the one's own process, Ctrl-C at the other's terminal, both in mid run: no process stays, no run is lost."""
    on_terminal, write, shown = terminal
    monkeypatch.setenv("ASYM_RUNS", str(store.folder))
    monkeypatch.setenv("ASYM_GEMM", gemm.library())
    command = ["run", "dense", "--preset", "quick", "--jobs"]
    real = [sys.executable, "-m", "asym", *command, "1"]
    killed = subprocess.Popen(real, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    interrupted = subprocess.Popen(real, **on_terminal)
    try:
        until(lambda: store.folder.exists() and stored(store))
        orphans = until(lambda: workers(killed.pid))
        killed.kill()
        until(lambda: re.search(rf"[1-9]\d*/{len(QUICK)} runs: .*epoch/s", shown()) and len(stored(store)) >= 3)
        children = until(lambda: workers(interrupted.pid))
        write(b"\x03")
        assert interrupted.wait(60) == 130 and gone(children)
        assert gone(orphans)  # one that was just starting needs some seconds, in which the other grid might end
        output, errors = killed.communicate()
        assert killed.returncode == -signal.SIGKILL and (output, errors.count(b"runs")) == (b"", 0)  # no bar in a pipe
        assert "stopped; finished runs are stored, the same command goes on" in shown() and "Traceback" not in shown()
    finally:
        for process in (killed, interrupted):
            process.kill()
            process.wait()

    kept = {path: path.read_bytes() for path in store.folder.glob("*.json")}
    assert 3 <= len(kept) < len(QUICK)
    done = CliRunner().invoke(app, [*command, "2"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{len(QUICK) - len(kept)} runs made, {len(kept)} there before, 0 left" in done.stdout
    assert same_as(undisturbed, store, QUICK) and all(path.read_bytes() == content for path, content in kept.items())


# --- estimates ------------------------------------------------------------------------------------------------------------------


def test_the_estimate_is_the_mean_of_what_runs_like_it_took(store):
    config = replace(TINY, hidden=(256,), subset=5000, epochs=3)
    grid.run([replace(config, seed=seed) for seed in (1, 2, 3)], store, executor=Counting())
    took = [record.provenance["seconds"] for record in store.records()]
    assert min(took) > 0 and grid.estimate([config], store.records()) == pytest.approx(mean(took))
    assert grid.estimate([config] * 10, store.records()) == pytest.approx(10 * grid.estimate([config], store.records()))
    before, (record, *_) = grid.estimate([config], store.records()), store.records()
    for seed in range(10, 20):  # runs that diverged at once tell nothing
        store.save(
            replace(record, config=replace(config, seed=seed), diverged=True, provenance=record.provenance | {"seconds": 1e-3})
        )
    assert grid.estimate([config], store.records()) == before


@pytest.mark.parametrize("library", gemm.LIBRARIES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_estimate_without_any_run_is_positive_and_grows_with_the_grid(store, question, library, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", library)
    grid._forward_operations.cache_clear()
    smoke, cpu = ([cell.config for cell in cells(question, load(preset))] for preset in ("smoke", "cpu"))
    assert (
        grid.estimate([], store.records())
        == 0
        < grid.estimate(smoke[:1], store.records())
        < grid.estimate(smoke, store.records())
    )
    assert 100 * grid.estimate(smoke, store.records()) < grid.estimate(cpu, store.records()) < 1e6


def test_the_operations_are_those_of_the_products():
    """2 I O operations for a layer's product: three of them an image in training, one in testing, before the first epoch too."""
    config = replace(TINY, hidden=(30, 20), rules=("bp", "fa", "dfa"), epochs=7)
    once = 2 * (784 * 30 + 30 * 20 + 20 * 10)
    assert grid._operations(config) == (3 * 7 * 500 + 8 * 10_000) * once
    assert grid._operations(replace(config, subset=None)) == (3 * 7 * 50_000 + 8 * 10_000) * once
    assert grid._operations(replace(config, test_subset=100)) == (3 * 7 * 500 + 8 * 100) * once
    held = replace(config, validation=200, batch=300, test_subset=100)
    assert grid._operations(held) == (3 * 7 * 300 + 8 * (100 + 200)) * once


@pytest.mark.parametrize("net", NETS)
def test_the_operations_are_those_that_torch_counts(net):
    """An untied net multiplies as often as the tied one by which it is counted."""
    shape = {"hidden": (30, 20), "rules": ("bp",) * 3} if net == "dense" else {"rules": ("bp",) * 5}
    config = Config(net=net, subset=500, test_subset=10, **shape)
    source = data.SOURCES[config.dataset]
    built = build(config, source.shape, source.classes).double()  # in fp32 oneDNN may do what is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(torch.zeros(1, *source.shape, dtype=torch.float64))
    assert grid._operations(config) == (3 * 500 + 2 * 10) * counter.get_total_flops()


@pytest.mark.parametrize("net", ["poggio", "poggio_untied"])
def test_the_epochs_of_a_pretrained_convolution_count(net):
    config = Config(net=net, rules=("bp",) * 5, frozen=(0,), subset=1000, test_subset=300, epochs=2)
    once = grid._operations(config) / (3 * 2 * 1000 + 3 * 300)
    assert grid._operations(replace(config, pretrained=5)) == pytest.approx((3 * 7 * 1000 + 3 * 300) * once)


def test_each_net_is_estimated_by_its_own_runs_of_about_its_size():
    """A rate that is a tenth or a thousandth of the usual one, told by records of that net alone."""
    record = grid.perform(TINY)
    dense, tied, untied = TINY, Config(net="poggio", rules=("bp",) * 5), Config(net="poggio_untied", rules=("bp",) * 5)

    def made(config, slower, count=20):
        seconds = slower * grid.estimate([config], [])
        return [replace(record, config=config, provenance={"seconds": seconds})] * count

    usual = {config: grid.estimate([config], []) for config in (dense, tied, untied)}
    known = made(untied, 10) + made(dense, 0.5) + made(replace(untied, subset=500), 1000, 40)  # short runs, and more of them
    assert usual[tied] == grid._operations(tied) / grid.RATE
    assert grid.estimate([untied], known) == pytest.approx(10 * usual[untied])
    assert grid.estimate([dense], known) == pytest.approx(usual[dense] / 2)
    assert grid.estimate([tied], known) == usual[tied]
    assert grid.estimate([dense, tied, untied, untied], known) == pytest.approx(
        usual[dense] / 2 + usual[tied] + 20 * usual[untied]
    )
    assert math.isnan(grid.estimate([dense, tied], known, rate=None))
    assert grid.estimate([dense], known, rate=None) == pytest.approx(usual[dense] / 2)


def test_a_last_layer_that_learned_alone_tells_nothing_of_a_whole_net():
    """It has next to no operations, and all that a run takes beside them."""
    record = grid.perform(TINY)
    alone = replace(TINY, frozen=tuple(range(TINY.layers - 1)))
    known = [replace(record, config=alone, provenance={"seconds": 500.0})] * 30
    assert grid.estimate([TINY], known) == grid.estimate([TINY], []) and math.isnan(grid.estimate([TINY], known, rate=None))
    assert grid.estimate([alone], known) == pytest.approx(500)
    whole = [replace(record, provenance={"seconds": 10.0})]
    assert 0 < grid.estimate([alone], whole) < 10


def test_a_run_on_few_images_tells_nothing_of_one_on_all():
    """A step on a small batch of them takes longer for an operation: of an untied net seven times."""
    record = grid.perform(TINY)
    whole = Config(net="poggio_untied", rules=("bp",) * 5)
    few, more = replace(whole, subset=500), replace(whole, subset=5000)
    known = [replace(record, config=few, provenance={"seconds": 7 * grid.estimate([few], [])})]
    assert grid.estimate([few, more], known) == pytest.approx(7 * grid.estimate([few, more], []))
    assert grid.estimate([whole], known) == grid.estimate([whole], []) and math.isnan(grid.estimate([whole], known, rate=None))


def test_a_last_layer_that_learns_alone_takes_few_operations_and_tells_little():
    whole = Config(net="poggio", rules=("bp",) * 5, epochs=300)
    alone = replace(whole, frozen=(0, 1, 2, 3))
    assert grid.estimate([alone], []) < grid.estimate([whole], []) / 500
    assert grid.estimate([replace(alone, dropout=0.1)], []) == grid.estimate([whole], [])
    assert grid.estimate([replace(whole, frozen=(0, 1, 2))], []) == grid.estimate([whole], [])
    one = Config(hidden=(), rules=("bp",), epochs=300)  # of which nothing lies below
    assert grid.estimate([one], []) > 100 * grid.estimate([replace(one, epochs=1)], [])
    seconds = {config: 2 * grid.estimate([config], []) for config in [replace(whole, seed=seed) for seed in range(20)]}
    made = grid.perform(TINY)
    known = [replace(made, config=config, provenance={"seconds": taken}) for config, taken in seconds.items()]
    known += [replace(made, config=replace(alone, seed=seed), provenance={"seconds": 1.0}) for seed in range(20)]
    assert grid.estimate([whole], known) == pytest.approx(2 * grid.estimate([whole], []))


@pytest.mark.parametrize("net", ["poggio", "poggio_untied"])
def test_every_net_can_be_estimated(store, net):
    assert grid.estimate([Config(net=net, rules=("bp",) * 5)], store.records()) > 0


def test_every_field_of_provenance_is_told(store):
    grid.run(GRID[:1], store, executor=Counting())
    provenance = store.load(GRID[0]).provenance
    assert all(provenance[name] for name in provenance if name not in ("data_note", "commit", "untied_products"))
    assert provenance["untied_products"] == ""  # a dense net has none
    assert provenance["threads"] == 1 and len(provenance["data_fingerprint"]) == 64
    assert provenance["matrix_products"] in gemm.LIBRARIES


def test_a_package_inside_another_projects_checkout_has_no_commit(monkeypatch, tmp_path):
    """As in a virtual environment there: that project's commit says nothing of this code."""
    git = lambda *words: subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True).stdout
    package = tmp_path / "asym/__init__.py"
    package.parent.mkdir()
    package.touch()
    git("init", "--quiet")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git(*author, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(asym, "__file__", str(package))
    assert grid.commit.__wrapped__() == ""
    git("add", ".")
    git(*author, "commit", "--quiet", "-m", "ours")
    assert grid.commit.__wrapped__() == git("rev-parse", "HEAD").strip()
    package.write_text("changed")
    assert grid.commit.__wrapped__() == git("rev-parse", "HEAD").strip() + "+"


def test_a_record_names_the_commit_that_its_code_was_read_at(monkeypatch):
    """Though the checkout moves while it trains."""
    at = ["before"]
    monkeypatch.setattr(grid, "commit", lambda: at[-1])
    monkeypatch.setattr(grid, "train", lambda *args, **options: at.append("after") or train.train(*args, **options))
    assert grid.perform(GRID[0]).provenance["commit"] == "before"


def test_grid_and_train_agree(undisturbed):
    rows = train.train(GRID[1]).epochs
    assert [row["test_accuracy"] for row in rows] == [row["test_accuracy"] for row in json.loads(undisturbed[GRID[1]])[1]]
