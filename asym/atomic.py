"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside the path, which takes its place when the block ends well, and is removed otherwise.

    Its name is no other writer's, on whatever machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _settle(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every system can: there a power cut may take the last runs
        _settle(path.parent, os.O_RDONLY)


def _settle(path: Path, access: int = os.O_RDWR) -> None:
    """Waits until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
