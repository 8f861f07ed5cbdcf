"""The linear map: as in the paper, both rules learn it, and feedback alignment's error turns towards backpropagation's."""

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from asym import linear_map

SHORT = {"seeds": range(3), "steps": 250}


@pytest.fixture(scope="module")
def rows():
    return linear_map.run(**SHORT)


def test_both_rules_learn_the_map_from_almost_nothing(rows):
    ends = rows[rows["step"] == SHORT["steps"]].groupby("rule")["error"]
    starts = rows[rows["step"] == 0]["error"]
    assert starts.between(0.999, 1.001).all() and (ends.max() < 1e-3).all() and set(ends.groups) == {"bp", "fa"}


def test_the_error_sent_back_at_random_turns_towards_backpropagations(rows):
    fa = rows[rows["rule"] == "fa"].groupby("step")["delta_angle"]
    assert fa.mean()[0] > 60 and fa.max()[200] < 60
    assert (rows.loc[rows["rule"] == "bp", "delta_angle"] == 0).all()


def test_the_rules_share_a_start_and_a_run_is_the_same_again(rows):
    starts = rows[rows["step"] == 0].pivot(index="seed", columns="rule", values="error")
    assert (starts["bp"] == starts["fa"]).all() and starts["bp"].nunique() == 3
    assert linear_map.run(seeds=[1], steps=20).equals(rows[(rows["seed"] == 1) & (rows["step"] <= 20)].reset_index(drop=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_threads_change_no_digit_and_stay(rows, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert linear_map.run(**SHORT).equals(rows)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_lesser_processor_gives_the_same_digits(rows, tmp_path):
    """The libraries are told to use none of this one's vector instructions."""
    lesser = {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    code = f"from asym import linear_map; linear_map.run(**{SHORT}).to_pickle('rows')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | lesser, check=True)
    assert pd.read_pickle(tmp_path / "rows").equals(rows)
