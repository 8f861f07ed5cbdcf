"""What a long training has come to, on disk: one that was stopped goes on from there, to the very numbers of one that was not."""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from asym.atomic import whole
from asym.checks import in_short

EVERY, FIRST = 300.0, 20.0  # seconds between two writings, and until the first


class Checkpoint:
    """A file with the state of the training that writes it, after 20 seconds, 40, 80 and so on, then every five minutes: a
    sitting that is stopped loses half of its time at most, and no more than five minutes, beside the epoch.

    made_by: what decides a training's numbers (its configs, the code, the processor, ...). `state` is what the file holds, if it
    was written by the same, else empty; seconds are those of the earlier sittings, and sittings counts this one too. A file of
    another training (a warning names what differs), or one that cannot be read, is left until the first state is written.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], every: float = EVERY):
        self.path, self.made_by, self.every = path, dict(made_by), every
        self.state: dict[str, Any] = {}
        self.seconds, self.sittings = 0.0, 1
        self._began = self._written = time.perf_counter()

    def open(self, **made_by: Any) -> None:
        """Reads the file, if there is one; more of what decides the numbers."""
        self.made_by |= made_by
        if not self.path.exists():
            return
        try:
            body = torch.load(self.path, map_location="cpu", weights_only=True)
            differ = sorted(name for name, value in self.made_by.items() if body["made_by"].get(name) != value)
            found = body["state"], body["seconds"], body["sittings"] + 1
        except Exception as error:  # whatever torch makes of a damaged file
            differ, found = [f"it cannot be read: {in_short(error)}"], None
        if differ:
            warnings.warn(f"{self.path}: not gone on from ({', '.join(differ)}); the training begins again", stacklevel=4)
        else:
            self.state, self.seconds, self.sittings = found

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Writes the state if it is time to; a disk that cannot take it is told in a warning and does not stop the training."""
        if time.perf_counter() - self._written < min(self.every, max(FIRST, self._written - self._began)):
            return
        body = {
            "made_by": self.made_by,
            "state": state(),
            "seconds": self.seconds + time.perf_counter() - self._began,
            "sittings": self.sittings,
        }
        try:
            with whole(self.path) as temporary:
                torch.save(body, temporary)
        except (OSError, RuntimeError) as error:
            hint = " (so torch tells of a full disk)" if isinstance(error, RuntimeError) else ""
            warnings.warn(f"{self.path}: not written, {error}{hint}; the training goes on", stacklevel=2)
        self._written = time.perf_counter()
