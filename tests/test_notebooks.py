"""The notebooks: they run at the smoke preset, and their cells are of one form."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
from notebooks import NOTEBOOKS, OVERVIEWS, PAGES, ROOT, cells, papermill
from papermill import inspect_notebook

from asym.book import PARAMETERS
from asym.questions import QUESTIONS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_every_question_has_its_notebook():
    assert {path.stem for path in NOTEBOOKS} == {*QUESTIONS, *OVERVIEWS}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_it_runs_at_smoke_and_shows_its_own_runs(path, runs, tmp_path):
    """In a process each, since the tests run beside each other; one page in as many as a reader gets."""
    target, jobs = tmp_path / path.name, [] if path.stem == "dense" else ["-p", "jobs", "1"]
    done = papermill(path, target, "-p", "preset", "smoke", "-p", "shown", "own", "-y", "seeds: [0]", *jobs, runs=runs)
    assert done.returncode == 0, done.stderr[-3000:]
    pictures = [out for cell in cells(target, "code") for out in cell.outputs if "image/svg+xml" in out.get("data", {})]
    assert len(pictures) == sum("page.figure(" in cell.source for cell in cells(path, "code"))
    badge = "".join(out["data"]["text/html"] for cell in cells(target, "code") if "badge" in cell.source for out in cell.outputs)
    assert "smoke" in badge and "training images" in badge and "not run" not in badge
    assert list(runs.glob("*.json"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    code = cells(path, "code")
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    named = {target.id for node in ast.parse(tagged[0].source).body for target in node.targets}
    assert named == OVERVIEWS.get(path.stem, set(PARAMETERS))
    if path.stem in OVERVIEWS:  # a page refuses what papermill sets beside these
        checked = [cell.source for cell in code if "given(globals()" in cell.source]
        assert len(checked) == 1 and all(f'"{name}"' in checked[0] for name in named)
    for cell in code:
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in nodes), "notebooks define nothing"
        assert not any(isinstance(node, ast.Attribute) and node.attr in ("backward", "step") for node in nodes)
        assert cell.execution_count, "stored notebooks are executed"
        assert not [out for out in cell.outputs if out.get("name") == "stderr" or out.output_type == "error"]
        if "page.figure(" in cell.source:
            meta = cell.metadata["mystnb"]
            assert meta["figure"]["name"].startswith(f"fig-{path.stem}".replace("_", "-")) and len(meta["figure"]["caption"]) > 40
            assert len(meta["image"]["alt"]) > 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_the_prose_are_glued(path):
    """No accuracy, angle or difference is typed: a percentage or a degree sign follows a glued number, or a fixed constant."""
    constants = {"95", "90"}
    for cell in cells(path, "markdown"):
        text = re.sub(r"\{glue:text\}`[^`]*`", "GLUED", cell.source)
        typed = set(re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)\s?(?:%|°)", text))
        assert typed <= constants, typed - constants


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_glued_number_is_an_entry_of_a_register(path):
    """So that `asym verify` derives all of them again; but for those of the linear map, which is run while its page is made."""
    known = {claim.id for claim in QUESTIONS[path.stem].claims}
    known |= {f"{name}.ipynb::{claim.id}" for name, other in QUESTIONS.items() if name != path.stem for claim in other.claims}
    names = {name for cell in cells(path, "markdown") for name in re.findall(r"\{glue:text\}`([^`]*?)(?::[^:`]*)?`", cell.source)}
    forms = {f"{id}_{form}" for id in known for form in ("signed", "original")}
    if path.stem == "literature":
        names = {name for name in names if not name.startswith("linear_")}
    assert names and names <= known | forms | {f"{path.stem}_{form}" for form in ("verdict", "summary", "daggers")}


def test_make_book_sets_only_what_a_notebook_can_be_given():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--always-make", "book"]
    recipes = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    runs = {Path(path): options for options, path in re.findall(r"papermill (.*?)--log-output (\S+)", recipes)}
    assert {ROOT / path for path in runs} == set(NOTEBOOKS)
    for path, options in runs.items():
        assert set(re.findall(r"-p (\S+)", options)) <= inspect_notebook(str(ROOT / path)).keys(), path
    assert "-p preset quick" in runs[Path("book/dense.ipynb")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_machine_paths_or_secrets(path):
    text = path.read_text()
    assert not re.search(r"(/(home|root|Users|work|tmp)/|[A-Z]:\\\\)", text)
    assert not re.search(r"(?i)(api[_-]?key|password|secret)\W", text)
