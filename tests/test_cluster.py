"""Many machines: a grid on a Dask cluster, whose workers die, join late and stand still; and ten thousand runs in one driver."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
import yaml
from made import record as made_up
from test_grid import BAD, GRID, TINY, numbers, stored, until
from typer.testing import CliRunner

from asym import gemm, grid, presets
from asym.cli import app
from asym.questions import cells

TINY_PRESET = {"preset": "smoke", "dataset": "fashion_mnist", "subset": 500, "test_subset": 500, "batch": 50, "epochs": 5}
TINY_PRESET |= {"seeds": [0]}


class Cluster:
    """A scheduler and workers of one thread each, every one of them a process reached through the loopback."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        file = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        self.address = until(lambda: file.exists() and file.read_text().strip() and json.loads(file.read_text())["address"])

    def _start(self, *arguments):
        env = {name: value for name, value in os.environ.items() if name != "ASYM_GEMM"} | {"OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-m", "dask", *arguments]
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=env, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def worker(self):
        return self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")

    def end(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


@pytest.mark.slow
def test_a_cluster_loses_a_worker_gains_one_and_waits_for_a_slow_one(store, cluster, monkeypatch, tmp_path):
    """Its records are those of this process to the bit: one thread and the driver's library of products, whatever the workers'
    own environment is."""
    distributed = pytest.importorskip("distributed")
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(TINY_PRESET))
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    monkeypatch.setenv("ASYM_RUNS", str(store.folder))
    library = next(name for name in gemm.LIBRARIES if name != gemm.library())  # what no worker would choose
    monkeypatch.setenv("ASYM_GEMM", library)
    wanted = list(dict.fromkeys(cell.config for cell in cells("dense", presets.load("smoke"))))
    killed, slow = cluster.worker(), cluster.worker()

    with distributed.Client(cluster.address) as client:
        joined = lambda: len(client.scheduler_info(n_workers=-1)["workers"])

        def disturb():
            until(lambda: stored(store), 200)  # on a busy machine the workers take long to import torch
            slow.send_signal(signal.SIGSTOP)
            try:
                cluster.worker()
                until(lambda: joined() == 3, 200)
                killed.kill()
                until(lambda: len(stored(store)) >= len(wanted) - 2, 200)  # by the late one: the slow one has taken two at most
            finally:
                slow.send_signal(signal.SIGCONT)  # or a grid that waits for it hides what went wrong

        until(lambda: joined() == 2, 200)
        with ThreadPoolExecutor(1) as aside:
            disturbed = aside.submit(disturb)
            done = CliRunner().invoke(app, ["run", "dense", "--preset", "smoke", "--scheduler", cluster.address])
            disturbed.result()
        assert done.exit_code == 0, done.output
        assert f"{len(wanted)} runs made, 0 there before, 0 left" in done.output
        with pytest.raises(RuntimeError, match="1 runs failed, the others are stored.*10000000000000"):
            grid.run([BAD, GRID[0]], store, executor=client.get_executor())
    for config in (*wanted, GRID[0]):
        record = store.load(config)
        assert numbers(record) == numbers(grid.perform(config))
        assert (record.provenance["threads"], record.provenance["matrix_products"]) == (1, library)


class Watched(ThreadPoolExecutor):
    """Two threads that make up records at once; the most calls that were under way, and the most records that lived."""

    def __init__(self):
        super().__init__(2)
        self.lock, self.under_way, self.alive, self.most = threading.Lock(), 0, 0, (0, 0)

    def count(self, under_way=0, alive=0):
        with self.lock:
            self.under_way, self.alive = self.under_way + under_way, self.alive + alive
            self.most = tuple(map(max, self.most, (self.under_way, self.alive)))

    def submit(self, function, task, *arguments):
        self.count(under_way=1)
        future = super().submit(self.make, task)
        future.add_done_callback(lambda future: self.count(under_way=-1))
        return future

    def make(self, task):
        records = [made_up(config) for config in task]
        for record in records:
            self.count(alive=1)
            weakref.finalize(record, self.count, alive=-1)
        return records


@pytest.mark.slow
def test_ten_thousand_runs_take_a_driver_little_time_each_and_no_more_memory_than_a_thousand(store, monkeypatch):
    """And to find them all done as well. The driver's time is that of the processor; a disk's is not its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    configs = [replace(TINY, seed=seed) for seed in range(10_000)]
    clock, memory = [time.process_time()], []

    def look(done, total):
        if done % 1000 == 0:
            clock.append(time.process_time())
            memory.append(psutil.Process().memory_info().rss)

    with Watched() as executor:
        assert grid.run(configs, store, executor=executor, progress=look) == grid.Outcome(10_000, 0, 0)
    under_way, alive = executor.most
    assert under_way <= 256 and alive <= 2 * 256 + 10  # those that end, and those that are made meanwhile
    assert memory[-1] - memory[0] < 2**24
    thousands = [1e-3 * (after - before) for before, after in zip(clock, clock[1:], strict=False)]
    assert max(thousands) < 0.02 and sum(thousands[-3:]) < 3 * sum(thousands[:3])
    started = time.process_time()
    assert grid.run(configs, store, progress=look) == grid.Outcome(0, 10_000, 0)
    found = time.process_time() - started
    assert found < 20
    more = (memory[-1] - memory[0]) / 2**20
    print(f"{1e3 * sum(thousands) / 10:.2f} ms a run, {more:.1f} MiB more, {found:.1f} s to find all done")


def test_an_executor_is_given_as_many_runs_at_once_as_jobs_says(store):
    with Watched() as executor:
        grid.run([replace(TINY, seed=seed) for seed in range(20)], store, executor=executor, jobs=3)
    assert executor.most[0] <= 3 and len(stored(store)) == 20
