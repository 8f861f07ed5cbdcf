"""Presets: each loads, any value can be overridden by name, and what is wrong is refused with what would be right."""

import pytest
import yaml

from asym import presets
from asym.config import DATASETS
from asym.presets import PRESETS, Preset, load

WRONG = {
    "dataset": ["imagenet", 3, None, ["cifar10"]],
    "subset": [0, -1, 1.5, "all", True, [500], 499],  # 499 is less than a batch
    "epochs": [0, -3, 2.5, "many", True, [1]],
    "seeds": [[], "012", 3, [0, 0], [-1], [0.5], ["0"], [True], [[0]], {"0": 1}, [None]],
    "unverified_data": ["yes", 1, []],
}
FILE = {"preset": "smoke", "dataset": "fashion_mnist", "subset": 1000, "epochs": 1, "seeds": [0]}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of the preset `smoke`, free to be written."""
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    return tmp_path / "smoke.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_file(name):
    values = yaml.safe_load((presets.FOLDER / f"{name}.yaml").read_text())
    level = load(name)
    assert level == Preset(**values) and level.preset == name and not level.altered
    assert level.dataset in DATASETS and isinstance(level.seeds, tuple) and not level.unverified_data


def test_every_file_is_a_preset():
    assert {path.stem for path in presets.FOLDER.glob("*")} == set(PRESETS)


@pytest.mark.parametrize("name", ["", "Quick", "huge", None, 3, ["quick"], {"quick": 1}])
def test_an_unknown_preset_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=f"preset must be one of {', '.join(PRESETS)}; got "):
        load(name)


def test_an_unknown_parameter_is_refused_with_those_there_are():
    allowed = "allowed: preset, dataset, subset, epochs, seeds, unverified_data"
    with pytest.raises(ValueError, match=f"unknown parameters epoch, lr; {allowed}"):
        load("smoke", lr=0.1, epoch=3)


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in WRONG.items() for value in values if value is not None]
)
def test_a_wrong_value_is_refused_by_name(name, value):
    at_fault = "batch|subset" if value == 499 else "seed" if name == "seeds" else name
    with pytest.raises(ValueError, match=rf"^({at_fault})s? must be .*"):
        load("smoke", **{name: value})


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_in_the_file_is_refused(file, name, value):
    file.write_text(yaml.safe_dump(FILE | {name: value}))
    with pytest.raises(ValueError, match=" must be "):
        load("smoke")


def test_overrides_take_the_place_of_the_files_values():
    level = load("smoke", subset=500, epochs=7, seeds=[4, 2], dataset="mnist", unverified_data=True)
    assert (level.subset, level.epochs, level.seeds, level.dataset) == (500, 7, (4, 2), "mnist")
    assert level.unverified_data and level.altered


@pytest.mark.parametrize("name, value", [("subset", 500), ("epochs", 7), ("seeds", [5]), ("dataset", "mnist")])
def test_a_changed_value_makes_it_another_preset(name, value):
    assert load("smoke", **{name: value}).altered


def test_none_leaves_the_files_value_and_the_copy_of_the_data_makes_no_other_preset():
    kept = load("smoke", subset=None, epochs=None, seeds=None, dataset=None, unverified_data=None)
    assert kept == load("smoke")
    assert not load("smoke", unverified_data=True).altered
    assert not load("smoke", seeds=[0, 1]).altered  # a list, as papermill gives it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- fashion_mnist\n- 1000",
        "a text",
        "7",
        "preset: [smoke",
        "preset: smoke\ndataset: fashion_mnist",
        yaml.safe_dump({k: v for k, v in FILE.items() if k != "seeds"}),
        yaml.safe_dump(FILE | {"seed": 3}),
        yaml.safe_dump(FILE | {3: 3}),
    ],
)
def test_a_file_of_another_shape_is_refused_by_its_name(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"smoke\.yaml: "):
        load("smoke")


def test_a_file_that_lacks_a_value_is_refused_with_the_values_it_needs(file):
    file.write_text("preset: smoke\nsubset: 1000\n")
    with pytest.raises(ValueError, match="gives dataset, epochs, preset, seeds, subset, each a value; got preset, subset"):
        load("smoke", seeds=[0], dataset="mnist", epochs=1)


def test_a_level_of_ones_own_needs_sound_values_too():
    with pytest.raises(ValueError, match="seeds must be"):
        Preset(preset="mine", dataset="mnist", subset=None, epochs=None, seeds=())
    assert Preset(preset="mine", dataset="mnist", subset=None, epochs=None, seeds=[3]).seeds == (3,)
