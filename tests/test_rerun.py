"""What a reader does with the notebooks: runs of one's own beside the published, and parameters that they refuse."""

import re
from dataclasses import replace

import pytest
from notebooks import PAGES, ROOT, cells, papermill

from asym import grid, overview, publication, questions
from asym.book import PARAMETERS
from asym.presets import load
from asym.results import Store

YOUR_RUN = ROOT / "book/your_run.ipynb"


def own(record):
    """The same, made here."""
    return replace(record, provenance=record.provenance | {"started": "2020-01-01T00:00:00+00:00"})


def test_the_readers_runs_stand_beside_the_published(tmp_path):
    """The published runs as if made here, and one of the smoke preset, of which nothing is published."""
    mine = Store(tmp_path / "mine")
    for record in publication.library(ROOT / "figures").values():
        mine.save(own(record))
    mine.save(grid.perform(questions.cells("dense", load("smoke"))[0].config))
    for preset, says in (("quick", r"(\d{3}) of \1 numbers of your quick runs agree"), ("smoke", "none")):
        done = papermill(YOUR_RUN, tmp_path / "out.ipynb", "-p", "preset", preset, runs=mine.folder)
        assert done.returncode == 0, done.stderr[-3000:]
        shown = "".join(str(out) for cell in cells(tmp_path / "out.ipynb", "code") for out in cell.outputs)
        assert re.search(says, shown) and ("dense-one-ce" in shown) == (preset == "quick")


def test_fewer_seeds_are_compared_by_their_values_alone(tmp_path):
    """A claim of one seed has no verdict, and differs in nothing for that; a number beyond its tolerance does."""
    store = Store(tmp_path)
    for record in publication.library(ROOT / "figures").values():
        if record.config.seed == 0 and record.config.net == "dense":
            rows = [row | {"test_accuracy": row["test_accuracy"] / 4} for row in record.epochs]
            wrong = record.config.rules == ("bp",) * 3 and record.config.loss == "hinge"
            store.save(own(replace(record, epochs=rows) if wrong else record))
    taken_over = Store(tmp_path / "other")
    publication.merge(ROOT / "figures", taken_over)
    assert overview.beside_published(ROOT / "figures", "cpu", taken_over).empty  # they would agree with themselves
    found = overview.beside_published(ROOT / "figures", "cpu", store)
    gap = (found["value_published"] - found["value_derived"]).abs()
    assert len(found) > 50 and (found["agrees"] == (gap <= found["tolerance"] + 1e-6)).all()
    assert 0.5 < found["agrees"].mean() < 1 and not found["matches"][found["agrees"]].all()


@pytest.mark.parametrize(
    "path, wrong, says",
    [
        (PAGES[0], ["-p", "epoch", "3"], f"unknown parameters epoch; allowed: {', '.join(PARAMETERS)}"),
        (YOUR_RUN, ["-p", "run", "elsewhere"], "unknown parameters run; allowed: preset, runs"),
        (YOUR_RUN, ["-p", "runs", "nowhere"], "runs must be a folder of records, or None; got 'nowhere'"),
    ],
    ids=["parameter", "of your run", "folder"],
)
def test_papermill_tells_what_a_page_refuses(path, wrong, says, tmp_path):
    done = papermill(path, tmp_path / "out.ipynb", *wrong, runs=tmp_path)
    assert done.returncode != 0 and f"ValueError: {says}" in done.stderr[-3000:]
