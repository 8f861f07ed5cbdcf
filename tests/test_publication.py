"""Published runs: a file a question from which every run comes back as it was, and which of them a page shows."""

import json
from dataclasses import replace

import pytest
from made import record

from asym import grid, presets, provenance, publication
from asym.config import Config
from asym.presets import load
from asym.publication import homes, library, publish, published, shown
from asym.questions import QUESTIONS, cells, find
from asym.results import Store

BP = Config(subset=500, test_subset=100, hidden=(8,), rules=("bp", "bp"))
DEEP = replace(BP, hidden=(8, 8), rules=("bp", "kp", "dfa"), weight_decay=0.1, seed=5, epochs=2)
HELD_OUT = replace(BP, validation=100, batch=100, lr=0.1)
DIVERGED = replace(BP, rules=("bp", "fa"), optimizer="sgd", lr=1e30, epochs=5)


@pytest.fixture(scope="module")
def made():
    """Real runs, one of them diverged, one with images held out."""
    return [grid.perform(config) for config in (BP, DEEP, HELD_OUT, DIVERGED)]


def text(record):
    """All of a record as text: unlike ==, it takes NaN for NaN and 1 for other than 1.0."""
    return json.dumps([record.config.to_dict(), record.epochs, record.diverged, record.provenance], sort_keys=True)


# --- the file -------------------------------------------------------------------------------------------------------------------


def test_published_runs_come_back_as_they_were(tmp_path, made):
    path = tmp_path / "figures/dense/runs.parquet"
    publish(made, path)
    assert list(map(text, published(path))) == [text(r) for r in sorted(made, key=lambda r: r.config.hash)]
    assert [file.name for file in path.parent.iterdir()] == ["runs.parquet"]
    assert [run.diverged for run in made] == [False, False, False, True] and "NaN" in text(made[0])


def test_a_file_of_backpropagation_alone_has_measures_that_are_nan(tmp_path, made):
    publish(made[:1], tmp_path / "runs.parquet")
    assert [text(run) for run in published(tmp_path / "runs.parquet")] == [text(made[0])]


def test_the_same_runs_give_the_same_file(tmp_path, made):
    store = Store(tmp_path / "runs")
    for run in made:
        store.save(run)
    paths = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet")]
    publish(store.records(), paths[0])
    publish([store.load(run.config) for run in made], paths[1])
    publish(reversed(published(paths[0])), paths[2])
    assert len({path.read_bytes() for path in paths}) == 1


def test_nothing_published_is_no_runs(tmp_path):
    path = tmp_path / "runs.parquet"
    assert published(path) == []
    publish([], path)
    assert published(path) == [] and not path.exists()


def test_a_store_takes_the_published_runs_over_and_a_grid_goes_on_from_them(tmp_path, made):
    theirs, store = Store(tmp_path / "theirs"), Store(tmp_path / "runs")
    for run in made:
        theirs.save(run)
    stored = [theirs.load(run.config) for run in made]
    publish(stored[:2], tmp_path / "figures/dense/runs.parquet")
    publish(stored[2:], tmp_path / "figures/depth/runs.parquet")
    assert len(publication.merge(tmp_path / "figures/dense", store).new) == 2
    merged = publication.merge(tmp_path / "figures", store)
    assert (len(merged.new), len(merged.alike), merged.differ, merged.refused) == (2, 2, [], {})
    assert [text(store.load(run.config)) for run in made] == list(map(text, stored))
    assert grid.run([run.config for run in made], store) == grid.Outcome(0, 4, 0)


def test_a_published_file_with_an_unsound_run_is_refused_whole(tmp_path, made):
    late = [row | {"epoch": row["epoch"] + 1} for row in made[1].epochs]
    path = tmp_path / "theirs/runs.parquet"
    publish([made[0], replace(made[1], epochs=late)], path)
    other = tmp_path / "theirs/dense/runs.parquet"
    other.parent.mkdir()
    other.write_text("half a file")
    merged = publication.merge(tmp_path / "theirs", Store(tmp_path / "runs"))
    assert list(merged.refused) == [other, path] and "epoch must be 0 to 2" in merged.refused[path]
    assert not merged.new and not (tmp_path / "runs").exists()


def test_the_library_has_every_run_whatever_question_it_was_published_under(tmp_path, made):
    assert library(tmp_path) == {}
    publish(made[:2], tmp_path / "dense/runs.parquet")
    publish(made[2:3], tmp_path / "depth/runs.parquet")
    assert {name: text(run) for name, run in library(tmp_path).items()} == {run.config.hash: text(run) for run in made[:3]}
    publish(made[2:], tmp_path / "depth/runs.parquet")
    assert set(library(tmp_path)) == {run.config.hash for run in made}  # what is published later is seen
    (tmp_path / "dense/runs.parquet").unlink()
    assert set(library(tmp_path)) == {run.config.hash for run in made[2:]}


