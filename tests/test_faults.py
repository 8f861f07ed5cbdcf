"""Nothing is lost: real grids on one store, struck at random moments; and what holds two of them apart."""

import errno
import fcntl
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from test_grid import LONG, TINY, gone, numbers, until, workers

from asym import gemm, grid, holds, presets, tables
from asym.questions import cells
from asym.results import Store

FAULTS = 50
SEED = 2026
PRESET = {"preset": "smoke", "dataset": "fashion_mnist", "subset": 100, "test_subset": 100, "batch": 50, "epochs": 2}
PRESET |= {"seeds": [0, 1, 2, 3]}
COMMAND = ("run", "dense", "--preset", "smoke", "--jobs", "2", "--budget", "3600")


class Nursery:
    """The process that starts grids at once (see nursery.py), and the grids that it has started."""

    def __init__(self, folder):
        command = [sys.executable, Path(__file__).with_name("nursery.py"), folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder, self.started = folder, []
        while self.process.stdout.readline() != '"ready"\n':
            assert self.process.poll() is None

    def ask(self, *order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def log(self, store):
        """What the grids on a store have printed."""
        return self.folder / f"{store.folder.name}.log"

    def start(self, store):
        order = ("start", str(store.folder), str(self.log(store)), *COMMAND)
        self.started.append(psutil.Process(self.ask(*order)))
        return self.started[-1]

    def run(self, store):
        """A grid that nothing strikes."""
        assert self.wait(self.start(store)) == 0, self.log(store).read_text()

    def wait(self, process):
        """The exit code of a grid that ends, and none of its processes stays."""
        code = until(lambda: [code] if (code := self.ask("ended", process.pid)) is not None else [])[0]
        until(lambda: not group(process))
        return code


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """Its one preset is tiny, and this process's too."""
    folder = tmp_path_factory.mktemp("presets")
    (folder / "smoke.yaml").write_text(yaml.safe_dump(PRESET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "FOLDER", folder)
        patch.setenv("ASYM_GEMM", gemm.library())
        nursery = Nursery(folder)
        yield nursery
    nursery.process.kill()
    nursery.process.communicate()


@pytest.fixture(autouse=True)
def none_stays(request):
    """A test that fails leaves no grid behind on its disk."""
    yield
    for process in request.getfixturevalue("nursery").started if "nursery" in request.fixturenames else ():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def group(process):
    """What runs of a grid's process group: itself and its workers, and those that outlived it."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(pid) == process.pid and is_running(psutil.Process(pid)):
                found.append(psutil.Process(pid))
    return found


class Disk:
    """A file system of 8 MiB where this process may mount one; elsewhere files that may not grow stand for one that is full."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    @contextmanager
    def full(self, grids):
        ballast = self.folder / "ballast"
        if self.mounted:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            for process in grids:
                process.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
        yield
        ballast.unlink(missing_ok=True)

    def remove(self):
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.remove()


# --- the faults: each strikes one grid, or all, and returns those that it ends with the exit code that they then have -----------


def kill_worker(grids, chance, disk):
    while not (found := grids[0].children()):
        if not is_running(grids[0]):
            raise psutil.NoSuchProcess(grids[0].pid)
        time.sleep(0.02)
    chance.choice(found).kill()
    return {}


def kill_grid(grids, chance, disk):
    grids[0].kill()
    return {grids[0]: -signal.SIGKILL}


def terminate_grid(grids, chance, disk):
    grids[0].terminate()
    return {grids[0]: -signal.SIGTERM}


def interrupt_grid(grids, chance, disk):
    grids[0].send_signal(signal.SIGINT)
    return {grids[0]: 130}


def suspend(grids, chance, disk):
    """A worker alone, or the whole grid as ^Z does."""
    struck = chance.choice([group(grids[0]), grids[0].children()[:1]])
    for action in (psutil.Process.suspend, psutil.Process.resume):
        for process in struck:
            with suppress(psutil.NoSuchProcess):
                action(process)
        time.sleep(chance.uniform(0.1, 0.4))
    return {}


def fill_disk(grids, chance, disk):
    with disk.full(grids):
        until(lambda: not any(map(is_running, grids)))
    return dict.fromkeys(grids, 1)


def step_clock(grids, chance, disk):
    """Ten years forth, the next time back, in the grid and its workers."""
    for process in group(grids[0]):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGUSR1)
    return {}


KINDS = (kill_worker, kill_grid, terminate_grid, interrupt_grid, suspend, fill_disk, step_clock)


def is_running(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def contents(store):
    return {path.name: path.read_bytes() for path in store.folder.glob("*.json")}


def table(wanted, store):
    return tables.as_text(tables.beside_original(wanted, store.find(wanted)))


def strike(store, whole, nursery, disk, chance, kinds):
    """Strikes two grids on the store until it is whole or no kind of fault is left; the faults that struck, each by its name."""
    kept, struck, grids = {}, [], []
    while kinds and len(kept) < whole:
        grids = [process for process in grids if is_running(process)]
        grids += [nursery.start(store) for _ in range(2 - len(grids))]
        chance.shuffle(grids)
        target = grids[0]
        until(lambda target=target: not is_running(target) or target.children())
        time.sleep(chance.uniform(0, 0.4))
        before = set(contents(store))
        with suppress(psutil.NoSuchProcess):  # it had just done its work
            ended = kinds[-1](grids, chance, disk)
            codes = {process: nursery.wait(process) for process in ended}
            assert codes == ended or len(contents(store)) == whole, nursery.log(store).read_text()
            if codes == ended and len(before) < whole:
                struck.append(kinds.pop().__name__)
        now = contents(store)
        assert kept.items() <= now.items(), "a record was lost or made again"
        kept = now
    for process in filter(is_running, grids):
        process.kill()
        nursery.wait(process)
    return struck


@pytest.mark.slow
def test_fifty_faults_lose_no_run(disk, nursery):
    """Two grids at a time on one store, struck until it is whole, then the next store. A record that is there stays as it is,
    byte for byte: none is lost, torn, or made twice. In the end all are those of an undisturbed grid to the bit."""
    cells_wanted = cells("dense", presets.load("smoke"))
    wanted = list(dict.fromkeys(cell.config for cell in cells_wanted))
    undisturbed = Store(disk.folder / "undisturbed")
    nursery.run(undisturbed)
    chance = random.Random(SEED)
    kinds = (list(KINDS) * FAULTS)[:FAULTS]
    chance.shuffle(kinds)
    struck, stores = Counter(), 0
    while kinds:
        stores += 1
        store = Store(disk.folder / f"struck-{stores}")
        struck.update(strike(store, len(wanted), nursery, disk, chance, kinds))
        before = contents(store)
        nursery.run(store)
        assert f"{len(wanted) - len(before)} runs made, {len(before)} there before, 0 left" in nursery.log(store).read_text()
        after = contents(store)
        assert before.items() <= after.items() and len(after) == len(wanted)
        assert [numbers(store.load(config)) for config in wanted] == [numbers(undisturbed.load(config)) for config in wanted]
        pd.testing.assert_frame_equal(table(cells_wanted, store), table(cells_wanted, undisturbed))
        assert {path.suffix for path in store.folder.iterdir()} <= {".json", ".lock", ".tmp"}
    assert struck.total() == FAULTS and set(struck) == {kind.__name__ for kind in KINDS}
    print(f"{FAULTS} faults on {stores} stores of {len(wanted)} runs, 0 runs lost, 0 made twice: {dict(struck)}")


def test_two_grids_at_once_share_the_work(nursery, tmp_path):
    store = Store(tmp_path / "runs")
    for process in [nursery.start(store), nursery.start(store)]:
        assert nursery.wait(process) == 0, nursery.log(store).read_text()
    made = [int(count) for count in re.findall(r"(\d+) runs made, \d+ there before, 0 left", nursery.log(store).read_text())]
    assert len(made) == 2 and all(made) and sum(made) == len(contents(store)) == 48


# --- holds ----------------------------------------------------------------------------------------------------------------------


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """A process that holds TINY's run, as another grid would."""
    store.folder.mkdir()
    command = [sys.executable, "-c", HOLDER, store.folder / holds.FILE, str(holds._place(TINY))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def test_a_run_that_another_grid_makes_is_left_to_it_until_that_is_killed(store, holder, threads, capsys):
    """With what a killed writer has left: that is swept once the run is this grid's to make, and not before."""
    leftover = store.folder / f"{TINY.hash}.0123.tmp"
    leftover.write_text("half a rec")
    beside = replace(TINY, seed=1)
    assert grid.run([TINY, beside], store, executor=threads, budget=5) == grid.Outcome(1, 0, 1)
    assert "waiting for 1 runs that another grid on this store is making" in capsys.readouterr().err
    assert leftover.exists() and store.load(TINY) is None and store.load(beside)
    holder.kill()
    holder.wait()
    assert grid.run([TINY, beside], store, executor=threads) == grid.Outcome(1, 1, 0)
    assert numbers(store.load(TINY)) == numbers(grid.perform(TINY)) and not leftover.exists()


def test_without_locks_what_another_grid_may_be_writing_is_not_swept(store, threads, monkeypatch):
    store.folder.mkdir()
    leftover = store.folder / f"{TINY.hash}.0123.tmp"
    leftover.write_text("half a rec")
    monkeypatch.setattr(holds, "fcntl", None)
    assert grid.run([TINY], store, executor=threads) == grid.Outcome(1, 0, 0) and leftover.exists()


def test_a_run_that_is_dropped_is_free_for_others_before_its_grid_ends(store):
    command = [sys.executable, "-c", HOLDER, store.folder / holds.FILE, str(holds._place(TINY))]
    with holds.Holds(store.folder) as held:
        assert held.take(TINY) and held.take(replace(TINY, seed=1))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert not select.select([other.stdout], [], [], 0.5)[0]  # it waits
            held.drop(TINY)
            assert other.stdout.readline() == b"held\n" and not held.take(TINY)


def test_a_run_that_another_grid_has_stored_meanwhile_is_found(store, holder, threads):
    """Though the budget would let this one wait for an hour."""

    def end(*_):
        store.save(grid.perform(TINY))
        holder.kill()

    started = time.monotonic()
    outcome = grid.run(
        [TINY, replace(TINY, seed=1)], store, executor=threads, budget=3600, progress=lambda done, total: done == 1 and end()
    )
    assert outcome == grid.Outcome(1, 1, 0) and time.monotonic() - started < 60


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_grid_says_so_and_goes_on(store, threads, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.warns(UserWarning, match="no locks here .*two grids at once may make a run twice"):
        assert grid.run([TINY], store, executor=threads) == grid.Outcome(1, 0, 0)


@pytest.mark.parametrize("locks", [fcntl, None], ids=["locks", "as on Windows"])
def test_the_first_run_of_a_new_store_has_its_checkpoint(store, threads, monkeypatch, locks):
    kept = []
    monkeypatch.setattr(holds, "fcntl", locks)
    monkeypatch.setattr(grid, "Checkpoint", lambda *_: kept.append(0))
    grid.run([TINY], store, executor=threads)
    assert kept


def test_a_suspended_worker_is_not_waited_for_when_its_run_is_given_up(store):
    """It cannot notice that its grid has ended: it is killed, and the grid's process could otherwise not end."""

    def suspend_first():
        struck = until(workers)
        struck[0].suspend()
        return struck

    with ThreadPoolExecutor(1) as aside:
        struck = aside.submit(suspend_first)
        assert grid.run([LONG], store, jobs=1, budget=2) == grid.Outcome(0, 0, 1)
        assert gone(struck.result(), 20)
