"""Grids as processes that start at once: a process that has imported the package forks each, and its workers are forked too.

Once ready, it reads a JSON list a line and answers each with a JSON value: ["start", runs, log, *arguments] with the pid of an
`asym` command, ["ended", pid] with its exit code, minus the signal that killed it, or null while it runs. Every command leads a
process group of its own. SIGUSR1 steps the wall clock of the process that it reaches, by years, forth and back.
"""

import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from asym import cli, grid, presets, versions

YEARS = 10 * 365 * 86_400.0
wall_clock, step = time.time, 0.0
system_fork = os.fork


def step_clock(*_):
    global step
    step = YEARS if step <= 0 else -YEARS


def fork():
    """An interrupt comes before or after: Python would ignore one that came within what it calls itself at a fork."""
    came, usual = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    pid = system_fork()
    signal.signal(signal.SIGINT, usual)
    if came and pid:
        raise KeyboardInterrupt
    return pid


def start(runs, log, *arguments):
    """Forks a command, which never returns."""
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
    try:
        cli.app(list(arguments))
    except SystemExit as end:
        threading._shutdown(), atexit._run_exitfuncs(), os._exit(end.code)  # an exit but for freeing the memory, a second's work


def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    torch.set_num_threads(1)  # no pool of threads that a fork would lose
    presets.FOLDER = Path(sys.argv[1])
    cli.app(["run", "dense", "--preset", "smoke", "--budget", "0"], standalone_mode=False)  # reads what a grid reads,
    grid.commit(), versions.current()  # and what a worker does
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method: forked
    time.time = lambda: wall_clock() + step
    os.fork = fork
    signal.signal(signal.SIGUSR1, step_clock)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, *rest = json.loads(line)
        print(json.dumps({"start": start, "ended": ended}[order](*rest)), flush=True)
