"""The bar of a grid: how many runs are stored, and the epochs of those under way, as the workers of this machine tell them."""

import threading
from collections.abc import Collection
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from tqdm import tqdm

from asym.config import Config

_teller: Connection | None = None  # a worker's end of its grid's pipe


def tell_to(teller: Connection | None) -> None:
    """In a worker: where `tell` goes."""
    global _teller
    _teller = teller


def tell(config: Config, epochs: int) -> None:
    """In a worker: so many epochs of the run are done. A message is short enough to be written at once, beside other workers'."""
    if _teller is not None:
        with suppress(OSError):  # nobody listens any longer
            _teller.send_bytes(f"{config.hash} {epochs}".encode())


class Bar:
    """A bar of epochs on stderr, where that is a terminal and it is not quiet. teller: the pipe's end for the workers, if so."""

    def __init__(self, configs: Collection[Config], stored: Collection[Config], quiet: bool):
        self._runs, self._under_way = len(configs), {}
        self._stored = {config.hash: config.epochs for config in stored}
        options = {"initial": sum(self._stored.values()), "unit": "epoch", "desc": self._words}
        self._bar = tqdm(total=sum(config.epochs for config in configs), disable=True if quiet else None, **options)
        self._lock, self.teller = threading.Lock(), None
        if not self._bar.disable:
            heard, self.teller = get_context("spawn").Pipe(duplex=False)
            threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_) -> None:
        if self.teller is not None:
            self.teller.close()
        self._bar.close()

    def stored(self, config: Config) -> None:
        """The run is stored."""
        with self._lock:
            self._stored[config.hash] = config.epochs
            self._under_way.pop(config.hash, None)
            self._bar.set_description(self._words, refresh=False)
            self._show()

    @property
    def _words(self) -> str:
        return f"{len(self._stored)}/{self._runs} runs"

    def _listen(self, heard: Connection) -> None:
        """Until the last worker has ended."""
        with heard, suppress(EOFError, OSError):
            while True:
                run, epochs = heard.recv_bytes().decode().split()
                with self._lock:
                    if run not in self._stored:  # the last of them may be heard late
                        self._under_way[run] = int(epochs)
                        self._show()

    def _show(self) -> None:
        self._bar.update(sum(self._stored.values()) + sum(self._under_way.values()) - self._bar.n)
