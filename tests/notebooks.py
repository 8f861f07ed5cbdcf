"""The book's notebooks, and papermill, which runs them."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
OVERVIEWS = {  # the pages over all questions, and their parameters
    "key": {"folder"},
    "verdicts": {"figures"},
    "your_run": {"preset", "runs"},
    "performance": {"folder"},
}
PAGES = [path for path in NOTEBOOKS if path.stem not in OVERVIEWS]
BIN = Path(sys.executable).parent


def cells(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def papermill(path, target, *options, runs):
    command = [BIN / "papermill", "--cwd", ROOT, "--no-progress-bar", path, target, *options]
    environment = os.environ | {"ASYM_RUNS": str(runs), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)
