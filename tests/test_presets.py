"""Presets: each loads, any value can be overridden by name, and what is wrong is refused with what would be right."""

from dataclasses import replace

import pytest
import yaml

from asym import presets
from asym.cells import cell
from asym.config import DATASETS, LOSSES
from asym.presets import PRESETS, SCALE, Preset, load
from asym.questions import QUESTIONS, cells

WRONG = {
    "dataset": ["imagenet", 3, None, ["cifar10"]],
    "subset": [0, -1, 1.5, "all", True, [500], 99],  # 99 is less than a batch
    "test_subset": [0, -1, 1.5, "all", True, [500]],
    "epochs": [0, -3, 2.5, "many", True, [1]],
    "batch": [0, -3, 2.5, "all", True, [1], 1001],  # 1001 is more than the images
    "seeds": [[], "012", 3, [0, 0], [-1], [0.5], ["0"], [True], [[0]], {"0": 1}, [None]],
    "unverified_data": ["yes", 1, []],
    "nets": [3, "dense", ["dense"], {"dense": 3}, {"conv": {}}, {"dense": {"lr": 1}}, {"dense": {"parts": ["table 2"]}}],
    "questions": [3, ["dense"], {"dense": 3}, {"dense": {"lr": 1}}, {"dense": {"losses": "ce"}}, {"dense": {"parts": []}}]
    + [
        {"dense": {"nets": nets}}
        for nets in (3, ["dense"], {"conv": {}}, {"dense": {"parts": ["table 2"]}}, {"dense": {"epochs": 0}})
    ],
}
FILE = {"preset": "smoke", "dataset": "fashion_mnist", "subset": 1000, "batch": 100, "epochs": 1, "seeds": [0]}
REFUSED = [(name, value) for name, values in WRONG.items() for value in values]
PLAN = [cell("table", network, epochs=50, loss=loss) for network in ("DSR1", "PGR1") for loss in LOSSES]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of the preset `smoke`, free to be written."""
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return path


def scale(found, net="dense"):
    """What a preset makes of the cells of one kind of net."""
    configs = [made.config for made in found if made.config.net == net]
    (shape,) = {(config.subset, config.test_subset, config.epochs, config.batch) for config in configs}
    return dict(zip(SCALE, shape, strict=False)) | {"seeds": tuple(dict.fromkeys(config.seed for config in configs))}


# --- the files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_file(name):
    values = yaml.safe_load((presets.FOLDER / f"{name}.yaml").read_text())
    level = load(name)
    assert level == Preset(**values) and level.preset == name
    assert level.dataset in DATASETS and isinstance(level.seeds, tuple) and not level.unverified_data


def test_every_file_is_a_preset():
    assert {path.stem for path in presets.FOLDER.glob("*")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_names_exists_and_selects_something(name):
    assert all(cells(question, load(name)) for question in QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_paper_runs_every_cell_and_smoke_something_of_every_part(question):
    plan = QUESTIONS[question].cells
    assert [cell.plan for cell in cells(question, load("paper")) if cell.config.seed == 0] == [cell.config for cell in plan]
    assert {cell.part for cell in cells(question, load("smoke"))} == {cell.part for cell in plan}


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Quick", "huge", None, 3, ["quick"], {"quick": 1}])
def test_an_unknown_preset_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=f"preset must be one of {', '.join(PRESETS)}; got "):
        load(name)


@pytest.mark.parametrize(
    "own, told",
    [
        ({"dens": {}}, f"question must be one of {', '.join(QUESTIONS)}; got 'dens'"),
        (
            {"dense": {"parts": ["table 2", "tabel 2"]}},
            r"parts of dense must be among 'table 2', 'last layer alone'; got \['table 2', 'ta",
        ),
        ({"dense": {"losses": ["CE"]}}, r"losses of dense must be among 'ce', 'hinge'; got \['CE'\]"),
        ({"beat_bp": {"parts": ["table 2"]}}, "parts of beat_bp must be among 'modern, dense', 'modern, conv'; got "),  # dense's
    ],
)
def test_what_a_preset_names_of_questions_must_be_theirs(own, told):
    """It would select nothing."""
    level = Preset(preset="mine", dataset="mnist", subset=None, epochs=1, seeds=[0], questions=own)
    for question in ("dense", "depth"):
        with pytest.raises(ValueError, match=f"^{told}"):
            cells(question, level)


def test_an_unknown_parameter_is_refused_with_those_there_are():
    allowed = "allowed: preset, dataset, subset, epochs, seeds, test_subset, batch, precision, unverified_data, nets, questions"
    with pytest.raises(ValueError, match=f"unknown parameters epoch, lr; {allowed}"):
        load("smoke", lr=0.1, epoch=3)


@pytest.mark.parametrize("name, value", [(name, value) for name, value in REFUSED if value is not None])
def test_a_wrong_value_is_refused_by_name(file, name, value):
    at_fault = {"subset": "batch|subset", "seeds": "seeds?", "questions": "questions|losses|parts|nets|epochs"}.get(name, name)
    with pytest.raises(ValueError, match=rf"^({at_fault}) must "):
        load("smoke", **{name: value})


@pytest.mark.parametrize("name, value", REFUSED)
def test_a_wrong_value_in_the_file_is_refused(file, name, value):
    file.write_text(yaml.safe_dump(FILE | {name: value}))
    with pytest.raises(ValueError, match=" must "):
        load("smoke")


@pytest.mark.parametrize("kind, of", [("nets", "poggio"), ("questions", "dense")])
@pytest.mark.parametrize("name, value", [(name, value) for name, value in REFUSED if name in SCALE])
def test_a_wrong_value_of_a_net_or_a_question_is_refused(file, kind, of, name, value):
    with pytest.raises(ValueError, match=" must "):
        load("smoke", **{kind: {of: {name: value}}})


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


# --- what is run ----------------------------------------------------------------------------------------------------------------


def test_a_presets_values_are_taken_and_its_epochs_are_a_bound():
    level = Preset(preset="mine", dataset="mnist", subset=700, test_subset=200, epochs=20, batch=70, seeds=[3, 1])
    found = level.cells("dense", PLAN)
    assert scale(found) == {"subset": 700, "test_subset": 200, "epochs": 20, "batch": 70, "seeds": (3, 1)}
    assert {(cell.config.dataset, cell.config.unverified_data) for cell in found} == {("mnist", False)}
    assert scale(replace(level, epochs=90).cells("dense", PLAN))["epochs"] == 50  # no run is longer than the plan's
    free = {"subset": None, "test_subset": None, "epochs": None, "batch": None}
    assert scale(replace(level, **free).cells("dense", PLAN)) == free | {"epochs": 50, "batch": 500, "seeds": (3, 1)}


def test_a_cell_keeps_its_plan_and_all_that_a_preset_does_not_scale():
    (made,) = Preset(preset="mine", dataset="mnist", subset=700, epochs=9, seeds=[4]).cells("dense", PLAN[-1:])
    assert made.plan == PLAN[-1].config and (made.part, made.network) == ("table", "PGR1")
    assert made.config == replace(PLAN[-1].config, dataset="mnist", subset=700, epochs=9, seed=4)


def test_the_values_of_a_questions_net_go_before_a_questions_those_before_a_nets_and_those_before_the_presets():
    nets = {"poggio": {"subset": 400, "epochs": 7, "batch": 200, "seeds": [0]}}
    questions = {"depth": {"epochs": 3, "batch": 100}, "clipping": {"epochs": 4, "nets": {"poggio": {"epochs": 2}}}}
    level = Preset(preset="mine", dataset="mnist", subset=700, epochs=20, seeds=[0, 1], nets=nets, questions=questions)
    base = {"subset": 700, "test_subset": None, "epochs": 20, "batch": 500, "seeds": (0, 1)}
    assert scale(level.cells("dense", PLAN)) == base
    assert scale(level.cells("dense", PLAN), "poggio") == base | {"subset": 400, "epochs": 7, "batch": 200, "seeds": (0,)}
    assert scale(level.cells("depth", PLAN)) == base | {"epochs": 3, "batch": 100}
    assert scale(level.cells("depth", PLAN), "poggio") == base | {"subset": 400, "epochs": 3, "batch": 100, "seeds": (0,)}
    assert scale(level.cells("clipping", PLAN)) == base | {"epochs": 4}
    assert scale(level.cells("clipping", PLAN), "poggio") == base | nets["poggio"] | {"epochs": 2, "seeds": (0,)}


def test_a_question_runs_the_parts_and_losses_that_a_preset_selects_of_it():
    plan = [cell(part, "DSR1", loss=loss) for part in ("a", "b") for loss in LOSSES]
    level = Preset(preset="mine", dataset="mnist", subset=None, epochs=1, seeds=[0])
    selected = lambda own, question="dense": [
        (cell.part, cell.config.loss) for cell in replace(level, questions={"dense": own}).cells(question, plan)
    ]
    assert selected({"parts": ["b"]}) == [("b", "ce"), ("b", "hinge")]
    assert selected({"losses": ["hinge"]}) == [("a", "hinge"), ("b", "hinge")]
    assert selected({"losses": ["hinge"], "parts": ["a"]}) == [("a", "hinge")]
    assert len(selected({"losses": ["hinge"]}, "depth")) == len(selected({})) == 4


def test_a_cell_of_another_questions_table_is_scaled_and_selected_as_that_table_is():
    own = {"epochs": 3, "seeds": [5], "losses": ["ce"], "parts": ["home"]}
    level = Preset(preset="mine", dataset="mnist", subset=None, epochs=20, seeds=[0], questions={"depth": own})
    plan = [cell("guest", "DSR1", epochs=50, loss=loss, of=("depth", part)) for loss in LOSSES for part in ("home", "other")]
    (made,) = level.cells("dense", plan)
    assert (made.config.epochs, made.config.seed, made.config.loss, made.of) == (3, 5, "ce", ("depth", "home"))


def test_seeds_are_outermost_where_nets_have_different_ones():
    nets = {"poggio": {"seeds": [1, 0]}}
    level = Preset(preset="mine", dataset="mnist", subset=None, epochs=1, seeds=[0, 1, 2], nets=nets)
    found = [(cell.config.seed, cell.config.net) for cell in level.cells("dense", PLAN[1:3])]
    assert found == [(0, "dense"), (0, "poggio"), (1, "dense"), (1, "poggio"), (2, "dense")]


def test_of_few_images_a_fifth_is_held_back_and_a_pretrained_convolution_is_trained_as_long():
    plan = [cell("table", "PGR1", epochs=50, pretrained=100, frozen=(0,), validation=5000)]
    level = Preset(preset="mine", dataset="mnist", subset=600, batch=50, epochs=4, seeds=[0])
    for subset, held in ((600, 120), (None, 5000), (50_000, 5000), (4, 0)):
        (made,) = replace(level, subset=subset, batch=4).cells("dense", plan)
        assert (made.config.validation, made.config.pretrained) == (held, 4)


def test_the_plans_cifar100_stands_beside_its_cifar10_alone():
    plan = [cell("table", "DSR1", dataset=dataset) for dataset in ("cifar10", "cifar100")]
    for dataset, expected in (("cifar10", ["cifar10", "cifar100"]), ("mnist", ["mnist"] * 2), ("cifar100", ["cifar100"] * 2)):
        level = Preset(preset="mine", dataset=dataset, subset=None, epochs=1, seeds=[0])
        assert [cell.config.dataset for cell in level.cells("dense", plan)] == expected


# --- overrides ------------------------------------------------------------------------------------------------------------------


def test_overrides_take_the_place_of_the_files_values():
    level = load("smoke", subset=600, test_subset=50, batch=60, epochs=7, seeds=[4, 2], dataset="mnist", unverified_data=True)
    assert (level.subset, level.test_subset, level.batch, level.epochs, level.seeds) == (600, 50, 60, 7, (4, 2))
    assert (level.dataset, level.unverified_data) == ("mnist", True)


def test_an_override_goes_before_what_nets_and_questions_have_of_their_own(file):
    nets = {"poggio": {"subset": 400, "epochs": 7, "batch": 50}}
    questions = {"dense": {"epochs": 3, "seeds": [1], "losses": ["ce"], "nets": {"dense": {"epochs": 5, "batch": 25}}}}
    file.write_text(yaml.safe_dump(FILE | {"nets": nets, "questions": questions}))
    level = load("smoke", epochs=9, seeds=[6, 8])
    assert level.nets == {"poggio": {"subset": 400, "batch": 50}}
    assert level.questions == {"dense": {"losses": ["ce"], "nets": {"dense": {"batch": 25}}}}
    found = level.cells("dense", PLAN)
    assert scale(found)["epochs"] == scale(found, "poggio")["epochs"] == 9 and scale(found)["seeds"] == (6, 8)
    assert scale(found, "poggio")["subset"] == 400 and {cell.config.loss for cell in found} == {"ce"}


@pytest.mark.parametrize("name", PRESETS)
def test_an_override_holds_in_every_cell_of_every_question(name):
    level = load(name, subset=40, test_subset=30, epochs=2, batch=20, seeds=[7], dataset="mnist", unverified_data=True)
    for question in QUESTIONS:
        for made in cells(question, level):
            config = made.config
            assert (config.subset, config.test_subset, config.batch, config.seed) == (40, 30, 20, 7)
            assert (config.epochs, config.dataset, config.unverified_data) == (2, "mnist", True)


def test_none_leaves_the_files_values():
    nothing = dict.fromkeys(
        ("subset", "test_subset", "epochs", "batch", "seeds", "dataset", "unverified_data", "nets", "questions")
    )
    for name in PRESETS:
        assert load(name, **nothing) == load(name)


def test_what_nets_and_questions_are_given_takes_the_place_of_the_files():
    level = load("quick", nets={"dense": {"epochs": 2}}, questions={})
    assert level.nets == {"dense": {"epochs": 2}} and level.questions == {}
    assert scale(level.cells("depth", PLAN))["epochs"] == 2


def test_a_level_of_ones_own_needs_sound_values_too():
    with pytest.raises(ValueError, match="seeds must be"):
        Preset(preset="mine", dataset="mnist", subset=None, epochs=None, seeds=())
    assert Preset(preset="mine", dataset="mnist", subset=None, epochs=None, seeds=[3]).seeds == (3,)


def test_bf16_is_the_preset_of_that_precision_and_others_keep_the_plans():
    for name in PRESETS:
        for question in QUESTIONS:
            assert {cell.config.precision for cell in cells(question, load(name))} == {"bf16" if name == "bf16" else "fp32"}
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16; got 'fp64'"):
        load("quick", precision="fp64")
