"""The bar: it counts stored runs, and moves with the epochs of those under way."""

import os
import re
import termios
import time
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace

from test_grid import until

from asym import grid, progress
from asym.config import Config

TINY = Config(subset=500, hidden=(8,), rules=("bp", "fa"), epochs=10)
GRID = [replace(TINY, seed=seed) for seed in range(4)]


@contextmanager
def terminal():
    """stderr as a terminal, for the block (pytest gives each test an stderr of its own); and all that it has shown."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    os.set_blocking(ours, False)
    shown = []

    def read():
        with suppress(BlockingIOError):
            while chunk := os.read(ours, 2**16):
                shown.append(chunk.decode(errors="replace"))
        return "".join(shown)

    with os.fdopen(theirs, "w", buffering=1) as stderr, redirect_stderr(stderr):
        yield read
    os.close(ours)


def counts(shown, total):
    """How far the bar was at each time that it was drawn."""
    return [int(n) for n in re.findall(rf" (\d+)/{total} ", shown)]


def test_a_long_run_moves_the_bar_before_it_is_stored(store):
    """No end of it is seen, yet its epochs are."""
    long, calls = replace(TINY, subset=2000, epochs=100_000), 0
    with terminal() as shown:
        while len(set(counts(shown(), 100_000))) < 5 and calls < 10:
            assert grid.run([long], store, jobs=1, budget=10.0).left == 1  # a busy machine may take as long to start a process
            calls += 1
        assert calls < 10 and "0/1 runs" in shown() and counts(shown(), 100_000)[-1] > 5


def test_the_bar_ends_full_and_starts_where_the_store_is(store):
    with terminal() as shown:
        grid.run(GRID[:2], store, jobs=2)
        assert re.search(r"2/2 runs: 100%.* 20/20 ", shown())
    with terminal() as shown:
        grid.run(GRID, store, jobs=2)
        assert re.search(r"2/4 runs:  50%.* 20/40 ", shown()) and re.search(r"4/4 runs: 100%.* 40/40 ", shown())
        found = counts(shown(), 40)
        assert found == sorted(found) and found[0] == 20


def test_a_stack_tells_the_epochs_of_all_its_seeds(store):
    with terminal() as shown:
        grid.run(GRID, store, jobs=1, stack=4)
        assert "4/4 runs: 100%" in shown()
        assert set(counts(shown().rpartition("0/4 runs")[0], 40)) <= set(range(0, 41, 4))


def test_what_is_heard_late_of_a_stored_run_counts_once():
    with terminal(), progress.Bar(GRID, GRID[:1], quiet=False) as bar:
        progress.tell_to(bar.teller)
        try:
            progress.tell(GRID[1], 5)
            until(lambda: bar._bar.n == 15)
            bar.stored(GRID[1])
            progress.tell(GRID[1], 10), progress.tell(GRID[2], 1)
            until(lambda: bar._bar.n == 21)
            time.sleep(0.1)
            assert bar._bar.n == 21
        finally:
            progress.tell_to(None)


def test_without_a_terminal_there_is_neither_bar_nor_pipe(capfd):
    with progress.Bar(GRID, [], quiet=False) as bar:
        assert bar.teller is None
        bar.stored(GRID[0])
    progress.tell(GRID[0], 3)  # to nobody
    assert capfd.readouterr() == ("", "")
