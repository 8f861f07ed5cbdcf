"""One thread: the tests' tensors are small, and two threads of one process wait for each other when the machine is busy."""

import ipaddress
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


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
    """The folder of the book's pages, built strictly from the notebooks as stored."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", folder / "book")
    shutil.copytree(ROOT / "figures", folder / "book/_extra/figures")
    shutil.copy(ROOT / "_config.yml", folder)
    command = "build book --config _config.yml --path-output . --all -W -n --keep-going".split()
    done = subprocess.run([Path(sys.executable).with_name("jupyter-book"), *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr  # unknown settings too
    return folder / "_build/html"
