"""Questions: the runs behind each are those that the original names, and one seed means one start whatever the rule."""

import csv
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch

import asym
from asym import data, train
from asym.config import Config
from asym.presets import PRESETS, load
from asym.questions import QUESTIONS, SWEEP_DEPTHS, SWEEP_RULES, cells

PRINTED = list(csv.DictReader((Path(asym.__file__).parent / "original/results.csv").open()))
TABLES = {"2": ("dense", (512, 256)), "4": ("depth", (512, 512, 256, 256))}
DENSE_NUMBERS = [row for row in PRINTED if row["table"] in TABLES]
SMOKE = load("smoke")


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    monkeypatch.delenv("ASYM_DATA", raising=False)


def rules_of(name, layers):
    """What the original's README says of a name: R and R* on the last n layers, counted from the output backwards."""
    count, starred = re.fullmatch(r"D[SD](?:0|R(\d)(-U)?)", name).groups()
    rules = ["bp"] * layers
    for k in range(1, int(count or 0) + 1):
        rules[-k] = "shared_update" if starred else "fa"
    return tuple(rules)


def test_the_tables_are_those_of_the_original():
    assert len([row for row in DENSE_NUMBERS if row["table"] == "2"]) == 10
    assert len([row for row in DENSE_NUMBERS if row["table"] == "4"]) == 26


@pytest.mark.parametrize("row", DENSE_NUMBERS, ids=lambda row: f"{row['network']}-{row['loss']}-{row['epochs']}")
def test_every_printed_number_has_its_run_for_every_seed(row):
    question, hidden = TABLES[row["table"]]
    level = load("paper")
    same = [
        cell.config
        for cell in cells(question, level)
        if (cell.part, cell.network, cell.config.loss) == (f"table {row['table']}", row["network"], row["loss"])
    ]
    assert [config.seed for config in same] == list(level.seeds)
    for config in same:
        assert (config.dataset, config.activation, config.optimizer) == (row["dataset"], row["activation"], row["optimizer"])
        assert (config.net, config.hidden, config.subset) == ("dense", hidden, None)
        assert config.rules == rules_of(row["network"], len(hidden) + 1)
        assert (config.batch, config.lr, config.weight_decay, config.dropout) == (500, 1e-3, 0, 0)
        assert config.epochs >= int(row["epochs"])  # what is printed of 100 epochs is read on the way to 200


def test_the_rule_names_of_known_networks():
    assert rules_of("DS0", 3) == ("bp", "bp", "bp")
    assert rules_of("DSR1", 3) == ("bp", "bp", "fa")
    assert rules_of("DDR4-U", 5) == ("bp",) + ("shared_update",) * 4


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_cell_is_there_twice_and_none_is_invented(question):
    found = cells(question, replace(SMOKE, seeds=(0,)))
    keys = [(cell.part, cell.network, cell.config.loss) for cell in found]
    assert len(set(keys)) == len(keys) and len({cell.config for cell in found}) == len(found)
    printed = {(f"table {row['table']}", row["network"], row["loss"]) for row in DENSE_NUMBERS}
    assert {key for key in keys if key[0] != "sweep"} == {key for key in printed if TABLES[key[0][-1]][0] == question}


def test_the_sweep_has_every_rule_at_every_depth():
    sweep = [cell.config for cell in cells("depth", replace(SMOKE, seeds=(0,))) if cell.part == "sweep"]
    assert {(c.layers, c.rules[-1]) for c in sweep} == {(depth, rule) for depth in SWEEP_DEPTHS for rule in SWEEP_RULES}
    for config in sweep:
        assert config.rules == ("bp", *config.rules[-1:] * (config.layers - 1))
        assert (config.weight_decay > 0) == ("kp" in config.rules)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_seeds_are_outermost_and_each_is_a_whole_table(question, preset):
    level = load(preset)
    found = cells(question, level)
    by_seed = [(seed, list(group)) for seed, group in groupby(found, lambda cell: cell.config.seed)]
    assert [seed for seed, _ in by_seed] == list(level.seeds)
    tables = [[replace(cell, config=replace(cell.config, seed=0)) for cell in group] for _, group in by_seed]
    assert all(table == tables[0] for table in tables)
    assert {cell.config.dataset for cell in found} == {level.dataset} and {cell.config.subset for cell in found} == {level.subset}


def test_a_presets_epochs_are_a_bound_and_its_other_values_are_taken():
    original = {cell.network: cell.config.epochs for cell in cells("depth", load("paper"))}
    level = load("quick", epochs=150, subset=700, dataset="cifar100", seeds=[7], unverified_data=True)
    for cell in cells("depth", level):
        config = cell.config
        assert config.epochs == min(150, original[cell.network])
        assert (config.subset, config.dataset, config.seed, config.unverified_data) == (700, "cifar100", 7, True)


def test_allowing_an_unverified_copy_renames_no_run():
    allowed = cells("dense", load("smoke", unverified_data=True))
    assert [cell.config.hash for cell in allowed] == [cell.config.hash for cell in cells("dense", SMOKE)]


@pytest.mark.parametrize("question", ["", "Dense", "everything", None, 3])
def test_an_unknown_question_is_refused_with_those_there_are(question):
    with pytest.raises(ValueError, match=f"question must be one of {', '.join(QUESTIONS)}; got "):
        cells(question, SMOKE)


def test_the_cells_of_a_table_differ_by_rules_and_loss_alone():
    for question, part in (("dense", "table 2"), ("depth", "table 4")):
        configs = [cell.config for cell in cells(question, replace(SMOKE, seeds=(3,))) if cell.part == part]
        assert len({replace(config, rules=configs[0].rules, loss="ce") for config in configs}) == 1


def test_one_seed_is_one_start_and_one_order_of_the_data_whatever_the_rule():
    dataset = data.load("fashion_mnist")
    by_seed = []
    for seed in (0, 1):
        level = replace(SMOKE, subset=500, seeds=(seed,))
        configs = [cell.config for cell in cells("dense", level) if cell.config.loss == "ce"]
        trainers = [train.Trainer(config, dataset) for config in configs]
        for trainer in trainers:
            for layer, first in zip(trainer.net.layers, trainers[0].net.layers, strict=True):
                assert torch.equal(layer.weight, first.weight)
                assert layer.feedback is None or not torch.equal(layer.feedback, layer.weight)
        feedback = [t.net.layers[-1].feedback for t in trainers if t.net.layers[-1].feedback is not None]
        assert len(feedback) == 4 and all(torch.equal(b, feedback[0]) for b in feedback)
        orders = [next(data.batches(1000, 500, trainer.order)) for trainer in trainers]
        assert all(torch.equal(order, orders[0]) for order in orders)
        by_seed.append((trainers[0].net.layers[0].weight, feedback[0], orders[0]))
    assert not any(torch.equal(a, b) for a, b in zip(*by_seed, strict=True))


def test_a_cells_config_is_checked_like_any_other():
    with pytest.raises(ValueError, match="rules"):
        Config(hidden=(512, 256), rules=rules_of("DDR4", 5))
