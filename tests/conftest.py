"""One thread: the tests' tensors are small, and two threads of one process wait for each other when the machine is busy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


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
