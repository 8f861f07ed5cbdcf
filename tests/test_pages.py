"""What the pages are made of: numbered tables, the line under a figure, costs, the commit of a notebook, the packed book."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from math import nan
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import typer
import yaml
from bs4 import BeautifulSoup
from made import record

import asym
from asym import claims, cost, edition, grid, parcel, plots, presets, provenance, publication, questions, versions
from asym._copies import standins_note
from asym.book import Page
from asym.cli import app
from asym.config import Config
from asym.frames import doubt
from asym.numbered import Numbered
from asym.publication import Shown
from asym.quantities import Evidence
from asym.rules import RULES

ROOT = Path(__file__).parent.parent


def test_a_table_tells_in_its_caption_what_all_rows_share():
    rows = pd.DataFrame({"net": ["DS0", "a_b|c"], "loss": ["ce", "ce"], "ours": ["1.50 ± 0.20", ""], "note": ["[x]", "y"]})
    table = Numbered(rows, "tbl-x", "Of $B$.", "kind", said=("loss", "net"))
    text = table._repr_markdown_()
    assert text.startswith("~~~{table} Of $B$. In every row: loss ce.\n:name: tbl-x\n:class: kind\n")
    assert "| net | ours | note |\n| :--- | ---: | :--- |" in text and r"a\_b\|c" in text and r"\[x\]" in text
    cells = [cell.text for cell in BeautifulSoup(table._repr_html_(), "html.parser").find_all("td")]
    assert cells == ["DS0", "1.50 ± 0.20", "[x]", "a_b|c", "", "y"]


def test_a_single_row_keeps_all_its_columns():
    table = Numbered(pd.DataFrame({"loss": ["ce"]}), "tbl-x", "One.", "kind", said=("loss",))
    assert "| loss |" in table._repr_markdown_() and "every row" not in table._repr_markdown_()


def test_claims_not_yet_tested_come_last_and_without_runs_at_the_very_end():
    given = [("none", nan, "not yet tested"), ("short", 2.0, "not yet tested"), ("open", 1.0, "not settled"), ("number", 3.0, "")]
    judged = pd.DataFrame(given, columns=["sentence", "value", "verdict"])
    told = {"original": nan, "half_width": 0.5, "unit": "points", "seeds": 3, "trained_on": "x"}
    shown = Page.show_claims(types.SimpleNamespace(question="dense"), judged.assign(**told, as_planned=True, answers=True)).rows
    assert shown["claim"].tolist() == ["open", "number", "short", "none"]


def test_what_all_runs_were_trained_on_is_told_once():
    line = {"claim": "It learns.", "original": "", "ours": "1.00", "unit": "points", "seeds": 3, "verdict": "holds"}
    of = lambda *texts: claims.as_table([line | {"trained on": text} for text in texts], "tbl-x", "All.", said=("unit",))
    table = of("cifar10, batch 500, in bf16, 100 epochs", "", "cifar10, batch 500, 5 epochs")
    assert table.rows["trained on"].tolist() == ["in bf16, 100 epochs", "", "5 epochs"]
    assert table.caption == "All. In all runs: cifar10, batch 500."
    assert list(of("cifar10, 5 epochs", "cifar10, 5 epochs").rows) == ["claim", "ours", "unit", "seeds", "verdict"]
    assert of("cifar10", "mnist").caption == "All." == of("", "").caption
    several = of("cifar10, batch 500, 100 epochs; cifar10, batch 500, in bf16, 5 epochs", "cifar10, batch 500, 100 epochs")
    assert several.rows["trained on"].tolist() == ["100 epochs; in bf16, 5 epochs", "100 epochs"]
    assert several.caption == "All. In all runs: cifar10, batch 500."


@pytest.fixture
def table_2():
    wanted = questions.cells("dense", presets.load("quick", seeds=[0, 1]))
    return Shown({"table 2": "cpu"}, wanted, [(cell, record(cell.config)) for cell in wanted])


def test_the_line_under_a_figure_is_of_the_runs_that_it_shows(table_2):
    one = pd.DataFrame([{"part": "table 2", "network": "DSR1", "loss": "ce", "seed": 1}])
    both = pd.DataFrame([{"part": "table 2", "network": name, "loss": "ce"} for name in ("DSR1", "DS0")])
    assert [(cell.network, record.config.seed) for cell, record in provenance.behind(one, table_2)] == [("DSR1", 1)]
    assert len(provenance.behind(both, table_2)) == 4
    register = pd.DataFrame(
        [
            {
                "claim": "x",
                "computed_from": "test_accuracy(table 2, DSR1, ce, last epoch) - test_accuracy(table 2, DS0, ce, last epoch)",
            }
        ]
    )
    assert {cell.network for cell, _ in provenance.behind(register, table_2)} == {"DSR1", "DS0"}
    choice = register.assign(
        computed_from="test_accuracy(table 2, that of [DS0; DSR2-U] with the best validation_accuracy, last epoch)"
    )
    assert {cell.network for cell, _ in provenance.behind(choice, table_2)} == {"DS0", "DSR2-U"}
    assert provenance.behind(pd.DataFrame([{"step": 1, "seed": 0}]), table_2) == []
    minutes = sum(record.provenance["seconds"] for _, record in provenance.behind(both, table_2)) / 60
    words = provenance.told(provenance.behind(both, table_2), table_2)
    assert words[:3] == ["4 runs of the preset cpu", "seeds 0, 1", f"{minutes:.0f} minutes"]


def test_a_run_that_two_parts_show_counts_once(table_2):
    twice = Shown(table_2.levels, table_2.cells, [*table_2.found, *table_2.found])
    plan = questions.find("dense").cells
    assert provenance.summary(twice, plan)["hours of training"] == provenance.summary(table_2, plan)["hours of training"]
    assert len(provenance.distinct(twice.found)) == len(table_2.found)


def test_a_figures_minutes_are_those_of_each_run_once(table_2):
    found = table_2.found[:1]
    found[0][1].provenance["seconds"] = 60
    assert provenance.told([*found, *found], table_2) == provenance.told(found, table_2)


def test_a_figure_of_the_register_has_no_run_of_a_net_whose_name_begins_alike(table_2):
    register = pd.DataFrame([{"claim": "x", "computed_from": "test_accuracy(table 2, DSR1-U, ce, last epoch)"}])
    assert {cell.network for cell, _ in provenance.behind(register, table_2)} == {"DSR1-U"}


def test_changed_code_rounded_products_and_few_images_are_told(table_2):
    run = table_2.found[0][1]
    run.provenance.update(commit=40 * "a" + "+", matrix_products=f"stock, {grid.ON_GPU}")
    told = provenance.summary(table_2, questions.find("dense").cells)
    assert told["commit"] == "00000000, aaaaaaaa+"
    assert told["device"] == f"made up (1 thread a run), made up (1 thread a run, {grid.ON_GPU})"
    few = record(Config(dataset="mnist", hidden=(8,), rules=("bp", "fa"), subset=700, test_subset=50))
    assert provenance._data(few) == "mnist (first 700 training images, first 50 test images)"


def test_the_badge_counts_the_runs_that_other_code_made(table_2):
    fresh, *others = provenance.distinct(table_2.found)
    fresh.provenance["code"] = versions.current()
    badge = Page.badge(types.SimpleNamespace(question="dense", shown=table_2)).data
    assert f"<b>stale</b> {len(others)} runs were made before" in badge


def test_the_prose_gets_each_number_plain_and_signed_and_the_originals(table_2, monkeypatch):
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: glued.update({name: value}))
    page = types.SimpleNamespace(question="dense", site="own", evidence=Evidence(table_2.found))
    for entry in Page.register(page).to_dict("records"):
        told = claims.told(entry), claims.told(entry, "+")
        assert (glued[entry["claim"]], glued[f"{entry['claim']}_signed"]) == told
    assert glued["dense-DS0-ce_original"] == "50.06" and glued["dense-DS0-ce_signed"] == f"+{glued['dense-DS0-ce']}"


def test_a_page_takes_the_parts_networks_and_fields_that_a_figure_asks_for(table_2):
    other = replace(table_2.found[0][0], part="b")
    shown = replace(table_2, found=[*table_2.found, (other, record(other.config))])
    page = types.SimpleNamespace(evidence=Evidence(shown.found), shown=shown, question="dense")
    assert len(Page.runs(page)["part"].unique()) == 3 and set(Page.runs(page, "b")["part"]) == {"b"}
    layers = Page.layers(page, "table 2", ("DSR2", "DSR1"), loss="hinge")
    assert layers["network"].drop_duplicates().tolist() == ["DSR2", "DSR1"]
    assert set(layers["loss"]) == {"hinge"} and set(layers["part"]) == {"table 2"} and set(layers["seed"]) == {0, 1}
    assert set(Page.table(page, "table 2")["part"]) == {"table 2"} and Page.table(page, "b").empty


def test_nets_and_losses_are_named_where_not_all_of_the_plan_are_asked_for(table_2):
    few = [cell for cell in table_2.cells if cell.network in ("DS0", "DSR1") and cell.config.loss == "ce"]
    some = Shown({"table 2": "quick"}, few, [(cell, record(cell.config)) for cell in few[:3]])
    plan = questions.find("dense").cells
    told = ["table 2: quick, 3 of 4 runs of DS0, DSR1 with cross entropy, 4 epochs"]
    assert provenance._coverage(some, plan) == told
    assert provenance._coverage(some, [cell for cell in plan if cell.config.loss == "ce"]) == [
        told[0].replace(" with cross entropy", "")
    ]
    assert provenance._coverage(some, few) == ["table 2: quick, 3 of 4 runs, 4 epochs"]


def test_a_figure_without_runs_says_so(monkeypatch, tmp_path):
    page = Page("dense", {"preset": "stored"})
    page.output = tmp_path
    page.figure("none", page.runs().iloc[:0], plots.learning_curves, pd.DataFrame())
    assert "no run yet" in page.origin("none").data and (tmp_path / "none.svg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.csv", "none.svg"]


@pytest.mark.parametrize(("test_subset", "points"), [(None, 0.2), (500, 4.0), (10, 100.0)])
def test_stand_ins_can_move_a_score_by_their_share_of_what_is_tested(test_subset, points, tmp_path):
    run = record(Config(dataset="cifar10", hidden=(8,), rules=("bp", "fa"), test_subset=test_subset))
    assert doubt(run) == 0
    run.provenance["data_note"] = "92 stand-in images (72 train, 20 test)"
    assert doubt(run) == pytest.approx(points) and f"at most {points:.2f} points" in provenance._data(run)
    run.provenance["data_note"] = standins_note(tmp_path, 50_000, 10_000)  # which has no list of them
    assert doubt(run) == 100 and provenance._data(run).endswith(f"({tmp_path.name}), of which nothing is known")


def test_the_line_under_a_figure_names_source_numbers_drawing_and_command():
    line = BeautifulSoup(provenance.origin("curves", "dense", ["a < b"], site="own").data, "html.parser")
    assert [link["href"] for link in line.find_all("a")] == [
        "_sources/dense.ipynb",
        "own/dense/curves.csv",
        "own/dense/curves.svg",
    ]
    assert "a < b" in line.text and line.find("code").text == "papermill book/dense.ipynb runs/dense.ipynb --cwd ."
    given = {"preset": "smoke", "seeds": [0, 1], "epochs": None, "shown": "own"}
    line = BeautifulSoup(provenance.origin("curves", "dense", [], site="own", given=given).data, "html.parser")
    command = line.find("code").text
    assert command == "papermill book/dense.ipynb runs/dense.ipynb -y 'preset: smoke' -y 'seeds: [0, 1]' -y 'shown: own' --cwd ."
    told = [yaml.safe_load(word) for word in shlex.split(command) if ": " in word]
    assert told == [{name: value} for name, value in given.items() if value is not None]


def test_the_command_has_a_folder_to_write_to():
    """papermill makes none; what lies in runs/ is not committed."""
    folder = ROOT / "runs"
    ignored = lambda name: subprocess.run(["git", "-C", folder, "check-ignore", "-q", name]).returncode == 0
    assert (folder / ".gitignore").exists() and not ignored(".gitignore")
    assert ignored("0123456789abcdef.json") and ignored("dense.ipynb") and ignored("held.lock")


def test_a_notebook_is_named_at_the_commit_of_its_last_change(tmp_path):
    git = lambda *words: subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True).stdout
    (tmp_path / "book").mkdir()
    notebook = tmp_path / "book/a.ipynb"
    notebook.write_text("1")
    assert edition._at("https://x", tmp_path, "a.ipynb") == ""
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "a")
    commit = git("rev-parse", "HEAD").strip()
    edition._commit.cache_clear()
    assert edition._at("https://x", tmp_path, "a.ipynb") == f' at <a href="https://x/blob/{commit}/book/a.ipynb">{commit[:8]}</a>'
    edition._commit.cache_clear()
    notebook.write_text("2")
    assert edition._at("https://x", tmp_path, "a.ipynb") == ""


def test_costs_are_of_the_published_runs_and_of_an_estimate_for_the_rest(tmp_path):
    runs = [record(cell.config) for cell in questions.cells("dense", presets.load("quick"))]
    publication.publish(runs, tmp_path / "dense" / publication.FILE)
    pd.DataFrame([cost.row(runs[0].config, 321.4)]).to_csv(tmp_path / cost.FILE, index=False)
    rows = cost.costs("dense", tmp_path).set_index("preset")
    assert list(rows.index) == list(presets.PRESETS) and (rows["hours"] > 0).all() and (rows["disk"] > 0).all()
    assert rows.loc["quick", "hours"] == len(runs) / 3600 and rows.loc["paper", "hours"] > 20 * rows.loc["quick", "hours"]
    assert rows.loc["quick", "measured"] == len(runs) and rows.loc["paper", "measured"] == 0
    assert set(rows["memory"].dropna()) <= {321.0}
    shown = cost.show("dense", tmp_path, "tbl-dense-costs").rows.set_index("preset")
    assert shown.loc["paper", "memory"] == "not measured" and shown.loc["quick", "time on one core"].endswith("minutes")


def test_the_hours_of_a_core_are_not_those_of_a_gpu(tmp_path):
    runs = [record(cell.config) for cell in questions.cells("dense", presets.load("quick"))]
    runs[0].provenance.update(seconds=1e-6, matrix_products=f"stock, {grid.ON_GPU}")
    publication.publish(runs, tmp_path / "dense" / publication.FILE)
    row = cost.costs("dense", tmp_path).set_index("preset").loc["quick"]
    assert row["measured"] == len(runs) - 1 and row["hours"] > (len(runs) - 0.5) / 3600


@pytest.mark.parametrize(
    "given", [{"epochs": 20}, {"dataset": "mnist", "seeds": [1]}, {"shown": "own"}, {"subset": 0, "jobs": 0}, {"device": "cuda"}]
)
def test_a_page_that_trains_nothing_takes_nothing_to_train(given):
    words = ", ".join(given)
    with pytest.raises(ValueError, match=f"preset 'stored' trains nothing, so that {words} cannot be set beside it"):
        Page("dense", {"preset": "stored", "subset": None, "unverified_data": False, "shown": "published"} | given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "tiny"}, ["tiny", *presets.PRESETS]),
        ({"preset": "smoke", "shown": "both"}, ["both", "published", "own"]),
        ({"preset": "smoke", "seeds": 3}, ["seeds", "3"]),
        ({"preset": "smoke", "dataset": "imagenet"}, ["imagenet", "fashion_mnist"]),
    ],
)
def test_a_page_refuses_unknown_values_with_the_allowed_ones(given, says):
    with pytest.raises(ValueError) as refused:
        Page("dense", given)
    assert all(word in str(refused.value) for word in says), refused.value


@pytest.mark.parametrize("jobs", [0, -1, "two", "2", 1.5, True])
def test_a_page_refuses_jobs_that_are_no_count(monkeypatch, tmp_path, jobs):
    monkeypatch.setenv("ASYM_RUNS", str(tmp_path))
    with pytest.raises(ValueError, match=f"jobs must be a whole number, at least 1; got {jobs!r}"):
        Page("dense", {"preset": "smoke", "jobs": jobs})


def test_a_rule_more_has_its_colour_and_marker_and_asks_for_no_runs():
    """As CONTRIBUTING says, a rule is one entry of RULES."""
    code = "from asym import rules; rules.RULES['new'] = rules.RULES['fa']; from asym import plots, questions; "
    code += "print(plots.COLOURS['new'], plots.MARKERS['new'], sum(len(q.cells) for q in questions.QUESTIONS.values()))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    asked = sum(len(question.cells) for question in questions.QUESTIONS.values())
    assert told == [plots.PALETTE[len(RULES)], plots.SIGNS[len(RULES)], str(asked)]
    assert len(set(plots.PALETTE)) == len(plots.PALETTE) > len(RULES) < len(set(plots.SIGNS))


def test_memory_that_was_not_measured_of_one_kind_is_not_told_by_another(tmp_path):
    """Wherever it stands among the runs: a maximum over a NaN depends on that."""
    configs = [cell.config for cell in questions.cells("literature", presets.load("smoke"))]
    kinds = cost.kinds(configs)
    for missing in range(len(kinds)):
        rows = [cost.row(config, 100) for place, config in enumerate(kinds) if place != missing]
        pd.DataFrame(rows).to_csv(tmp_path / cost.FILE, index=False)
        assert pd.isna(cost.costs("literature", tmp_path).set_index("preset").loc["smoke", "memory"])


def test_a_net_with_a_learned_feedback_is_the_larger():
    nets = {
        rule: Config(hidden=(8,), rules=("bp", rule), weight_decay=0.1 * (rule == "kp")) for rule in ("fa", "shared_update", "kp")
    }
    plain, shared, kp = nets.values()
    assert [config.rules[-1] for config in cost.kinds([plain, kp])] == ["kp"]
    assert [config.rules[-1] for config in cost.kinds([shared, plain])] == ["shared_update"]


def test_memory_is_measured_on_the_largest_run_of_each_kind():
    configs = [cell.config for cell in questions.cells("literature", presets.load("smoke"))]
    kinds = cost.kinds(configs)
    assert {cost._kind(config) for config in kinds} == {cost._kind(config) for config in configs}
    assert all(config.epochs == 1 for config in kinds)
    assert next(config for config in kinds if config.net == "dense").hidden == (1000, 1000, 1000)
    dense = next(config for config in kinds if config.net == "dense")
    ballast = bytearray(2**31)
    ballast[:: 2**12] = b"x" * (2**31 // 2**12)  # 2 GB that this process holds, and not the one that trains
    assert 100 < cost.measure(dense) < 1500


def test_every_rule_has_a_colour_of_its_own_and_shades_that_differ():
    shades = {plots.shade(rule, layers) for rule in RULES for layers in plots.SHADES}
    assert len(set(plots.COLOURS.values())) == len(RULES) and len(shades) == len(RULES) * len(plots.SHADES)
    rows = pd.DataFrame({"network": ["a", "b", "c"], "rule": ["fa", "fa", "bp"], "asymmetric_layers": [2, 2, 0]})
    found = plots.styles(rows, "network")
    assert found["c"]["color"] == plots.shade("bp", 0) and found["a"] != found["b"] and found["a"]["ls"] == "-"


def test_nets_that_only_a_name_tells_apart_differ_in_their_dash():
    rows = pd.DataFrame({"network": ["a", "b", "c"], "rule": "fa", "asymmetric_layers": [2, 2, 1]})
    assert [style["ls"] for style in plots.styles(rows, "network").values()] == ["-", "--", "-"]


def test_the_packed_book_holds_pages_and_data_with_their_checksums(tmp_path):
    pages = tmp_path / "html"
    (pages / "figures").mkdir(parents=True)
    (pages / "index.html").write_text("<p>")
    (pages / "figures/runs.parquet").write_bytes(b"\0\1")
    target = tmp_path / "asym-book-1.zip"
    parcel.pack(pages, target)
    first = target.read_bytes()
    parcel.pack(pages, target)
    assert target.read_bytes() == first
    with zipfile.ZipFile(target) as packed:
        sums = dict(reversed(line.split("  ")) for line in packed.read("asym-book-1/SHA256SUMS").decode().splitlines())
        assert {f"asym-book-1/{name}" for name in [*sums, "SHA256SUMS"]} == set(packed.namelist())
        assert all(hashlib.sha256(packed.read(f"asym-book-1/{name}")).hexdigest() == digest for name, digest in sums.items())
    assert {"html/index.html", "html/figures/runs.parquet", "data/fashion-mnist/train-images-idx3-ubyte.gz"} <= set(sums)
    with pytest.raises(FileNotFoundError, match="built book"):
        parcel.pack(tmp_path / "none", target)


NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def test_every_notebook_installs_the_package_of_its_tag_on_colab_and_nothing_elsewhere(tmp_path, monkeypatch):
    (source,) = {nbformat.read(path, 4).cells[1].source for path in NOTEBOOKS}
    ran, went = [], []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setattr("os.chdir", went.append)
    exec(source, {})
    assert ran == went == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("os.path.exists", lambda path: False)
    exec(source, {})
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    clone, install = ran
    assert clone[clone.index("--branch") + 1] == f"v{asym.__version__}" and address in clone and went == [clone[-1]]
    assert install[1:4] == ["-m", "pip", "install"] and install[-1] == ".[book]"


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem in questions.QUESTIONS], ids=lambda path: path.stem)
def test_every_page_tells_its_parameters_and_costs(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    told = {
        cell.source: cell.outputs[0]["data"]["text/markdown"]
        for cell in code
        if cell.source in ("page.parameters()", "page.costs()")
    }
    settable = next(cell.source for cell in code if "parameters" in cell.metadata.get("tags", []))
    names = re.findall(r"^(\w+) =", settable, flags=re.M)
    assert re.findall(r"^\| (\S+) \|", told["page.parameters()"], flags=re.M)[2:] == [name.replace("_", r"\_") for name in names]
    assert all(f"| {name} |" in told["page.costs()"] for name in presets.PRESETS)


def test_the_workflows_name_what_exists():
    paths = list((ROOT / ".github/workflows").glob("*.yml"))
    made_here = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if re.match(r"[\w/%.]+:", line)}
    for path in paths:
        jobs = yaml.safe_load(path.read_text())["jobs"]
        commands = "\n".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)
        assert set(re.findall(r"\bmake (\w+)", commands)) <= made_here, path.name
        assert set(re.findall(r"\basym (\w+)", commands)) <= set(typer.main.get_command(app).commands), path.name
        assert all((ROOT / script).is_file() for script in re.findall(r"\bbash (\S+)", commands)), path.name
    assert paths


def test_the_hooks_are_those_of_the_lock():
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    hooks = {
        repo["repo"].rsplit("/", 1)[-1]: repo["rev"]
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    }
    assert hooks == {"ruff-pre-commit": f"v{pins['ruff']}", "nbstripout": pins["nbstripout"]}


def test_every_figure_says_where_it_comes_from():
    for path in NOTEBOOKS:
        code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        figures = sum("mystnb" in cell.metadata for cell in code)
        origins = [
            output for cell in code for output in cell.outputs if 'class="provenance"' in json.dumps(output).replace('\\"', '"')
        ]
        assert len(origins) == figures, path.stem