# --- homes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_run_has_a_home_that_asks_for_it_that_of_its_table_first(preset):
    level = load(preset)
    asked = {name: {cell.config.hash: cell.part for cell in reversed(cells(name, level))} for name in QUESTIONS}
    home = homes(level)
    assert set(home) == {run for runs in asked.values() for run in runs}
    for run, name in home.items():
        asking = [question for question in QUESTIONS if run in asked[question]]
        with_table = [question for question in asking if asked[question][run].startswith("table")]
        assert name == (with_table or asking)[0]


def test_the_homes_of_known_runs():
    level = load("quick")
    home = homes(level)
    known = {
        ("multilayer", "dense", "DDR1"): "depth",
        ("multilayer", "dense", "DDR3"): "multilayer",  # no table has it
        ("multilayer", "conv", "PGR1"): "conv_dense_head",  # a later question, but its table
        ("untied_feedback", "table 10t", "PG-Untie-R1"): "untied_conv",
        ("untied_feedback", "table 10t", "PG-Untie-R3"): "untied_feedback",
        ("clipping", "table 15", "PG0"): "conv_dense_head",
        ("b_updates", "dense, shallow", "DSR2-KP 1"): "b_updates",
        ("beat_bp", "modern, dense", "fa, lr 0.001"): "beat_bp",
    }
    for (question, part, network), expected in known.items():
        runs = [cell.config.hash for cell in cells(question, level) if (cell.part, cell.network) == (part, network)]
        assert runs and {home[run] for run in runs} == {expected}


# --- what a page shows ----------------------------------------------------------------------------------------------------------


def records(question, preset, parts=None, **overrides):
    """Made-up runs of a question's cells, or of some of its parts, as a library has them."""
    wanted = [cell for cell in cells(question, load(preset, **overrides)) if parts is None or cell.part in parts]
    return {cell.config.hash: record(cell.config, every=cell.config.epochs) for cell in wanted}


def test_of_nothing_published_the_plan_is_shown():
    for question in QUESTIONS:
        there = shown(question, {})
        assert set(there.levels.values()) == {""} and there.found == [] and there.cells == list(find(question).cells)


@pytest.mark.parametrize("level", publication.LEVELS)
def test_what_is_whole_is_shown_at_its_level(level):
    there = shown("depth", records("depth", level))
    assert there.levels == {"table 4": level, "last layer alone": level, "shallow": level, "sweep": level}
    assert sorted(there.cells, key=str) == sorted(cells("depth", load(level)), key=str)
    assert {cell.config.hash: run.config for cell, run in there.found} == {c.config.hash: c.config for c in there.cells}


def test_each_part_is_shown_at_the_largest_level_of_which_there_is_a_whole_seed():
    library = records("depth", "quick") | records("depth", "cpu", ["table 4"], seeds=[0])
    there = shown("depth", library)
    assert there.levels == {"table 4": "cpu", "last layer alone": "quick", "shallow": "quick", "sweep": "quick"}
    assert {(cell.part, cell.config.dataset) for cell, _ in there.found} == {
        ("table 4", "cifar10"),
        ("last layer alone", "fashion_mnist"),
        ("shallow", "fashion_mnist"),
        ("sweep", "fashion_mnist"),
    }
    assert sum(cell.part == "table 4" for cell, _ in there.found) == 14
    assert sum(cell.part == "table 4" for cell in there.cells) == 14 * len(
        load("cpu").seeds
    )  # what is still to come is asked for


def test_a_seed_that_lacks_a_run_is_not_enough_but_its_runs_are_shown_beside_a_whole_one():
    first = records("dense", "cpu", ["table 2"], seeds=[0])
    lacking = dict(list(first.items())[:-1])
    assert shown("dense", records("dense", "quick") | lacking).levels == {"table 2": "quick", "last layer alone": "quick"}
    assert shown("dense", lacking).levels == {"table 2": "", "last layer alone": ""} and shown("dense", lacking).found == []
    second = dict(list(records("dense", "cpu", ["table 2"], seeds=[1]).items())[:3])
    there = shown("dense", first | second)
    assert there.levels == {"table 2": "cpu", "last layer alone": ""} and len(there.found) == 13


