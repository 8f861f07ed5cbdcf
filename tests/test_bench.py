"""The bench: its arithmetic on known times, its peers equal to our layers, and the command as it is run."""

import json
import math
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import record as made_up
from typer.testing import CliRunner

from asym import bench, cli, grid, nets, presets, versions
from asym.bench import forms, goals, gpu, machines, page, peers, precision, roofline
from asym.bench.goals import MET, MISSED, UNMEASURED, Goal
from asym.config import Config
from asym.layers import UntiedConv2d
from asym.publication import publish, published
from asym.questions import cells
from asym.results import Store

ROOT = Path(__file__).parent.parent
HALF = Config(hidden=(8,), rules=("bp", "fa"), seed=3, precision="bf16")
GOAL = Goal("group", "ours / theirs", "ours", "theirs", 0.5)


def test_a_goal_is_judged_by_the_median_of_ratios_paired_by_round():
    seconds = {"ours": [1.0, 2.0, 9.0], "theirs": [4.0, 4.0, 10.0]}
    row = GOAL.judge(seconds)
    assert (row["median"], row["low"], row["high"], row["rounds"]) == (0.5, 0.375, 0.7, 3)
    assert row["verdict"] == MET
    assert replace(GOAL, bound=0.49).judge(seconds)["verdict"] == MISSED
    assert replace(GOAL, bound=0.51, at_least=True).judge(seconds)["verdict"] == MISSED
    assert replace(GOAL, factor=2.0).judge(seconds)["median"] == 1.0


def test_a_goal_without_a_second_form_is_about_seconds_and_one_without_times_is_not_measured():
    assert replace(GOAL, second=None).judge({"ours": [0.3]})["median"] == 0.3
    assert GOAL.judge({"ours": [0.3]})["verdict"] == UNMEASURED and GOAL.judge({})["median"] is None


def test_every_goal_is_of_forms_that_are_timed_in_its_group():
    made = {"fp32 product", "first run", "warm run"}
    for goal in goals.all_goals():
        assert set(goal.forms) <= forms.FORMS.keys() | made and goal.group in bench.ROUNDS, goal
    assert bench.QUICK.keys() < bench.ROUNDS.keys()


def test_a_form_that_failed_is_left_out_of_the_ceilings():
    known = {"fp32 product, torch": [1.0], "memory copy": [1.0]}
    found = bench._ceilings(known)
    assert found.keys() == known.keys()
    machine = {name: "" for name in ("processor", "torch", "date", "matrix_products", "threads", "commit")}
    facts = page.facts({"ceilings": found, "goals": [], "machine": machine})
    assert facts["memory"] == found["memory copy"] and math.isnan(facts["bf16"])


def test_operations_and_traffic_of_a_known_net():
    trainer = forms.trainer("dense", "fa", 7)
    widths = (3072, *peers.HIDDEN, 10)
    weights = [a * b for a, b in zip(widths, widths[1:], strict=False)]
    activations = 3072 + 2 * sum(peers.HIDDEN) + 10  # the flattened image, each layer before and after relu
    assert roofline.traffic(trainer) == 40 * sum(weights) + 16 * 7 * activations
    for _ in range(2):
        assert roofline.operations(trainer) == 7 * 2 * (3 * sum(weights) - weights[0])
    assert {weight.dtype for weight in trainer.weights} == {torch.float32} and trainer.weights[0].grad is None


def test_the_peers_nets_are_ours():
    for name, ours in (
        ("dense", nets.dense(peers.SHAPE, 10, ["bp"] * 5, hidden=peers.HIDDEN)),
        ("poggio", nets.poggio(peers.SHAPE, 10, ["bp"] * 5)),
    ):
        theirs = peers.stock(name)
        for mine, weight in zip(ours.layers, theirs.parameters(), strict=True):
            weight.data.copy_(mine.weight)
        x = torch.randn(3, *peers.SHAPE)
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)


