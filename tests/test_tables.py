"""The original's numbers and ours beside them, the claims, and the figures made from both."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from asym import claims, plots, tables
from asym.config import Config
from asym.measures import MEASURES
from asym.presets import load
from asym.questions import cells
from asym.results import Record, at_epoch, frame, interval, layer_frame


def record(config: Config, accuracy: float, diverged_at: int | None = None) -> Record:
    """A made-up run that ends at an accuracy, half of it at its first epoch."""
    last = diverged_at or config.epochs
    epochs = [
        {
            "epoch": epoch,
            "train_loss": 1.0,
            "train_accuracy": accuracy,
            "test_accuracy": accuracy if epoch == last else accuracy / 2,
            "seconds": float(epoch),
            **{name: [float(epoch)] * config.layers for name in MEASURES},
        }
        for epoch in range(last + 1)
    ]
    return Record(config, epochs, diverged_at is not None, {})


@pytest.fixture
def dense():
    """Table 2 at the original's epochs, three seeds: DS0 reaches 50, 51, 52 %, every other net 10 points less."""
    wanted = cells("dense", load("cpu"))
    accuracy = {cell: (50 + cell.config.seed - (0 if cell.network == "DS0" else 10)) / 100 for cell in wanted}
    return wanted, [(cell, record(cell.config, accuracy[cell])) for cell in wanted]


def test_the_original_is_whole():
    rows = tables.original()
    assert len(rows) == 105
    assert rows.groupby("part").size()[["table 2", "table 4", "table 6"]].tolist() == [10, 26, 26]
    assert tables.original("table 2")["accuracy_percent"].iloc[0] == 50.06


def test_beside_original(dense):
    table = tables.beside_original(*dense)
    assert len(table) == 10 and (table["seeds"] == 3).all() and (table["diverged"] == 0).all()
    control = table.iloc[0]
    assert (control["network"], control["original"]) == ("DS0", 50.06)
    assert control["ours"] == pytest.approx(51)
    assert control["half_width"] == pytest.approx(stats.t.ppf(0.975, 2) / math.sqrt(3))
    assert control["difference"] == pytest.approx(51 - 50.06)
    assert bool(control["agrees"]) is True
    assert bool(table.set_index(["network", "loss"])["agrees"]["DSR2-U", "ce"]) is False  # 50.49 against 40, 41, 42


def test_agrees_is_the_range_of_one_further_seed():
    """Drawn from one distribution, the fourth value lies in the range made of three in 95 % of cases."""
    rng = np.random.default_rng(0)
    inside = 0
    for first in rng.normal(50, 2, (4000, 4)):
        rows = pd.DataFrame({"test_accuracy": first[:3] / 100, "diverged": False})
        inside += tables._ours(rows, first[3])["agrees"]
    assert 0.935 < inside / 4000 < 0.965


def test_missing_and_short_runs_are_shown_as_such(dense):
    wanted, found = dense
    table = tables.beside_original(wanted, found[:1])
    assert table["seeds"].tolist() == [1] + [0] * 9
    assert table["agrees"].isna().all() and math.isnan(table["ours"][1])
    quick = cells("dense", load("quick"))
    table = tables.beside_original(quick, [(cell, record(cell.config, 0.8)) for cell in quick])
    assert (table["epochs_run"] == 4).all() and table["agrees"].isna().all()  # other data, fewer epochs: no judgement
    assert tables.beside_original(wanted, [])["seeds"].sum() == 0


def test_a_diverged_run_counts_at_the_guess(dense):
    wanted, found = dense
    found[0] = (wanted[0], record(wanted[0].config, 0.1, diverged_at=3))
    row = tables.beside_original(wanted, found).iloc[0]
    assert row["diverged"] == 1 and row["seeds"] == 3
    assert row["ours"] == pytest.approx((10 + 51 + 52) / 3)


def test_one_run_is_read_at_both_printed_epochs():
    wanted = cells("depth", load("cpu"))
    found = [(cell, record(cell.config, 0.4)) for cell in wanted if cell.network == "DDR1" and cell.config.loss == "ce"]
    table = tables.beside_original(wanted, found).dropna(subset="ours")
    assert table[["epochs", "ours"]].values.tolist() == [[100, 20.0], [200, 40.0]]


