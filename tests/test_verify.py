"""Verification: the register that was just written is found true, and whatever is changed in it or in the runs is found."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import yaml
from made import record
from typer.testing import CliRunner

from asym import cli, grid, presets, verify
from asym.cli import app
from asym.presets import load
from asym.publication import publish
from asym.questions import QUESTIONS, cells, find
from asym.results import Store

NAME = "dense"
BOTH = list(verify.REGISTERS.values())


def reached(cell):
    """50, 51, 52 % by seed for the control, 2, 3, 4 points less for DSR1, 8 for DSR2 (1 with hinge) and 10 for the others."""
    lost = {"DS0": 0, "DSR1": 2 + cell.config.seed, "DSR2": 8 if cell.config.loss == "ce" else 1}
    return (50 + cell.config.seed - lost.get(cell.network, 10)) / 100


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Table 2 as planned and at quick, published with its registers."""
    figures = tmp_path_factory.mktemp("figures")
    wanted = [cell for level in ("quick", "cpu") for cell in cells(NAME, load(level))]
    publish((record(cell.config, reached(cell), every=cell.config.epochs) for cell in wanted), figures / NAME / "runs.parquet")
    verify.write(NAME, figures, figures / NAME)
    return figures


@pytest.fixture
def figures(written, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(written, tmp_path / "figures")


def asym(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.console, "width", 400)
        done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def change(figures, column, entry, value, name="claims.csv"):
    """The register with a value changed."""
    path = figures / NAME / name
    rows = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("claim")
    assert rows.loc[entry, column] != str(value)
    rows.loc[entry, column] = str(value)
    rows.to_csv(path)


def differing(figures):
    rows = verify.check(NAME, figures)
    return rows[~rows["matches"]].set_index(["register", "claim"])["differs"].to_dict()


# --- the register ---------------------------------------------------------------------------------------------------------------


def test_the_register_just_written_is_true(figures):
    rows = verify.check(NAME, figures)
    assert len(rows) == 2 * len(find(NAME).claims) and rows["matches"].all() and set(rows["differs"]) == {""}


def test_the_registers_are_of_what_the_page_shows_and_of_quick(figures):
    shown, quick = (verify.register(NAME, figures, level) for level in ("", "quick"))
    assert set(quick["verdict"]) == {"", "not yet tested"} and {"holds", "contradicted", "not settled"} <= set(shown["verdict"])
    assert shown["claim"].tolist() == quick["claim"].tolist() == [claim.id for claim in find(NAME).claims]
    assert shown.set_index("claim").loc["dense-two-ce", ["value", "original", "seeds"]].tolist() == [-8, pytest.approx(-5.87), 3]


def test_the_same_runs_give_the_same_registers_to_the_byte(figures, tmp_path):
    verify.write(NAME, figures, tmp_path / "again")
    for name in BOTH:
        assert (tmp_path / "again" / name).read_bytes() == (figures / NAME / name).read_bytes()


def test_whatever_is_changed_in_a_register_is_found_and_named(figures):
    changes = {
        "dense-two-ce": ("value", -8.001),
        "dense-one-ce": ("value", ""),
        "dense-shared-ce": ("half_width", 0.001),
        "dense-learns-ce": ("original", 44.2),
        "dense-learns-hinge": ("seeds", 4),
        "dense-one-hinge": ("least", -4),
        "dense-two-hinge": ("most", "inf"),
        "dense-shared-hinge": ("tolerance", 50),
        "dense-DSR2-U-hinge": ("lowest", 0.1),
        "dense-alone-ce": ("highest", 99),
        "dense-DS0-ce": ("verdict", "holds"),
        "dense-DSR1-ce": ("sentence", "Random feedback costs nothing."),
        "dense-DSR2-ce": ("computed_from", "test_accuracy(table 2, DS0, ce, epoch 100)"),
        "dense-DS0-hinge": ("unit", "%"),
        "dense-DSR1-hinge": ("value", "inf"),
        "dense-DSR2-hinge": ("as_planned", "by and large"),
        "dense-DSR1-U-ce": ("whole", "half"),
        "dense-DSR2-U-ce": ("answers", "perhaps"),
        "dense-DSR1-U-hinge": ("trained_on", "cifar10, 1000 epochs"),
    }
    for name in BOTH:
        for entry, (column, value) in changes.items():
            change(figures, column, entry, value, name)
    assert differing(figures) == {(name, entry): column for name in BOTH for entry, (column, _) in changes.items()}
    assert {column for column, _ in changes.values()} == set(verify.register(NAME, figures).columns) - {"claim"}


def test_a_small_number_is_checked_to_its_own_digits(figures):
    """A drift of a millionth is not a drift of a thousandth."""
    claims = pd.DataFrame({"claim": ["a", "b"], "sentence": "X.", "value": [2e-7, 50.0], "half_width": 3.0, "verdict": ""})
    within = verify._rounding(claims["value"])
    compare = lambda values: verify.compare(claims, claims.assign(value=values), ["claim"], within=within)["matches"].tolist()
    assert compare([2e-7, 50.0]) == compare([2e-7 + 1e-13, 50.0004]) == [True, True]
    assert compare([1e-6, 50.001]) == [False, False]


def test_an_added_and_a_missing_entry_are_found(figures):
    path = figures / NAME / "claims.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    extra = rows[:1].assign(claim="dense-invented")
    pd.concat([rows[1:], extra]).to_csv(path, index=False)
    assert set(differing(figures)) == {("claims.csv", rows["claim"][0]), ("claims.csv", "dense-invented")}


def test_a_changed_run_is_found(figures):
    path = figures / NAME / "runs.parquet"
    runs = pd.read_parquet(path)
    (config,) = [
        cell.config for cell in cells(NAME, load("cpu", seeds=[1])) if (cell.network, cell.config.loss) == ("DS0", "hinge")
    ]
    last = (runs["run"] == config.hash) & (runs["epoch"] == 100)
    assert last.sum() == 1
    runs.loc[last, "test_accuracy"] += 1e-3
    runs.to_parquet(path, index=False)
    found = differing(figures)
    assert {entry for _, entry in found} >= {"dense-DS0-hinge", "dense-one-hinge", "dense-two-hinge"}
    assert all(register == "claims.csv" and entry.endswith("-hinge") for register, entry in found)  # quick has its own runs


def test_a_run_taken_away_is_found(figures):
    path = figures / NAME / "runs.parquet"
    runs = pd.read_parquet(path)
    gone = cells(NAME, load("quick"))[-1].config.hash
    runs[runs["run"] != gone].to_parquet(path, index=False)
    assert {register for register, _ in differing(figures)} == {"claims-quick.csv"}


def test_a_question_without_a_register_is_told(figures):
    with pytest.raises(FileNotFoundError, match=r"depth.*claims\.csv: no register there; .*make render"):
        verify.check("depth", figures)


def test_of_nothing_published_the_register_has_every_entry_empty(tmp_path):
    written = verify.write("multilayer", tmp_path, tmp_path / "multilayer")
    assert len(written) == len(find("multilayer").claims) and written["value"].isna().all() and (written["seeds"] == 0).all()
    assert verify.check("multilayer", tmp_path)["matches"].all()


# --- comparing ------------------------------------------------------------------------------------------------------------------


def one(value, claim="x", verdict="", half=math.nan):
    """A register of one entry."""
    entry = {"claim": claim, "sentence": "X.", "value": value, "half_width": half, "verdict": verdict, "tolerance": 0.5}
    return pd.DataFrame([entry])


@pytest.mark.parametrize(
    "published, derived, matches",
    [
        ((1.0, "holds"), (1.0, "holds"), True),
        ((1.0, "holds"), (1.5, "holds"), True),  # the tolerance is 0.5
        ((1.0, "holds"), (0.49, "holds"), False),
        ((1.0, "holds"), (1.0, "not settled"), False),
        ((math.nan, "not yet tested"), (math.nan, "not yet tested"), True),
        ((math.nan, "not yet tested"), (1.0, "not yet tested"), False),
        ((1.0, "not yet tested"), (math.nan, "not yet tested"), False),
        ((0.0, ""), (0.0, ""), True),
    ],
)
def test_two_numbers_match_within_the_tolerance_or_if_there_is_none(published, derived, matches):
    rows = [one(v, verdict=w) for v, w in (published, derived)]
    (row,) = verify.compare(*rows, on=["claim"]).to_dict("records")
    assert row["matches"] is matches and (row["differs"] == "") == matches
    assert row["tolerance"] == 0.5 and row["verdict_published"] == published[1] and row["verdict_derived"] == derived[1]


def test_other_runs_may_differ_by_both_intervals_and_the_tolerance():
    """The mean of three runs that scatter little by luck, beside three that scatter as they do: 0.5 + sqrt(3² + 4²) = 5.5."""
    beside = lambda value: verify.compare(one(0.0, half=3.0), one(value, half=4.0), on=["claim"]).to_dict("records")[0]
    assert [beside(value)["matches"] for value in (5.5, -5.5, 5.6)] == [True, True, False] and beside(9.0)["tolerance"] == 5.5
    assert not verify.compare(one(0.0, half=3.0), one(5.5, half=4.0), on=["claim"], within=pd.Series([5.0]))["matches"].any()


def test_a_number_that_one_side_lacks_does_not_match():
    rows = pd.concat([one(math.nan, "x"), one(math.nan, "y")])
    for theirs, mine in ((rows, rows[:1]), (rows[:1], rows)):
        assert verify.compare(theirs, mine, on=["claim"]).set_index("claim")["matches"].to_dict() == {"x": True, "y": False}


# --- a rerun --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A quick preset of seconds, its runs published with their registers; a folder and threads to rerun them in."""
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    level = {
        "preset": "quick",
        "dataset": "fashion_mnist",
        "subset": 200,
        "test_subset": 100,
        "batch": 50,
        "epochs": 1,
        "seeds": [0],
    }
    for name in presets.PRESETS:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(level | {"preset": name}))
    figures, store = tmp_path / "figures", Store(tmp_path / "runs")
    wanted = [cell.config for cell in cells(NAME, load("quick"))]
    with ThreadPoolExecutor(1) as executor:
        grid.run(wanted, store, executor=executor)
        publish(store.records(), figures / NAME / "runs.parquet")
        verify.write(NAME, figures, figures / NAME)
        yield figures, lambda: verify.rerun(NAME, figures, tmp_path / "again", executor=executor)


