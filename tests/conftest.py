"""One thread: the tests' tensors are small, and two threads of one process wait for each other when the machine is busy."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from asym.results import Store

torch.set_num_threads(1)
os.environ["TERMINAL_WIDTH"] = "400"  # for typer's errors, which reads it once, whichever test comes first
ROOT = Path(__file__).parent.parent
LONGEST = ("notebooks", "browser", "nbval", "rerun", "grid", "faults", "cluster", "transforms", "checkpoint", "bench", "numerics")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that of several processes none is left with one of them alone at the end."""
    rank = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def without_network():
    """What to put before a command so that it runs in a network namespace of its own, which has no network; nothing where the
    system allows none."""
    alone = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    return alone if allowed else []


@pytest.fixture(scope="session", autouse=True)
def embedded():
    """The data are those that come with the package, whatever the reader's $ASYM_DATA has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ASYM_DATA", raising=False)
        yield


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    """A connection beyond this machine fails at once, but in tests that are marked `network`."""
    if request.node.get_closest_marker("network"):
        return

    def local(connect):
        def guarded(sock, address):
            host = address[0] if isinstance(address, tuple) else ""  # a socket of the file system has a path
            if host not in ("", "localhost") and not ipaddress.ip_address(host).is_loopback:
                raise PermissionError(f"a test may not connect to {host}")
            return connect(sock, address)

        return guarded

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, local(getattr(socket.socket, name)))


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The folder of the book's pages, built strictly and without network from the notebooks as stored; once for all processes."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "book"  # of this run of the tests alone
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _build(folder)
    return folder / "_build/html"


def _build(folder):
    making = folder.with_suffix(".making")
    shutil.copytree(ROOT / "book", making / "_build/book")
    shutil.copytree(ROOT / "figures", making / "figures")
    for name in ("_config.yml", "Makefile"):
        shutil.copy(ROOT / name, making)
    command = [*without_network(), "make", "pages", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(command, cwd=making, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr  # unknown settings too
    making.rename(folder)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; ends with the module, since playwright leaves an event loop running in this thread."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()