def test_interval_against_scipy():
    values = pd.Series([1.0, 2.0, 4.0, 4.5])
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(interval(values[:1])[1])


def test_frames(dense):
    wanted, found = dense
    runs = frame(found)
    assert len(runs) == 30 * 101
    assert len(at_epoch(runs, 100)) == 30 and (at_epoch(runs, 7)["epoch"] == 7).all()
    layers = layer_frame(found[:1])
    assert len(layers) == 101 * 3 and layers["layer"].tolist()[:3] == [1, 2, 3]


def test_claims_follow_their_bounds(dense):
    _, found = dense
    judged = claims.judge("dense", frame(found)).set_index("claim")
    assert judged.loc["dense-learns-ce", "verdict"] == claims.HOLDS
    assert judged.loc["dense-one-ce", "verdict"] == claims.CONTRADICTED  # 10 points, not less than 3
    assert judged.loc["dense-two-ce", ["derived", "half_width"]].tolist() == pytest.approx([-10, 0], abs=1e-9)
    assert judged.loc["dense-two-ce", "verdict"] == claims.HOLDS
    assert judged.loc["dense-shared-ce", "published"] == pytest.approx(50.49 - 44.19)
    assert claims.verdict(judged) == "holds in part"


def test_claims_need_seeds_epochs_and_the_originals_data(dense):
    wanted, found = dense
    two = [(cell, run) for cell, run in found if cell.config.seed < 2]
    assert set(claims.judge("dense", frame(two))["verdict"]) == {claims.UNTESTED}
    for preset in (load("quick"), load("cpu", epochs=50)):
        other = [(cell, record(cell.config, 0.5)) for cell in cells("dense", preset)]
        assert claims.verdict(claims.judge("dense", frame(other))) == claims.UNTESTED
    assert claims.verdict(claims.judge("depth", frame([]))) == claims.UNTESTED


@pytest.mark.parametrize("question", claims.CLAIMS)
def test_claims_are_well_formed(question):
    made = claims.CLAIMS[question]()
    assert len({claim.id for claim in made}) == len(made)
    for claim in made:
        assert claim.id.startswith(question) and claim.sentence.endswith((".", ")."))
        assert claim.least > -math.inf or claim.most < math.inf
        # the original's own numbers bear out each claim made in its name
        assert math.isnan(claim.published) or claim.least <= claim.published <= claim.most


def test_figures(dense):
    wanted, found = dense
    runs, table, layers = frame(found), tables.beside_original(wanted, found), layer_frame(found)
    figure = plots.learning_curves(runs, tables.original("table 2"))
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert lines["DS0"].get_ydata()[-1] == pytest.approx(51)
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [cross.get_ydata()[0] for cross in crosses] == tables.original("table 2")["accuracy_percent"][:5].tolist()
    dots = plots.beside_original(table).axes[0].get_lines()
    assert any(line.get_marker() == "o" and line.get_xdata()[0] == pytest.approx(51) for line in dots)
    angles = plots.alignment(layers[layers["network"].isin(["DSR1", "DSR2"])])
    assert len(angles.axes) == 6
    plots.plt.close("all")


def test_figures_are_the_same_to_the_byte(dense, tmp_path):
    plots.use_style()
    for name in "ab":
        figure = plots.learning_curves(frame(dense[1]), tables.original("table 2"))
        figure.savefig(tmp_path / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plots.plt.close(figure)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_depth_sweep_figure():
    wanted = [cell for cell in cells("depth", load("smoke")) if cell.part == "sweep"]
    runs = frame((cell, record(cell.config, 0.9 - 0.1 * cell.config.layers)) for cell in wanted)
    lines = {line.get_label(): line for line in plots.against_depth(runs).axes[0].get_lines()}
    assert set(lines) == {"bp", "fa", "shared_update", "kp", "dfa"}
    assert lines["fa"].get_xdata().tolist() == list(range(2, 9))
    assert lines["fa"].get_ydata().tolist() == pytest.approx([70, 60, 50, 40, 30, 20, 10])
    plots.plt.close("all")