def test_a_rerun_is_compared_within_its_tolerance(tiny):
    figures, rerun = tiny
    rows = rerun()
    assert rows["matches"].all() and len(rows) == len(find(NAME).claims)
    assert (rows["value_derived"] - rows["value_published"]).abs().max() < 1e-3  # the same bits, but for rounding
    value = rows.set_index("claim")["value_published"]["dense-DS0-ce"]
    change(figures, "value", "dense-DS0-ce", value + 4, "claims-quick.csv")
    change(figures, "value", "dense-DSR1-ce", 200, "claims-quick.csv")
    rows = rerun().set_index("claim")
    assert rows["matches"]["dense-DS0-ce"] and (rows["tolerance"][["dense-DS0-ce", "dense-DSR1-angle-3"]] == [5, 15]).all()
    assert rows[~rows["matches"]].index.tolist() == ["dense-DSR1-ce"]


# --- the command ----------------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_0_where_all_match_and_with_1_where_one_does_not(figures):
    total = 2 * len(find(NAME).claims)
    assert asym(NAME, "--figures", figures) == (0, f"dense: {total} of {total} match\n", "")
    change(figures, "value", "dense-two-ce", -9)
    code, out, _ = asym(NAME, "--figures", figures)
    assert code == 1 and f"dense: {total - 1} of {total} match" in out
    (line,) = [line for line in out.splitlines() if "dense-" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["dense-two-ce", "-9", "-8", "9e-05", "holds", "value"]


def test_the_command_can_tell_all(figures):
    code, out, _ = asym(NAME, "--figures", figures, "--all")
    assert code == 0 and all(f" {claim.id} " in out and f" {claim.id} (quick) " in out for claim in find(NAME).claims)


def test_without_a_question_all_are_checked(tmp_path):
    for question in QUESTIONS:  # of which nothing is published
        verify.write(question, tmp_path, tmp_path / question)
    code, out, _ = asym("--figures", tmp_path)
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == list(QUESTIONS)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["everything"], f"question must be one of {', '.join(QUESTIONS)}; got 'everything'"),
        (["dense", "--rerun", "slow"], "rerun must be quick; got 'slow'"),
        (["dense", "--figures", "/nowhere"], "figures must be a folder; got '/nowhere'"),
        (["dense", "--figures", "tests"], "no register there"),
        (["dense", "--jobs", "0"], "'--jobs'"),
    ],
)
def test_wrong_input_is_told_and_ends_with_2(arguments, told):
    code, out, err = asym(*arguments)
    assert code == 2 and told in err and out == ""


