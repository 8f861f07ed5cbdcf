"""Versions: which text decides a run, and that a page whose runs other text made is named."""

import ast
import re
from dataclasses import replace

import pytest
from made import record
from typer.testing import CliRunner

from asym import grid, publication, versions
from asym.bench import machines, precision
from asym.cli import app
from asym.config import Config
from asym.presets import load
from asym.questions import QUESTIONS, cells

CONFIG = Config(hidden=(8,), rules=("bp", "fa"))
BRINGING = {"_copies", "_download", "_formats", "_published"}  # bring a data set's files, whose content a run's fingerprint names


def imported(name):
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse((versions.PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "asym":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asym."):
            found.add(node.module.split(".")[1])
    return {name for name in found if (versions.PACKAGE / f"{name}.py").exists()}


def test_what_decides_a_run_is_all_that_training_imports():
    reached, waiting = set(), {"train", "stacked"}
    while waiting:
        reached |= waiting
        waiting = {name for module in waiting for name in imported(module)} - reached
    assert {f"{name}.py" for name in reached - BRINGING} | {"untied.cpp"} == set(versions.DECIDING)


def test_comments_docstrings_and_blank_lines_decide_nothing():
    plain = versions.digest([("a.py", "def f(x):\n    return x + 1\n\n\nclass C:\n    y = '#'\n")])
    told = 'def f(x):\n    """Words,\n    more."""\n    return x + 1  # one\n# two\nclass C:\n    "A class."\n\n    y = \'#\'\n'
    assert versions.digest([("a.py", told)]) == plain
    for other in ("def f(x):\n    return x + 2\nclass C:\n    y = '#'\n", "def f(x):\n    return x + 1\nclass C:\n    y = '%'\n"):
        assert versions.digest([("a.py", other)]) != plain
    assert versions.digest([("a.cpp", "// one")]) != versions.digest([("a.cpp", "// two")])  # no parser for it: every word counts


def test_the_digest_is_of_every_deciding_module(monkeypatch):
    texts = [(name, (versions.PACKAGE / name).read_text()) for name in versions.DECIDING]
    assert versions.digest(texts) == versions.current() and re.fullmatch(r"[0-9a-f]{16}", versions.current())
    for index, (name, text) in enumerate(texts):
        changed = [*texts[:index], (name, text + "\nx = 1\n"), *texts[index + 1 :]]
        assert versions.digest(changed) != versions.current()


def test_a_run_tells_its_version():
    made = grid.perform(replace(CONFIG, subset=500, test_subset=100))
    assert made.provenance["code"] == versions.current() == versions.of(made) and versions.stale([made]) == []


@pytest.mark.parametrize(
    "provenance, is_stale",
    [({"code": "f" * 16}, True), ({"commit": "e" * 40}, True), ({"commit": "equal"}, False)],
    ids=["other code", "unknown commit", "commit known to be equal"],
)
def test_other_code_is_stale_unless_it_is_known_to_be_equal(provenance, is_stale):
    made = record(CONFIG)
    made.provenance.update({name: next(iter(versions.equal())) if told == "equal" else told for name, told in provenance.items()})
    assert versions.stale([made]) == ([made] if is_stale else [])


def test_no_version_is_equal_to_code_that_was_not_compared(monkeypatch):
    """So that the gate closes with every change, whatever was equal before."""
    known = record(CONFIG)
    known.provenance["code"] = next(reversed(versions.equal()))
    assert versions.stale([known]) == []
    versions.equal.cache_clear()
    monkeypatch.setattr(versions, "current", lambda: "0" * 16)
    try:
        assert versions.stale([known]) == [known]
    finally:
        versions.equal.cache_clear()


POGGIO, UNTIED = (Config(net=net, rules=("bp",) * 5) for net in ("poggio", "poggio_untied"))


@pytest.mark.parametrize(
    ("config", "device", "is_stale"),
    [
        (CONFIG, "NVIDIA H100", False),
        (POGGIO, "NVIDIA H100", True),
        (UNTIED, "NVIDIA H100", True),
        (replace(POGGIO, pooling="max"), "NVIDIA H100", False),
        (POGGIO, "AMD EPYC", False),
        (UNTIED, "AMD EPYC", False),
        (replace(UNTIED, l2=1e-4), "AMD EPYC", True),
        (replace(UNTIED, dropout=0.1), "AMD EPYC", True),
        (replace(POGGIO, l2=1e-4, dropout=0.1), "AMD EPYC", False),
    ],
)
def test_a_version_that_changed_some_runs_makes_those_before_it_stale_and_no_others(config, device, is_stale):
    assert versions.SINCE.keys() <= versions.equal().keys()
    known = list(versions.equal())
    at = known.index("4303c0efd9d54940")
    for version, expected in ((known[at - 1], is_stale), (known[0], is_stale), (known[at], False), (versions.current(), False)):
        made = record(config)
        made.provenance.update({"code": version, "device": device})
        assert versions.stale([made]) == ([made] if expected else [])


def test_every_version_taken_as_equal_has_its_reason():
    assert all(re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{40}", version) and len(why) > 20 for version, why in versions.equal().items())


def test_the_build_names_the_pages_whose_runs_are_stale(tmp_path):
    fresh, old, unasked = (
        [record(cell.config) for cell in cells(name, load("quick"))] for name in ("dense", "untied_feedback", "b_updates")
    )
    for run in fresh + unasked:
        run.provenance["code"] = versions.current()
    unasked.append(replace(record(CONFIG), provenance=fresh[0].provenance))
    for name, runs in (("dense", fresh), ("untied_feedback", old), ("b_updates", unasked)):
        publication.publish(runs, tmp_path / name / publication.FILE)
    done = CliRunner().invoke(app, ["stale", "--figures", str(tmp_path)])
    lines = done.stdout.splitlines()
    assert done.exit_code == 1 and not any(line.startswith("dense") for line in lines)
    assert f"untied_feedback: stale, {len(old)} of its runs were made by other code ({16 * '0'})" in lines
    assert "b_updates: stale, 1 of its runs are of configs that no preset asks for" in lines
    assert lines[-1].endswith(f"of {len(QUESTIONS) + 1} pages are stale")


@pytest.mark.parametrize("file", [publication.FILE, machines.FILE])
def test_the_runs_of_the_performance_page_are_looked_at_too(tmp_path, file):
    publication.publish([record(replace(CONFIG, precision="bf16"))], tmp_path / precision.HOME / file)
    done = CliRunner().invoke(app, ["stale", "--figures", str(tmp_path)])
    assert done.exit_code == 1 and "performance: stale, 1 of its runs were made by other code" in done.stdout


def test_nothing_published_is_not_stale(tmp_path):
    done = CliRunner().invoke(app, ["stale", "--figures", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, f"0 of {len(QUESTIONS) + 1} pages are stale\n")