def untied_layer():
    c, size, o, k = peers.LAYER.values()
    return UntiedConv2d(c, o, k, size, padding=k // 2, bias=False), torch.randn(2, c, size, size)


def test_unfold_and_einsum_is_our_untied_layer():
    layer, x = untied_layer()
    theirs = peers.Unfolded(layer.in_channels, layer.out_channels, layer.input_size[0])
    theirs.weight.data.copy_(layer.weight)
    torch.testing.assert_close(theirs(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["library", "batched"])
def test_jax_computes_our_untied_layer(form):
    pytest.importorskip("jax", reason="JAX is an optional peer")
    layer, x = untied_layer()
    ours = layer(x).square().sum()
    value, gradients = peers.jax_step(form)(x.numpy(), layer.weight.detach().numpy().reshape(16, 16, -1, 64))
    assert math.isclose(float(value), ours.item(), rel_tol=1e-4)
    dw = torch.autograd.grad(ours, layer.weight)[0]
    torch.testing.assert_close(torch.from_numpy(gradients[1].__array__().copy()).reshape(dw.shape), dw, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_biotorch_trains(rule):
    pytest.importorskip("biotorch", reason="BioTorch is an optional peer")
    peers.biotorch("dense", rule, 4)()


def test_a_peer_that_fails_or_ends_its_process_is_told_and_leaves_the_others(monkeypatch):
    """Where a process ends, the forms of its group are not timed; the next group has a new one."""
    copy = "memory copy"
    for form, place in (("absent", "theirs"), ("ends", "theirs"), ("fails", "ours")):
        monkeypatch.setitem(forms.FORMS, form, (place, forms.FORMS[copy][1]))  # unknown in the other processes
    with bench._pools() as pools, bench.tqdm(disable=True) as bar:
        problems = {}
        taken = bench._in_turn(pools, ["absent", copy], 2, problems, bar)
        assert problems.keys() == {"absent"} and len(taken[copy]) == 2 and "absent" not in taken
        assert all(seconds > 0 for seconds in taken[copy])
        monkeypatch.setattr(bench, "_time", _ending)
        monkeypatch.setattr(bench, "_prepare", _ready)
        taken = bench._in_turn(pools, ["ends", "fails", copy], 2, problems, bar)
        assert "BrokenProcessPool" in problems["ends"] and "ZeroDivisionError" in problems["fails"]
        assert not {"ends", "fails"} & taken.keys()
        assert bench._in_turn(pools, [copy], 2, {}, bar)[copy] == [1.0, 1.0]


def _ready(form):
    pass


def _ending(form):
    return {"ends": lambda: os._exit(1), "fails": lambda: 1 / 0}.get(form, lambda: 1.0)()


def test_a_form_of_several_groups_is_told_by_the_one_with_most_rounds(monkeypatch):
    monkeypatch.setattr(bench, "QUICK", {"ceilings": 3, "poggio": 1, "overhead": 0})
    times = {3: 1.0, 1: 9.0}  # by rounds
    monkeypatch.setattr(bench, "_pools", lambda: nullcontext({}))
    monkeypatch.setattr(bench, "_in_turn", lambda pools, forms, rounds, *_: {form: [times[rounds]] * rounds for form in forms})
    monkeypatch.setattr(bench, "_point", lambda net, seconds: {})
    timed = bench.measure(quick=True)["forms"][bench.PRODUCTS["fp32"][0]]
    assert timed == {"group": "ceilings", "seconds": 1.0, "rounds": 3}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(cli.console, "width", 400)


def asym(*arguments):
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.mark.slow
def test_the_command_measures_prints_and_writes(monkeypatch, tmp_path):
    """With real processes and real times, of which nothing is asserted but that they are there."""
    monkeypatch.setattr(bench, "QUICK", {"ceilings": 1, "dense": 1, "data": 1})
    code, out = asym("bench", "--quick", "--json", str(tmp_path / "bench.json"))
    report = json.loads((tmp_path / "bench.json").read_text())
    verdicts = [row["verdict"] for row in report["goals"]]
    met, missed = verdicts.count(MET), verdicts.count(MISSED)
    assert out.splitlines()[-1] == f"{met} of {met + missed} goals met, {verdicts.count(UNMEASURED)} not measured"
    assert code == (1 if missed else 0)
    assert set(report) == {"machine", "ceilings", "forms", "goals", "roofline", "problems"}
    assert all(ceiling > 0 for ceiling in report["ceilings"].values()) and len(report["ceilings"]) == 6
    assert all("BioTorch" in form for form in report["problems"])  # where it is not installed
    assert {row["goal"] for row in report["goals"] if row["verdict"] == UNMEASURED} >= {"JAX by hand / ours, one layer"}
    assert [point["net"] for point in report["roofline"]] == ["dense"]


@pytest.mark.parametrize(("verdict", "expected"), [(MET, 0), (MISSED, 1), (UNMEASURED, 0)])
def test_the_exit_code_tells_a_missed_goal(monkeypatch, verdict, expected):
    row = GOAL.judge({"ours": [1.0], "theirs": [1.0]}) | {"verdict": verdict}
    report = {"machine": {"processor": "made up"}, "goals": [row], "ceilings": {"memory copy": 1.0}, "problems": {}}
    monkeypatch.setattr(cli.bench, "measure", lambda quick: report)
    assert asym("bench")[0] == expected


def test_precisions_are_compared_by_seed(monkeypatch, tmp_path):
    asked = precision.wanted(presets.load("cpu"))
    assert {(cell.network, cell.config.precision) for cell in asked} == {
        (network, name) for _, _, network in precision.CELLS for name in ("fp32", "bf16")
    }
    records = {}
    for cell in asked:
        better = cell.config.precision == "bf16"
        records[cell.config.hash] = made_up(cell.config, 0.5 + 0.01 * cell.config.seed + 0.02 * better)
    compared = precision.compare(asked, records)
    assert len(compared) == len(precision.CELLS) and (compared["seeds"] == 3).all()
    assert compared["difference"].tolist() == pytest.approx([2.0] * 3)
    assert compared["difference_half"].tolist() == pytest.approx([0.0] * 3, abs=1e-9)  # paired: what seeds share falls out
    assert compared["fp32_half"].min() > 1
    assert precision.compare(asked, {}).empty
    first = asked[0].config
    records[first.hash] = made_up(first, diverged_at=0)  # which has no seconds of an epoch
    told = precision.compare(asked, records)
    assert told["diverged"].tolist() == [1, 0, 0] and (told["speed"] == compared["speed"]).all()
    half = [record for record in records.values() if record.config.precision == "bf16"][1]
    half.epochs[-1]["seconds"] /= 4
    row = precision.compare(asked, records).iloc[0]
    assert row["fastest"] == 4 * row["slowest"] and row["devices"] == half.provenance["device"]


def test_precisions_are_compared_on_one_copy_of_the_data_and_timed_on_one_machine():
    asked = precision.wanted(presets.load("cpu"))
    records = {cell.config.hash: made_up(cell.config) for cell in asked}
    halves = [records[cell.config.hash] for cell in asked if cell.config.precision == "bf16"]
    for half in halves:
        half.provenance["device"] = "another"
    compared = precision.compare(asked, records)
    assert (compared["seeds"] == 3).all() and compared["speed"].isna().all()
    halves[0].provenance["data_fingerprint"] = "f" * 64
    assert sorted(precision.compare(asked, records)["seeds"]) == [2, 3, 3]


def test_twins_of_two_precisions_are_read_at_the_last_epoch_of_both():
    """The longest twin in fp32, of the same copy of the data; what differs in anything else is none."""
    made = lambda reached, **fields: made_up(replace(HALF, **fields), reached)
    half = made(0.5, epochs=10)  # at the fifth epoch 0.25
    others = [made(0.9, precision="fp32", **other) for other in ({"epochs": 2}, {"seed": 4}, {"lr": 0.5}, {"clip_norm": 1.0})]
    elsewhere = made(0.9, precision="fp32", epochs=8)
    elsewhere.provenance["data_fingerprint"] = "f" * 64
    found = precision.pairs([half, made(0.2, precision="fp32", epochs=5), *others, elsewhere])
    (row,) = found.to_dict("records")
    assert (row["net"], row["clipped"], row["seed"], row["epoch"]) == ("dense", False, 3, 5)
    assert (row["rule"], row["lr"]) == (HALF.rules[-1], HALF.lr)
    assert (row["fp32"], row["bf16"], row["before"]) == pytest.approx((20, 25, 16))
    clipped = precision.pairs([made(0.5, clip_value=0.1), made(0.5, clip_value=0.1, precision="fp32", epochs=4)])
    assert clipped["clipped"].tolist() == [True] and clipped["epoch"].tolist() == [1]
    assert precision.pairs([half]).empty
    on_gpu = made(0.2, precision="fp32", epochs=9)
    on_gpu.provenance["matrix_products"] = f"stock, {grid.ON_GPU}"  # which is not fp32
    assert precision.pairs([half, on_gpu]).empty


def test_the_pair_farthest_apart_is_named(monkeypatch):
    made = lambda reached, **fields: made_up(replace(HALF, **fields), reached)
    alike = [made(0.5, precision=precision) for precision in ("fp32", "bf16")]
    apart = [made(reached, lr=0.02, seed=7, precision=precision) for reached, precision in ((0.5, "fp32"), (0.1, "bf16"))]
    published = {record.config.hash: record for record in (*apart, *alike)}
    monkeypatch.setattr(page.publication, "library", lambda figures: published)
    (row,) = page.show_pairs(Path("figures")).rows.to_dict("records")
    assert row["pairs"] == 2 and row["farthest apart"] == f"{HALF.rules[-1]}, lr 0.02, seed 7"
    assert (row["from"], row["to"]) == ("-40.00", "+0.00")


def test_runs_made_twice_are_compared_by_seed_where_two_machines_made_them_from_one_copy_of_the_data():
    asked = [cell for cell in cells("depth", presets.load("cpu")) if cell.network in ("DD0", "DDR4") and cell.part == "table 4"]
    deep = [cell.config for cell in asked if cell.network == "DD0" and cell.config.loss == "ce"]
    published = {cell.config.hash: made_up(cell.config, 0.5 + 0.01 * cell.config.seed) for cell in asked}

    def elsewhere(config, accuracy, **provenance):
        made = made_up(config, accuracy)
        made.provenance.update({"device": "another"} | provenance)
        return made

    again = [elsewhere(config, 0.51 + 0.01 * config.seed) for config in deep]
    (other,) = (cell.config for cell in asked if (cell.network, cell.config.loss, cell.config.seed) == ("DDR4", "hinge", 0))
    found = machines.compare(reversed(asked), published, [elsewhere(other, 0.4), *again])
    assert found[["part", "network", "loss", "seeds"]].to_numpy().tolist() == [
        ["table 4", "DD0", "ce", 3],
        ["table 4", "DDR4", "hinge", 1],
    ]
    row, single = found.to_dict("records")
    assert (row["published"], row["again"], row["difference"], row["apart"]) == pytest.approx((51, 52, 1, 1))
    assert (row["difference_half"], row["level_half"]) == pytest.approx((0, 0), abs=1e-9)  # paired: what seeds share falls out
    epochs = deep[0].epochs
    assert row["level"] == pytest.approx(sum((epochs - back) / epochs for back in range(20)) / 20)  # both grow linearly
    assert row["seeds_apart"] == pytest.approx(math.sqrt(2))
    assert (row["devices"], row["other_devices"]) == ("made up", "another")
    assert single["difference"] == pytest.approx(-10) and math.isnan(single["seeds_apart"])
    short = replace(deep[0], epochs=5)
    (row,) = machines.compare([replace(asked[0], config=short)], {short.hash: made_up(short)}, [elsewhere(short, 0.4)]).to_dict(
        "records"
    )
    assert row["difference"] == pytest.approx(-10) and math.isnan(row["level"])  # most of it is the beginning
    same_machine, other_copy = made_up(deep[0], 0.4), elsewhere(deep[1], 0.4, data_fingerprint="f" * 64)
    assert machines.compare(asked, published, [same_machine, other_copy, made_up(HALF)]).empty


def test_the_page_says_where_no_run_was_made_twice(tmp_path):
    assert page.show_machines(tmp_path).data == "No run has been made twice yet."


def test_the_precision_command_trains_publishes_and_prints(monkeypatch, tmp_path):
    monkeypatch.setenv("ASYM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(precision, "CELLS", (("dense", "table 2", "DSR2"),))
    code, out = asym("precision", "--preset", "smoke", "--figures", str(tmp_path), "--jobs", "1")
    assert code == 0 and "table 2, DSR2" in out
    found = published(tmp_path / "performance/runs.parquet")
    assert found and {record.config.precision for record in found} == {"bf16"}


def test_published_precisions_of_other_code_are_made_again_and_replaced(monkeypatch, tmp_path):
    """As `asym publish` replaces the runs of the questions; what the present code made stays, and is not trained again."""
    monkeypatch.setattr(precision, "CELLS", (("dense", "table 2", "DSR2"),))
    stale, fresh = (cell.config for cell in precision.wanted(presets.load("smoke")) if cell.config.precision == "bf16")
    path, store, trained = tmp_path / "performance/runs.parquet", Store(tmp_path / "runs"), []

    def by_this_code(config):
        made = made_up(config)
        made.provenance["code"] = versions.current()
        return made

    def train(configs, store, jobs):
        for config in configs:
            trained.append(config)
            store.save(by_this_code(config))

    publish([made_up(stale), by_this_code(fresh)], path)
    monkeypatch.setattr(precision.grid, "run", train)
    precision.run(presets.load("smoke"), tmp_path, store)
    assert stale in trained and fresh not in trained
    assert {record.config for record in published(path)} == {stale, fresh} and versions.stale(published(path)) == []


def test_the_stored_report_of_a_gpu_is_of_every_net_it_tells_and_shown_whole():
    report = page.load_gpu(ROOT / "figures" / "performance")
    facts = page.gpu_facts(report)
    assert facts["stacked"] < facts["recorded"] < facts["eager"]
    table = page.show_gpu(report)
    assert len(table.rows) == len(report["forms"]) <= len(gpu.FORMS)
    assert {(f["net"], f["precision"], f["seeds"], f["recorded"]) for f in report["forms"]} <= set(gpu.FORMS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_form_is_timed_on_a_gpu():
    (form,) = gpu.report("cuda", gpu.FORMS[1:2])["forms"]
    assert form["ms_a_step"] > 0 and form["gib"] > 0


@pytest.mark.parametrize("device", ["nowhere", "meta"])
def test_a_gpu_that_is_none_is_refused(device):
    ended = CliRunner().invoke(cli.app, ["bench", "--device", device])
    assert ended.exit_code == 2 and "device" in ended.output
