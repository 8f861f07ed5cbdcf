"""Which runs a grid is making: each is held, so that no other grid on the same store makes it too."""

import errno
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterable
from pathlib import Path

from tqdm import tqdm

from asym.config import Config
from asym.results import Store

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Task = tuple[Config, ...]  # what one call of a worker trains: one config, or the seeds of one that are stacked

FILE = "held.lock"
ATTEMPTS = 3  # of a run whose process dies under it
PAUSE = 1.0  # seconds between two looks at what another grid is making
HELD = (errno.EAGAIN, errno.EACCES)  # what a lock of another process answers; anything else: the file system has no locks


class Holds:
    """This process's holds on runs of a store, each a locked byte of one file there, which stays empty.

    The system frees the locks when the process ends, however it ends. They are a process's: two grids in threads of one do not
    keep each other off. On a file system without locks, and on Windows, every run is free (`sure` is False): two grids may then
    make one twice.
    """

    def __init__(self, folder: Path):
        self.path, self._file, self.sure = folder / FILE, None, fcntl is not None

    def __enter__(self) -> "Holds":
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()  # and with it all locks

    def take(self, config: Config) -> bool:
        """Holds the run unless another process does; whether this one does now. OSError where the file cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)  # a worker keeps checkpoints only in a folder that is there
        if fcntl is None:
            return True
        if self._file is None:
            self._file = self.path.open("ab")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(config))
        except OSError as error:
            if error.errno in HELD:
                return False
            self.sure = False
            warnings.warn(f"{self.path}: no locks here ({error}); two grids at once may make a run twice", stacklevel=2)
        return True

    def drop(self, config: Config) -> None:
        """Frees the run."""
        if self._file is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(config))
            except OSError:
                pass  # none was taken: take() has told


def _place(config: Config) -> int:
    """The run's byte, anywhere in what a file could hold."""
    return int(config.hash, 16) % 2**62


class Queue:
    """The tasks that a grid has still to do; those that another grid is making are put off until it has stored or left them."""

    def __init__(self, tasks: Iterable[Task], store: Store, holds: Holds):
        self.waiting, self.store, self.holds = deque(tasks), store, holds
        self.put_off: deque[Task] = deque()
        self.found: deque[Config] = deque()  # stored by another grid since this one looked
        self._leftovers = store.leftovers()
        self._lost: Counter[Task] = Counter()
        self._again, self._told = 0.0, False

    def __bool__(self) -> bool:
        return bool(self.waiting or self.put_off or self.found)

    def take(self, running: Collection[Task] = ()) -> Task | None:
        """The next task, held; of a stack what is this grid's to make. None where nothing is, beside the running ones."""
        if not self.waiting and time.monotonic() >= self._again:
            self.waiting, self.put_off = self.put_off, self.waiting
            self._again = time.monotonic() + PAUSE
        while self.waiting:
            if self._lost and running and any(map(self._is_suspect, (*running, self.waiting[0]))):
                return None
            mine = tuple(config for config in self.waiting.popleft() if self._is_mine(config))
            if mine:
                return mine
        return None

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Tasks that were taken and not done come first again, in their order."""
        self.waiting.extendleft(reversed(list(tasks)))

    def lose(self, tasks: Collection[Task]) -> list[Task]:
        """A process died, and one of these tasks may be why: they come first again, and those that were lost for the last time
        are given back instead."""
        self._lost.update(tasks)
        self.put_back(task for task in tasks if self._lost[task] < ATTEMPTS)
        return [task for task in tasks if self._lost[task] >= ATTEMPTS]

    def tell(self) -> None:
        """Says once, on stderr, what this grid waits for."""
        if not self._told:
            tqdm.write(f"waiting for {len(self.put_off)} runs that another grid on this store is making", sys.stderr)
        self._told = True

    def _is_suspect(self, task: Task) -> bool:
        """Whether it has one attempt left, which it makes alone: if that process dies too, no other run is to blame."""
        return self._lost[task] == ATTEMPTS - 1

    def _is_mine(self, config: Config) -> bool:
        if not self.holds.take(config):
            self.put_off.append((config,))
            return False
        if self.store.has(config):
            self.holds.drop(config)
            self.found.append(config)
            return False
        if self.holds.sure:  # no other grid writes this run now
            for path in self._leftovers.pop(config.hash, ()):
                path.unlink(missing_ok=True)
        return True
