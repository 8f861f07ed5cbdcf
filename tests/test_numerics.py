"""Numbers: the same config gives the same bits in every process, and nearly the same ones with other threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THREADS_TOLERANCE = 1e-4  # relative, of a loss: sums are taken in another order
RUN = """
import sys, json, hashlib, torch
from asym import grid
from asym.config import Config
fields = json.loads(sys.argv[1])
record = grid.perform(Config(**fields), threads=int(sys.argv[2]))
rows = [{k: v for k, v in row.items() if k != "seconds"} for row in record.epochs]
print(json.dumps({"hash": record.config.hash, "rows": repr(rows), "losses": [r["train_loss"] for r in record.epochs[1:]]}))
"""
POGGIO = {"net": "poggio", "rules": ["bp", "brsf", "shared_update", "usf", "dfa"], "subset": 40, "test_subset": 40, "batch": 20}
DENSE = {"hidden": [64, 32], "rules": ["bp", "fa", "mirror"], "dropout": 0.2, "subset": 500, "test_subset": 200, "batch": 50}
CONFIGS = {"dense": DENSE | {"epochs": 2}, "poggio": POGGIO}


def fresh(config, threads, hash_seed):
    """What a process of its own prints of a run."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ASYM_GEMM": "stock", "ASYM_UNTIED": "torch"}
    environment |= {"PYTHONHASHSEED": hash_seed, "ASYM_DATA": ""}
    command = [sys.executable, "-c", RUN, json.dumps(CONFIGS[config]), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_run_is_the_same_to_the_last_bit_in_every_process_and_close_with_other_threads(config):
    first, second, other = fresh(config, 1, "0"), fresh(config, 1, "1"), fresh(config, 2, "0")
    assert first == second
    assert other["hash"] == first["hash"]
    assert other["losses"] == pytest.approx(first["losses"], rel=THREADS_TOLERANCE)
