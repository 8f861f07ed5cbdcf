"""Nothing is lost: real grids on one store, killed, interrupted, suspended, out of disk, their clocks stepped, at random moments."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from test_grid import numbers, until

from asym import gemm, presets, tables
from asym.questions import cells
from asym.results import Store

FAULTS = 50
SEED = 2026
PRESET = {"preset": "smoke", "dataset": "fashion_mnist", "subset": 200, "test_subset": 500, "batch": 50, "epochs": 3}
PRESET |= {"seeds": [0, 1, 2, 3]}
COMMAND = ("run", "dense", "--preset", "smoke", "--jobs", "2", "--budget", "3600")


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.delenv("ASYM_DATA", raising=False)


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A folder of presets whose one preset is tiny, for this process too."""
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "smoke.yaml").write_text(yaml.safe_dump(PRESET))
    monkeypatch.setattr(presets, "FOLDER", folder)
    return folder


class Nursery:
    """The process that starts grids at once (see nursery.py), and the grids that it has started."""

    def __init__(self, folder, log):
        command = [sys.executable, Path(__file__).with_name("nursery.py"), folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.log, self.started = log, []

    def ask(self, *order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, store):
        order = ("start", str(store.folder), str(self.log), *COMMAND)
        self.started.append(psutil.Process(self.ask(*order)))
        return self.started[-1]

    def wait(self, process):
        """The exit code of a grid that ends, and none of its processes stays."""
        code = until(lambda: [code] if (code := self.ask("ended", process.pid)) is not None else [])[0]
        until(lambda: not group(process))
        return code


@pytest.fixture
def nursery(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", gemm.library())
    nursery = Nursery(preset, tmp_path / "log")
    yield nursery
    for process in nursery.started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    nursery.process.kill()
    nursery.process.communicate()


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


# --- the faults: each strikes one grid, or all, and returns those that it ends with the exit code that they then have --------------


def kill_worker(grids, chance, disk):
    chance.choice(until(grids[0].children)).kill()
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
        try: until(lambda: not is_running(grids[0]) or grids[0].children(), 20)
        except BaseException:
            print("STUCK", kept.keys().__len__(), struck[-5:], grids, [g.children() for g in grids], [g.status() for g in grids])
            for g in grids:
                for p in group(g): p.send_signal(signal.SIGUSR2)
            time.sleep(1); print(nursery.log.read_text()[-9000:])
            raise
        time.sleep(chance.uniform(0, 0.4))
        before = set(contents(store))
        with suppress(psutil.NoSuchProcess):  # it had just done its work
            ended = kinds[-1](grids, chance, disk)
            codes = {process: nursery.wait(process) for process in ended}
            if len(before) < whole:
                assert codes == ended, nursery.log.read_text()
                struck.append(kinds.pop().__name__); print(time.monotonic(), struck[-1], len(before), flush=True)
        now = contents(store)
        assert kept.items() <= now.items(), "a record was lost or made again"
        kept = now
    for process in filter(is_running, grids):
        process.kill()
        nursery.wait(process)
    return struck


@pytest.mark.slow
def test_fifty_faults_lose_no_run(disk, nursery):
    """Two grids at a time on one store, struck until it is whole, then the next store. A record that is there stays as it is, byte
    for byte: none is lost, torn, or made twice. In the end all are those of an undisturbed grid to the bit."""
    cells_wanted = cells("dense", presets.load("smoke"))
    wanted = list(dict.fromkeys(cell.config for cell in cells_wanted))
    undisturbed = Store(disk.folder / "undisturbed")
    assert nursery.wait(nursery.start(undisturbed)) == 0
    chance = random.Random(SEED)
    kinds = (list(KINDS) * FAULTS)[:FAULTS]
    chance.shuffle(kinds)
    struck, stores = Counter(), 0
    while kinds:
        stores += 1
        store = Store(disk.folder / f"struck-{stores}")
        struck.update(strike(store, len(wanted), nursery, disk, chance, kinds))
        before = contents(store)
        assert nursery.wait(nursery.start(store)) == 0
        assert f"{len(wanted) - len(before)} runs made, {len(before)} there before, 0 left" in nursery.log.read_text()
        after = contents(store)
        assert before.items() <= after.items() and len(after) == len(wanted)
        assert [numbers(store.load(config)) for config in wanted] == [numbers(undisturbed.load(config)) for config in wanted]
        pd.testing.assert_frame_equal(table(cells_wanted, store), table(cells_wanted, undisturbed))
        assert {path.suffix for path in store.folder.iterdir()} <= {".json", ".lock", ".tmp"}
    assert struck.total() == FAULTS and set(struck) == {kind.__name__ for kind in KINDS}
    print(f"{FAULTS} faults on {stores} stores of {len(wanted)} runs, 0 runs lost, 0 made twice: {dict(struck)}")