def test_the_same_runs_are_called_by_the_smaller_of_two_levels():
    """Dense nets are planned alike at cpu and at paper, which has two more seeds."""
    assert shown("dense", records("dense", "cpu")).levels == {"table 2": "cpu", "last layer alone": "cpu"}
    more = shown("dense", records("dense", "cpu") | records("dense", "paper", seeds=[3]))
    assert more.levels == {"table 2": "paper", "last layer alone": "paper"} and len(more.found) == 48


def test_single_nets_are_shown_at_the_larger_level_that_trained_them_for_longer_on_the_same_data():
    longer = [cell for cell in cells("conv_dense_head", load("paper")) if (cell.part, cell.network) == ("table 6", "PGR1")]
    longer = {cell.config.hash: record(cell.config, every=100) for cell in longer if cell.config.loss == "ce"}
    one = dict(list(longer.items())[:1])
    there = shown("conv_dense_head", records("conv_dense_head", "cpu") | one)
    assert there.levels == {"table 6": "cpu", "table 7": "cpu", "table 6t": "cpu", "last layer alone": "cpu"}
    levels = {(cell.network, there.level(cell), cell.config.epochs) for cell in there.cells if cell.part == "table 6"}
    assert levels == {(n, *(("paper", 300) if n == "PGR1" else ("cpu", 5))) for n in ("PG0", "PGR1", "PGR2", "PGR1-U", "PGR2-U")}
    assert [cell.config.seed for cell, _ in there.found if there.level(cell) == "paper"] == [0]  # the others are a gap
    assert sum(there.level(cell) == "paper" for cell in there.cells) == 3
    told = [line for line in provenance._coverage(there, find("conv_dense_head").cells) if line.startswith("table 6:")]
    assert told == [
        "table 6: cpu, 12 of 12 runs with cross entropy, 5 epochs; paper, 1 of 3 runs of PGR1 with cross entropy, 300 epochs"
    ]
    quick = shown("conv_dense_head", records("conv_dense_head", "quick") | longer)  # of other data: not to be compared
    assert {quick.level(cell) for cell in quick.cells if cell.part == "table 6"} == {"quick"} and not quick.longer
    for question, part in (("multilayer", "conv"), ("clipping", "table 15")):  # wherever the net is shown, and no other net
        elsewhere = shown(question, records(question, "cpu") | longer)
        assert {(cell.part, cell.network) for cell in elsewhere.cells if elsewhere.level(cell) == "paper"} <= {(part, "PGR1")}
        assert len(elsewhere.longer) == 3 * (question == "multilayer")


def test_nets_of_no_table_are_shown_at_one_length():
    """A learning rate is chosen among runs of one length."""
    longer = [cell for cell in cells("beat_bp", load("paper")) if (cell.part, cell.network) == ("modern, dense", "bp, lr 0.001")]
    library = records("beat_bp", "cpu", ["modern, dense"])
    assert not shown("beat_bp", library | {cell.config.hash: record(cell.config, every=100) for cell in longer}).longer


def test_a_part_that_no_published_level_runs_keeps_the_cells_of_its_plan():
    there = shown("beat_bp", records("beat_bp", "cpu", ["modern, dense", "table 2"]) | records("beat_bp", "quick", ["table 2"]))
    assert (there.levels["table 2"], there.levels["modern, dense"], there.levels["modern, conv"]) == ("cpu", "cpu", "")
    gap = [cell for cell in there.cells if cell.part == "modern, conv"]
    assert gap == [cell for cell in find("beat_bp").cells if cell.part == "modern, conv"]


def test_some_levels_alone():
    library = records("dense", "quick") | records("dense", "cpu")
    assert set(shown("dense", library, ["quick"]).levels.values()) == {"quick"}
    assert set(shown("dense", library, ["paper"]).levels.values()) == {"paper"}  # of which three seeds of five are there
    assert set(shown("dense", records("dense", "quick"), ["cpu"]).levels.values()) == {""}


def test_runs_that_another_question_published_are_shown_too():
    library = records("depth", "quick") | records("conv_dense_head", "quick")
    there = shown("multilayer", library | records("multilayer", "quick"))
    assert set(there.levels.values()) == {"quick"}
    assert shown("multilayer", library).levels["dense"] == ""  # DDR3 is of no table
    assert shown("b_updates", library).found == []


def test_parts_stand_in_the_order_of_the_plan():
    there = shown("conv_dense_head", records("conv_dense_head", "paper"))
    parts = ["table 6", "table 7", "table 6t", "last layer alone"]
    assert list(dict.fromkeys(cell.part for cell in there.cells)) == list(there.levels) == parts