def test_the_command_reruns_into_a_folder_of_its_own(figures, monkeypatch):
    asked = []

    def rerun(name, folder, runs, **machine):
        asked.append((name, folder, runs, machine, runs.is_dir()))
        return verify.compare(verify.register(name, folder, "quick"), verify.derive(name, folder, "quick"), on=["claim"])

    monkeypatch.setattr(verify, "rerun", rerun)
    code, out, _ = asym(NAME, "--figures", figures, "--rerun", "quick", "--jobs", 1)
    assert (code, out) == (0, f"dense: {len(find(NAME).claims)} of {len(find(NAME).claims)} match\n")
    assert [(name, folder, machine, there) for name, folder, _, machine, there in asked] == [
        (NAME, figures, {"jobs": 1, "device": "cpu"}, True)
    ]


def test_the_questions_share_the_runs_that_are_made_again(monkeypatch):
    folders = []
    nothing = pd.DataFrame({"matches": []}, dtype=bool)
    monkeypatch.setattr(verify, "rerun", lambda name, figures, folder, **machine: folders.append(folder) or nothing)
    assert CliRunner().invoke(app, ["verify", "--rerun", "quick"]).exit_code == 0
    assert len(folders) == len(QUESTIONS) and len(set(folders)) == 1 and not folders[0].exists()
