"""The notebooks as stored: run again, each gives the outputs that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def figures():
    return {path: path.read_bytes() for path in (ROOT / "figures").rglob("*.*")}


def test_stored_outputs_and_figures_are_reproduced(tmp_path):
    """Outputs as nbval compares them; the figures, their numbers and the registers byte by byte."""
    before = figures()
    notebooks = sorted((ROOT / "book").glob("*.ipynb"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", *notebooks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"ASYM_RUNS": str(tmp_path)})
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout)
    after = figures()
    assert len(before) > 80 and [path for path in before | after if before.get(path) != after.get(path)] == []
