"""The command line: exit codes, what is printed, and that wrong input is told before anything is run."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from made import record as made_up
from typer.testing import CliRunner

from asym import cli, cost, gemm, grid, presets, publication, versions
from asym.bench import precision
from asym.cli import app
from asym.config import Config
from asym.data import DataError
from asym.presets import load
from asym.publication import homes, published
from asym.questions import QUESTIONS, cells
from asym.results import Record, Store


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty store; a terminal wide enough that no message is broken over lines."""
    monkeypatch.setenv("ASYM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(cli.console, "width", 400)
    return tmp_path / "runs"


def asym(*arguments):
    """The command in this process: exit code, stdout, stderr."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def row(table, name):
    """The numbers of a printed table's line."""
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines()]
    ((_, *numbers),) = [line for line in lines if line[0] == name]
    return numbers


@pytest.fixture(scope="module")
def record():
    """A real run; its rows serve for any config's record here."""
    return grid.perform(Config(subset=500, hidden=(8,), rules=("bp", "fa")))


def test_the_installed_command_is_this_one():
    (script,) = metadata.entry_points(group="console_scripts", name="asym")
    assert script.load() is app


def test_help_names_every_command():
    code, out, _ = asym("--help")
    assert code == 0 and all(
        command in out for command in ("run", "status", "table", "merge", "publish", "stale", "verify", "bench", "precision")
    )
    assert all(name in asym("run", "--help")[1] for name in (*QUESTIONS, *presets.PRESETS))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["run", "everything"], f"question must be one of {', '.join(QUESTIONS)}; got 'everything'"),
        (["run", "--preset", "huge"], f"preset must be one of {', '.join(presets.PRESETS)}; got 'huge'"),
        (["status", "everything"], f"question must be one of {', '.join(QUESTIONS)}; got 'everything'"),
        (["status", "--preset", "huge"], f"preset must be one of {', '.join(presets.PRESETS)}; got 'huge'"),
        (["run", "dense", "--jobs", "0"], "'--jobs'"),
        (["run", "dense", "--jobs", "two"], "'--jobs'"),
        (["run", "dense", "--budget", "-1"], "'--budget'"),
        (["run", "dense", "--preset", "smoke", "--scheduler", "nowhere"], "scheduler nowhere"),
        (
            ["run", "dense", "--preset", "smoke", "--scheduler", ""],
            "scheduler must be a Dask scheduler's address, tcp://host:port",
        ),
        (["run", "dense", "--epochs", "3"], "No such option"),
        (["run", "dense", "--only", "seed"], "only must be NAME=VALUE, with a name of part, network, dataset, "),
        (["run", "dense", "--only", "table=2"], "got 'table=2'"),
        (["run", "dense", "--only", "part=table 4"], "only must be part= one of table 2; last layer alone; got 'part=table 4'"),
        (
            ["run", "dense", "--only", "seed=0", "--only", "network=DS0", "--only", "seed=7"],
            "only must be seed= one of 0; 1; 2; got 'seed=7'",
        ),
        (["train"], "No such command"),
        (["table"], "Missing argument"),
        (["table", "everything"], f"question must be one of {', '.join(QUESTIONS)}; got 'everything'"),
        (["table", "dense", "--preset", "huge"], f"preset must be one of {', '.join(presets.PRESETS)}; got 'huge'"),
        (["publish", "everything"], f"question must be one of {', '.join(QUESTIONS)}; got 'everything'"),
        (["publish", "--preset", "huge"], f"preset must be one of {', '.join(presets.PRESETS)}; got 'huge'"),
    ],
)
def test_wrong_input_is_told_with_what_is_allowed_and_code_2(folder, arguments, told):
    if "--scheduler" in arguments:
        pytest.importorskip("distributed")
    code, out, err = asym(*arguments)
    assert code == 2 and told in err and out == "" and not folder.exists()


def test_an_error_that_a_library_raises_under_right_input_is_not_taken_for_wrong_input(folder, monkeypatch):
    monkeypatch.setattr(cli, "_seeds_outermost", lambda configs: pd.DataFrame({"a": [1]}).set_axis(["b", "c"], axis=1))
    done = CliRunner().invoke(app, ["run", "dense", "--preset", "smoke"])
    assert isinstance(done.exception, ValueError) and "Length mismatch" in str(done.exception)


