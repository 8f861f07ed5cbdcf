"""One thread: the tests' tensors are small, and two threads of one process wait for each other when the machine is busy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
