"""Grids as processes that start at once: a process that has imported the package forks each, and its workers are forked too.

It reads a JSON list a line and answers each with a JSON value: ["start", runs, log, *arguments] with the pid of an `asym`
command, ["ended", pid] with its exit code, minus the signal that killed it, or null while it runs. Every command leads a process
group of its own. SIGUSR1 steps the wall clock of the process that it reaches, by years, forth and back.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import torch

from asym import cli, data, grid, presets, versions

YEARS = 10 * 365 * 86_400.0
wall_clock, step = time.time, 0.0


def step_clock(*_):
    global step
    step = YEARS if step <= 0 else -YEARS


def start(runs, log, *arguments):
    """In the child this returns only when the command has ended, by SystemExit: its exit is that of a real one."""
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # the child does too: whoever comes first
        return pid
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["ASYM_RUNS"] = runs
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    cli.app(list(arguments))


def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    torch.set_num_threads(1)  # no pool of threads that a fork would lose
    presets.FOLDER = Path(sys.argv[1])
    data.load("fashion_mnist"), grid.commit(), versions.current()  # what every grid or worker reads once
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method: forked
    time.time = lambda: wall_clock() + step
    signal.signal(signal.SIGUSR1, step_clock)
    import faulthandler; faulthandler.register(signal.SIGUSR2, all_threads=True)
    for line in sys.stdin:
        order, *rest = json.loads(line)
        print(json.dumps({"start": start, "ended": ended}[order](*rest)), flush=True)