def test_a_scheduler_that_does_not_answer_is_told(folder):
    dask = pytest.importorskip("dask")
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        code, _, err = asym("run", "dense", "--preset", "smoke", "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2 and "scheduler tcp://127.0.0.1:1: " in err and not folder.exists()


def test_missing_data_is_told_before_any_run(folder, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ASYM_DATA", str(tmp_path / "data"))
    code, out, err = asym("run", "dense", "--preset", "cpu", "--jobs", "1")
    assert code == 2 and "has no cifar10" in err and out == "" and not folder.exists()


def test_a_device_that_is_not_here_is_told_before_any_run(folder):
    code, out, err = asym("run", "dense", "--preset", "smoke", "--device", "nowhere")
    assert code == 2 and "device must be cpu, or cuda, cuda:1 ...; got 'nowhere'" in err and out == "" and not folder.exists()


@pytest.mark.parametrize("question", ["literature", "b_updates", "multilayer"])
def test_a_question_without_a_table_of_the_originals_says_so(question):
    code, out, _ = asym("table", question, "--preset", "smoke")
    assert code == 0 and out.startswith(f"the original prints no table for {question}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "dense", "--preset", "smoke"],
        ["status", "--preset", "smoke"],
        ["table", "dense"],
        ["publish"],
        ["merge", "figures"],
    ],
)
def test_a_store_that_is_a_file_is_told(folder, arguments):
    folder.write_text("a file where the folder should be")
    code, out, err = asym(*arguments)
    assert (code, out) == (2, "") and f"folder must be a folder of records; got '{folder}'" in err


@pytest.mark.parametrize("command", ["status", "stale", "verify", "publish", "precision"])
def test_published_runs_that_are_cut_short_are_named(tmp_path, command):
    config = cells("dense", load("quick"))[0].config
    Store().save(made_up(config))
    path = tmp_path / "figures/dense" / publication.FILE
    publication.publish([made_up(config)], path)
    path.write_bytes(path.read_bytes()[:2000])
    level = ["--preset", "quick"] if command in ("status", "publish", "precision") else []
    code, out, err = asym(command, *level, "--figures", str(tmp_path / "figures"))
    assert (code, out) == (2, "") and f"{path}: not a file of published runs" in err


@pytest.fixture(params=["read-only", "a file"])
def unwritable(request, monkeypatch, tmp_path):
    """A folder for the figures that takes none; to root, too, who may write in any but on a disk that is read-only."""
    path = tmp_path / "figures"
    if request.param == "a file":
        path.write_text("")
        return path

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    path.mkdir()
    monkeypatch.setattr(publication, "whole", refuse)
    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
    return path


def test_figures_that_cannot_be_written_are_told(unwritable):
    Store().save(made_up(cells("dense", load("quick"))[0].config))
    code, out, err = asym("publish", "--preset", "quick", "--figures", str(unwritable))
    assert code in (1, 2) and str(unwritable) in out + err


def test_what_takes_long_to_measure_is_not_begun_where_it_cannot_be_kept(monkeypatch, unwritable, tmp_path):
    for module, name in ((cost, "measure"), (cli.bench, "measure"), (cli.gpu, "report")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("measured"))
    missing = tmp_path / "nowhere" / "bench.json"
    for arguments in (
        ["memory", "--figures", unwritable],
        ["bench", "--json", unwritable / "bench.json"],
        ["bench", "--json", unwritable / "bench.json", "--device", "cuda"],
        ["bench", "--json", missing],
        ["bench", "--json", tmp_path],
    ):
        code, out, err = asym(*map(str, arguments))
        assert code in (1, 2) and any(str(path) in out + err for path in (arguments[2], arguments[2].parent))


@pytest.mark.parametrize("name, allowed", [("ASYM_UNTIED", "auto, compiled, torch"), ("ASYM_GEMM", "stock, onednn")])
@pytest.mark.parametrize(
    "arguments",
    [["run", "untied_conv", "--preset", "smoke", "--jobs", "1"], ["verify", "untied_conv", "--rerun", "quick"], ["bench"]],
)
def test_an_unknown_form_of_the_products_is_told_before_any_run(folder, monkeypatch, name, allowed, arguments):
    monkeypatch.setenv(name, "nonsense")
    monkeypatch.setattr(cli.bench, "_in_turn", lambda *_: pytest.fail("measured"))
    code, out, err = asym(*arguments)
    assert (
        (code, out) == (2, "") and f"${name} must be one of {allowed}; got 'nonsense'" in err and not list(folder.glob("*.json"))
    )


@pytest.mark.parametrize("cause, told", [(DataError("ASYM_DATA=/data: no such folder"), True), (ValueError("a fault"), False)])
def test_a_worker_without_the_data_is_told_and_a_fault_of_ours_keeps_its_traceback(monkeypatch, cause, told):
    message = "2 runs failed, the others are stored; first {'rules': ['bp', 'fa']}"

    def failing(*_, **__):
        raise RuntimeError(message) from cause

    monkeypatch.setattr(grid, "run", failing)
    done = CliRunner().invoke(app, ["run", "dense", "--preset", "smoke"])
    assert done.exit_code == 1 and (message in done.stdout) == told
    assert isinstance(done.exception, SystemExit if told else RuntimeError)


def test_a_budget_that_is_over_is_no_failure():
    assert asym("run", "dense", "--preset", "smoke", "--budget", "0") == (0, "0 runs made, 0 there before, 24 left\n", "")


def test_what_is_done_is_not_done_again(record):
    """Quiet on stderr, which is no terminal here, and without a process."""
    store = Store()
    for cell in cells("dense", load("smoke")):
        store.save(replace(record, config=cell.config))
    assert asym("run", "dense", "--preset", "smoke") == (0, "0 runs made, 24 there before, 0 left\n", "")


def test_status_counts_what_is_done_and_left_and_gives_hours(record):
    store, level = Store(), load("quick")
    wanted = {question: list(dict.fromkeys(cell.config for cell in cells(question, level))) for question in QUESTIONS}
    for config in wanted["dense"][:4]:
        store.save(Record(config, record.epochs, False, record.provenance))
    code, out, err = asym("status", "--preset", "quick")
    assert (code, err) == (0, "") and f"hours left, {gemm.processor()}" in out and "untied convolution: " in out
    for question, configs in wanted.items():
        done = [config for config in configs if store.load(config)]
        planned, runs, made, left, epochs, *hours = row(out, question)
        assert int(planned) == len({replace(config, seed=0) for config in configs})
        assert (int(runs), int(made), int(left)) == (len(configs), len(done), len(configs) - len(done))
        assert int(epochs) == sum(config.epochs for config in configs if config not in done) and float(hours[0]) >= 0


def test_status_of_all_presets_counts_a_run_once(folder):
    code, out, _ = asym("status")
    runs = {name: int(row(out, name)[1]) for name in presets.PRESETS}
    for name, count in runs.items():
        assert count == len({cell.config for question in QUESTIONS for cell in cells(question, load(name))})
    assert code == 0 and runs["paper"] > runs["cpu"] > 500


def test_status_of_a_question_counts_its_parts(record):
    level = load("quick")
    Store().save(replace(record, config=cells("depth", level)[0].config))
    code, out, _ = asym("status", "depth", "--preset", "quick")
    parts = dict.fromkeys(cell.part for cell in cells("depth", level))
    assert code == 0 and [int(row(out, part)[2]) for part in parts] == [1] + [0] * (len(parts) - 1)
    for part in parts:
        assert int(row(out, part)[1]) == len({cell.config for cell in cells("depth", level) if cell.part == part})
    assert int(row(asym("status", "depth")[1], "quick")[1]) == len({cell.config for cell in cells("depth", level)})


def test_status_tells_the_hours_of_other_devices_where_runs_of_theirs_do(record, tmp_path):
    """A device that has run dense nets alone says nothing of the others."""
    far = replace(record, config=replace(record.config, seed=9), provenance=record.provenance | {"device": "Far Away 1"})
    Store().save(far)
    code, out, _ = asym("status", "--preset", "smoke", "--figures", str(tmp_path))
    assert code == 0 and "hours left, Far Away 1" in out
    assert float(row(out, "dense")[-1]) >= 0 and row(out, "untied_conv")[-1] == "?"


def test_what_a_record_tells_is_printed_as_it_is(record, tmp_path, monkeypatch):
    """Brackets and colons too, which rich would take for its own: a record may be another machine's."""
    device, made_by = "A [/b] :gear: [1]", "[/b] of old"
    store = Store(tmp_path / "[/c]")
    for cell in cells("dense", load("quick")):
        store.save(replace(made_up(cell.config), provenance=record.provenance | {"device": device, "code": made_by}))
    monkeypatch.setenv("ASYM_RUNS", str(store.folder))
    figures = ("--figures", str(tmp_path / "[/d]"))
    (tmp_path / "[/d]").mkdir()
    assert f"hours left, {device}" in asym("status", "--preset", "smoke", *figures)[1]
    assert str(tmp_path / "[/d]") in asym("publish", "--preset", "quick", *figures)[1]
    assert f"made by other code ({made_by})" in asym("stale", *figures)[1]


def test_status_names_what_is_no_record_once_and_counts_it_as_left(record):
    store, (cell, *_) = Store(), cells("dense", load("smoke"))
    store.save(replace(record, config=cell.config))
    notes = store.folder / "notes.json"
    for path in (store.path(cell.config), notes):
        path.write_text("{}")
    with pytest.warns(UserWarning) as told:
        code, out, _ = asym("status", "--preset", "smoke")
    assert code == 0 and row(out, "dense")[1:4] == ["24", "0", "24"]
    words = ": no sound record, left out as if it were not there (not a record: KeyError('sha256'))"
    assert [str(warning.message) for warning in told] == [f"{path}{words}" for path in sorted((store.path(cell.config), notes))]


def test_the_table_has_ours_beside_the_original():
    store = Store()
    for cell in cells("dense", load("smoke")):
        store.save(made_up(cell.config, 0.5 if cell.network == "DS0" else 0.4))
    code, out, _ = asym("table", "dense", "--preset", "smoke")
    assert code == 0 and "dense, preset smoke" in out and len([line for line in out.splitlines() if "DSR" in line]) == 8
    first = next(line for line in out.splitlines() if "DS0" in line)
    shown = [cell.strip() for cell in first.strip("│").split("│")]
    assert shown == ["2", "DS0", "relu", "ce", "100 (ours 1)", "50.06", "50.00 ± 0.00†", "", "2", "0", "other data"]


def test_the_table_of_a_question_that_has_not_run_has_the_originals_numbers():
    code, out, _ = asym("table", "untied_conv", "--preset", "paper")
    assert code == 0 and out.count("not run") == 34 and "73.78" in out
    assert asym("table", "multilayer")[0] == 0  # of which the original has no table


def test_publishing_puts_each_run_under_its_home_and_keeps_what_is_there(tmp_path):
    level, store, figures = load("quick"), Store(), tmp_path / "figures"
    figures.mkdir()
    wanted = [cell.config for cell in cells("multilayer", level) if cell.config.seed == 0]
    for config in wanted:
        store.save(made_up(config))
    arguments = ["publish", "multilayer", "--preset", "quick", "--figures", str(figures)]
    code, out, err = asym(*arguments)
    home, there = homes(level), {}
    for path in figures.glob(f"*/{publication.FILE}"):
        there |= {run.config: path.parent.name for run in published(path)}
    assert (code, err) == (0, "") and there == {config: home[config.hash] for config in wanted}
    assert set(there.values()) == {"multilayer", "depth", "conv_dense_head"}
    for name in set(there.values()):
        count = list(there.values()).count(name)
        assert f"{figures / name / publication.FILE}: {count} runs, {count} of them new" in out

    before = {path: path.read_bytes() for path in figures.glob("*/*")}
    store.save(made_up(wanted[0], 0.9))  # a run that is published stays as it was published
    assert "0 of them new" in asym(*arguments)[1]
    assert {path: path.read_bytes() for path in figures.glob("*/*")} == before

    later = next(cell.config for cell in cells("depth", level) if cell.part == "sweep")
    store.save(made_up(later))
    assert "1 of them new" in asym("publish", "--preset", "quick", "--figures", str(figures))[1]
    assert later in {run.config for run in published(figures / "depth" / publication.FILE)}


def test_the_runs_of_asym_precision_are_published_by_it_alone(tmp_path):
    store, path = Store(), tmp_path / precision.HOME / publication.FILE
    one, other = (cell.config for cell in cells("dense", load("bf16"))[:2])
    publication.publish([made_up(one)], path)
    for config in (one, other):
        store.save(made_up(config))
    assert asym("publish", "dense", "--preset", "bf16", "--figures", str(tmp_path))[0] == 0
    assert {run.config for run in published(tmp_path / "dense" / publication.FILE)} == {other}
    assert {run.config for run in published(path)} == {one}
    store.path(other).unlink()
    code, out, _ = asym("publish", "dense", "--preset", "bf16", "--figures", str(tmp_path))
    assert code == 0 and f"{path}: has all of them already" in out


def test_publishing_nothing_writes_nothing(tmp_path):
    code, out, err = asym("publish", "--figures", str(tmp_path / "figures"))
    assert (code, out) == (2, "") and "no run of preset cpu is here" in err and not (tmp_path / "figures").exists()


def test_publishing_makes_no_folder_of_figures(tmp_path):
    """Outside a checkout the default would be one that nobody looks for."""
    Store().save(made_up(cells("dense", load("quick"))[0].config))
    nowhere = tmp_path / "nowhere"
    code, out, err = asym("publish", "--preset", "quick", "--figures", str(nowhere))
    assert (code, out) == (2, "") and f"figures must be a folder: the book's, or one made for this; got '{nowhere}'" in err
    assert not nowhere.exists()


def test_publishing_replaces_what_is_stale(tmp_path):
    """By what is not."""
    store, path = Store(), tmp_path / "dense" / publication.FILE
    config = cells("dense", load("quick"))[0].config
    for accuracy, code, expected in (
        (0.2, "f" * 16, 0.2),
        (0.3, "e" * 16, 0.2),
        (0.4, versions.current(), 0.4),
        (0.5, "e" * 16, 0.4),
    ):
        made = made_up(config, accuracy)
        made.provenance["code"] = code
        store.path(config).unlink(missing_ok=True)
        store.save(made)
        assert asym("publish", "dense", "--preset", "quick", "--figures", str(tmp_path))[0] == 0
        assert published(path)[0].epochs[-1]["test_accuracy"] == pytest.approx(expected)


def test_stale_pages_are_looked_for_where_there_is_a_folder(tmp_path):
    for command in ("stale", "verify"):
        code, _, err = asym(command, "--figures", str(tmp_path / "nowhere"))
        assert code == 2 and f"figures must be a folder; got '{tmp_path / 'nowhere'}'" in err
    code, out, _ = asym("status", "--preset", "smoke", "--figures", str(tmp_path / "nowhere"))
    assert code == 0 and f"no folder {tmp_path / 'nowhere'} of published runs is here: " in out


def test_all_questions_are_run_seed_by_seed(monkeypatch):
    asked = []
    monkeypatch.setattr(grid, "run", lambda configs, *_, **__: asked.extend(configs) or grid.Outcome(0, 0, 0))
    assert asym("run", "--preset", "quick")[0] == 0
    seeds = [config.seed for config in asked]
    assert seeds == sorted(seeds) and set(seeds) == set(load("quick").seeds)
    first = [cell.config for name in QUESTIONS for cell in cells(name, load("quick")) if cell.config.seed == 0]
    assert asked[: len(first)] == first


def test_only_the_cells_that_are_asked_for_are_run(monkeypatch):
    """Of one name any of the values, of different names all."""
    asked = []
    monkeypatch.setattr(grid, "run", lambda configs, *_, **__: asked.extend(configs) or grid.Outcome(0, 0, 0))
    given = ("part=table 4", "network=DD0", "network=DDR2", "loss=hinge", "seed=1")
    assert asym("run", "--preset", "paper", *(word for text in given for word in ("--only", text)))[0] == 0
    plan = [cell for name in ("depth", "beat_bp") for cell in cells(name, load("paper"))]  # which both show table 4
    assert asked == [
        cell.config
        for cell in plan
        if cell.part == "table 4" and cell.network in ("DD0", "DDR2") and (cell.config.loss, cell.config.seed) == ("hinge", 1)
    ]
    assert len(asked) == 4


def sound(record):
    """With shares that are shares."""
    halves = {name: [0.5] * record.config.layers for name in ("sign_agreement", "idle")}
    return replace(record, epochs=[row | halves for row in record.epochs])


def test_merging_tells_what_it_did(tmp_path):
    configs = [cell.config for cell in cells("dense", load("quick"))][:3]
    theirs = Store(tmp_path / "theirs")
    for config in configs:
        theirs.save(sound(made_up(config)))
    Store().save(sound(made_up(configs[0])))
    Store().save(sound(made_up(configs[1], 0.25)))
    code, out, err = asym("merge", str(theirs.folder))
    assert (code, err) == (0, "") and "1 runs new, 1 alike, 1 differ, 0 files refused" in out
    apart = "(first apart at epoch 1, in train_accuracy)"
    assert f"{configs[1].hash}: yours stays, 25.00 % on made up; theirs 50.00 % on made up {apart}" in out
    theirs.path(configs[2]).write_text("half a rec")
    code, out, _ = asym("merge", str(theirs.folder))
    assert code == 1 and f"{theirs.path(configs[2])}: refused, " in out and "1 files refused" in out
    assert asym("merge", str(tmp_path / "nowhere"))[0] == 2
    (tmp_path / "empty").mkdir()
    code, out, _ = asym("merge", str(tmp_path / "empty"))
    assert code == 1 and f"{tmp_path / 'empty'} holds no records: " in out


def test_runs_that_another_machine_made_again_are_kept_beside_the_published_ones(tmp_path):
    here, there = (cell.config for cell in cells("dense", load("quick"))[:2])
    theirs, figures = Store(tmp_path / "theirs"), tmp_path / "figures"
    for config in (here, there):
        Store().save(sound(made_up(config, 0.25)))
        made = sound(made_up(config))
        if config == there:
            made.provenance["device"] = "another"
        theirs.save(made)
    for new in (1, 0):
        code, out, _ = asym("merge", str(theirs.folder), "--again", str(figures))
        assert code == 0 and "2 differ" in out and f"again.parquet: 1 runs, {new} of them new" in out
    (kept,) = publication.published(figures / "performance" / "again.parquet")
    assert (kept.config, kept.provenance["device"]) == (there, "another")
    assert publication.library(figures) == {}  # no page shows it as its own


def test_memory_stores_a_line_for_each_kind_of_run(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(cli.data, "load", lambda name, unverified: loaded.append((name, unverified)))
    monkeypatch.setattr(cost, "measure", lambda config: 100.4 if config.net == "dense" else 200.0)
    code, shown, _ = asym("memory", "--figures", str(tmp_path))
    assert sorted(loaded) == [("cifar10", False), ("cifar100", False), ("fashion_mnist", False)]
    stored = pd.read_csv(tmp_path / cost.FILE)
    assert code == 0 and "poggio_untied" in shown
    assert set(stored.loc[stored["net"] == "dense", "memory"]) == {100} and set(stored["memory"]) == {100, 200}
    wanted = {cost._kind(cell.config) for name in presets.PRESETS for q in QUESTIONS for cell in cells(q, load(name))}
    assert {tuple(entry[name] for name in cost.KIND) for entry in stored.to_dict("records")} == wanted
    assert set(cost._memory(Path("figures") / cost.FILE)) == wanted  # what the book shows was measured of these presets


def test_memory_tells_what_data_is_missing_before_it_measures(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setenv("ASYM_DATA", str(tmp_path))
    monkeypatch.setattr(cost, "measure", measured.append)
    code, _, err = asym("memory", "--figures", str(tmp_path))
    assert code == 2 and "has no cifar" in err and measured == []


def test_a_pipe_gets_whole_lines():
    command = [sys.executable, "-m", "asym", "table", "dense"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}).stdout
    assert len(shown.splitlines()[5]) > 100 and "difference" in shown and "…" not in shown


@pytest.mark.parametrize("arguments", [["status", "--preset", "smoke"], ["table", "dense"]])
def test_a_narrow_terminal_cuts_nothing(monkeypatch, arguments):
    monkeypatch.setattr(cli.console, "width", 60)
    code, out, _ = asym(*arguments)
    assert code == 0 and "━" in out and "…" not in out and max(map(len, out.splitlines())) <= 60
