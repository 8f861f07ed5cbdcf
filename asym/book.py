"""What a question's page shares with every other: parameters, runs, figures with their data, numbers for the prose."""

import types
from collections.abc import Callable, Collection
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, SVG, Markdown, display
from matplotlib.figure import Figure

from asym import claims, cost, frames, grid, plots, presets, provenance, tables, verify, versions
from asym.atomic import whole
from asym.checks import expect
from asym.numbered import Numbered, label
from asym.publication import Shown, library, shown
from asym.quantities import Evidence
from asym.questions import QUESTIONS, cells
from asym.results import Store

STORED = "stored"  # train nothing, show the published runs
SHOWN = ("published", "own")
BESIDE = (
    "The original's numbers and ours: test accuracy in %, ours the mean over seeds with its 95 % t interval, * of fewer than "
    "three seeds, † not of the planned data and epochs. Compatible: the original's single run lies where a further seed of ours "
    "would with 95 % probability, which is wide where seeds scatter."
)
CLAIMS = (
    "What each entry says, the original's value where it prints one, and ours: the mean over seeds with its 95 % t interval, "
    "* of fewer than three seeds, † not of the planned data and epochs. A verdict in brackets has no part in the question's."
)
MARKED = (
    "Marks: * fewer than three seeds; † not the planned data, or fewer epochs than planned. A number without a mark is of the "
    "planned data and epochs. An interval as wide as its quantity's whole scale is left out."
)
CHOSEN = (
    "The learning rate that each rule is shown at, its mean validation accuracy, and whether the rate is the smallest or the "
    "largest of those tried, so that a better one may lie outside."
)
SETTABLE = "What papermill can set in this page: `-p NAME VALUE` for words and whole numbers, `-y 'NAME: VALUE'` for lists."
PARAMETERS = ("preset", "dataset", "subset", "epochs", "seeds", "unverified_data", "device", "jobs", "shown")


class Page:
    """One question's page: runs what its preset lacks, then shows the published runs, or its own.

    parameters: the notebook's globals() right after its parameter cell. preset "stored" trains nothing. shown: "published" shows
    of each part the largest preset of which a whole seed is published, and a table's single nets by longer runs (its own where
    nothing is), "own" always its own.
    ValueError lists the allowed values, and the allowed parameters if there is one that is not.
    """

    def __init__(self, question: str, parameters: dict[str, Any]):
        self.question, self.root, self.given = question, root(), given(parameters)
        asked = dict(self.given)
        self.preset = asked.pop("preset", STORED)
        choice = asked.pop("shown", "published")
        if choice not in SHOWN:
            raise ValueError(f"shown must be one of {', '.join(SHOWN)}; got {choice!r}")
        device = asked.pop("device", None) or "cpu"
        training = [name for name, value in asked.items() if value is not None and value is not False]
        training += ["device"] * (device != "cpu") + ["shown"] * (choice == "own")
        if self.preset == STORED and training:
            words = ", ".join(training)
            raise ValueError(f"preset {STORED!r} trains nothing, so that {words} cannot be set beside it: give a preset too")
        machine = {"device": device, "jobs": asked.pop("jobs", None)}
        self.own = None if self.preset == STORED else self._run(presets.load(self.preset, **asked), machine)
        self.shown = shown(question, library(self.root / "figures"))
        if choice == "own" or not self.shown.found:
            if self.own is None:
                allowed = ", ".join(presets.PRESETS)
                raise ValueError(f"no run of {question} is published: give a preset ({allowed}), not {STORED!r}")
            self.shown = self.own
        self.evidence = Evidence(self.shown.found)
        self.site = "own" if self.shown is self.own else "figures"  # where the built book serves the page's files
        self.output = self.root / ("_build/own" if self.site == "own" else "figures") / question
        self._behind: dict[str, list[str]] = {}  # a figure's name -> what is told of the runs that it shows
        plots.use_style()

    def _run(self, preset: presets.Preset, machine: dict[str, Any]) -> Shown:
        wanted, store = cells(self.question, preset), Store(folder())
        grid.run((cell.config for cell in wanted), store, progress=self._say, **machine)
        found = list(store.find(wanted))
        return Shown({part: self.preset for part in dict.fromkeys(cell.part for cell in wanted)}, wanted, found)

    def _say(self, done: int, total: int) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            print(f"{self.question}, {self.preset}: {done} of {total} runs", flush=True)

    def runs(self, *parts: str) -> pd.DataFrame:
        """One row a run and epoch of what the page shows; of some parts of it if given."""
        return _of(self.evidence.runs, parts)

    def layers(self, part: str, networks: tuple[str, ...], **fields: str) -> pd.DataFrame:
        """One row a run, epoch and layer of a part's networks, in their order; fields: loss, activation, optimizer."""
        rows = _of(self.evidence.layers, (part,))
        for name, value in fields.items():
            rows = rows[rows[name] == value] if len(rows) else rows
        rows = rows[rows["network"].isin(networks)] if len(rows) else rows
        return rows.sort_values("network", key=lambda names: names.map(networks.index), kind="stable") if len(rows) else rows

    def table(self, *parts: str) -> pd.DataFrame:
        """The original's numbers, all or those of some parts, with the shown runs' beside them where there are any."""
        table = tables.beside_original([*QUESTIONS[self.question].cells, *self.shown.cells], self.shown.found)
        return table[table["part"].isin(parts)] if parts else table

    def register(self) -> pd.DataFrame:
        """The question's numbers and claims, derived from the shown runs, stored beside its figures, and named for the prose:
        each with its interval by its id, signed as `ID_signed`, the original's as `ID_original`; of all, `QUESTION_verdict`,
        `QUESTION_summary`, `QUESTION_settled` and `QUESTION_daggers`."""
        if self.site == "figures":
            judged = verify.write(self.question, self.root / "figures", self.output)
        else:
            judged = claims.judge(QUESTIONS[self.question].claims, self.evidence)
        for entry in judged.to_dict("records"):
            name = entry["claim"]
            glue(**{name: claims.told(entry), f"{name}_signed": claims.told(entry, "+")})
            glue(**{f"{name}_original": f"{entry['original']:.4g}"} if entry["original"] == entry["original"] else {})
        forms = (claims.verdict, claims.summary, claims.settled, claims.daggers)
        glue(**{f"{self.question}_{form.__name__}": form(judged) for form in forms})
        return judged

    def badge(self) -> HTML:
        """Which preset, data, seeds, epochs, device and hours the page shows, and how many of the preset's runs there are."""
        told = provenance.summary(self.shown, QUESTIONS[self.question].cells)
        rows = "<br>".join(f"<b>{name}</b> {escape(value)}" for name, value in told.items())
        old = versions.stale(provenance.distinct(self.shown.found))
        rows += f"<br><b>stale</b> {len(old)} runs were made before a change of the code that decides a run" if old else ""
        title = '<p class="admonition-title">What this page shows</p>'
        return HTML(f'<div class="admonition tip">{title}<p>{rows}</p><p>{MARKED}</p></div>')

    def figure(self, name: str, rows: pd.DataFrame, plot: Callable[..., Figure], *arguments: Any, **options: Any) -> None:
        """Shows plot(rows, ...); saves it as SVG, and the rows as CSV, under figures/<question>/. Without rows it says so."""
        figure = plot(rows, *arguments, **options) if len(rows) else plots.nothing()
        found = provenance.behind(rows, self.shown)
        self._behind[name] = provenance.told(found, self.shown) if len(rows) else ["no run yet"]
        save_figure(figure, rows, self.output, name)

    def origin(self, name: str) -> HTML:
        """Where a figure of this page comes from: source, numbers, drawing, runs, seeds, minutes, device, and the command."""
        given = self.given if self.site == "own" else {}
        return provenance.origin(name, self.question, self._behind[name], site=self.site, given=given)

    def show_table(self, table: pd.DataFrame, name: str = "original") -> Numbered:
        """Ours beside the original's, as a table: accuracies in %, our mean with its 95 % interval over the seeds."""
        said = ("table", "activation", "loss", "seeds", "diverged")
        return Numbered(tables.as_text(table), label(self.question, name), BESIDE, "beside-original", said=said)

    def show_chosen(self, trials: pd.DataFrame) -> Numbered | Markdown:
        """The learning rate that each rule is shown at: the one with the best mean validation accuracy of its trials."""
        rows = [
            {
                "part": entry["part"],
                "rule": entry["rule"],
                "learning rate": f"{entry['lr']:g}",
                "validation accuracy (%)": tables.points(entry["accuracy"]),
                "seeds": entry["seeds"],
                "at an end": "yes" if entry["end"] else "",
            }
            for entry in frames.best(trials, "accuracy").to_dict("records")
        ]
        told = Numbered(pd.DataFrame(rows), label(self.question, "chosen"), CHOSEN, "chosen", said=("part", "seeds"))
        return told if rows else Markdown("Not run yet.")

    def show_own(self) -> Numbered | Markdown:
        """The same with the runs of the page's own preset, where it trained some."""
        table = tables.beside_original(self.own.cells, self.own.found) if self.own else []
        return self.show_table(table, "own") if len(table) else Markdown("This page was made from the published runs alone.")

    def show_claims(self, judged: pd.DataFrame, name: str = "claims") -> Numbered:
        """What each entry says, what the original and our runs give for it, and a claim's verdict, where any entry has one; those
        not yet tested come last, without runs at the very end."""
        wanting = (judged["verdict"] == claims.UNTESTED).astype(int) + judged["value"].isna()
        lines = claims.as_text(judged.loc[wanting.sort_values(kind="stable").index])
        return claims.as_table(lines, label(self.question, name), CLAIMS, said=("unit", "seeds"))

    def parameters(self) -> Numbered:
        """What papermill can set in this page's notebook, read from it."""
        from papermill import inspect_notebook

        found = inspect_notebook(self.root / "book" / f"{self.question}.ipynb").values()
        rows = [{"parameter": entry["name"], "default": entry["default"], "meaning": entry["help"]} for entry in found]
        return Numbered(pd.DataFrame(rows), label(self.question, "parameters"), SETTABLE, "parameters")

    def costs(self) -> Numbered:
        """What each preset of this page costs: time, memory, disk."""
        return cost.show(self.question, self.root / "figures", label(self.question, "costs"))


def save_figure(figure: Figure, rows: pd.DataFrame, folder: Path, name: str) -> None:
    """Saves the figure as SVG and its rows as CSV in the folder, and shows it."""
    with whole(folder / f"{name}.svg") as part:
        figure.savefig(part, format="svg", metadata={"Date": None, "Creator": None})
    plots.plt.close(figure)
    with whole(folder / f"{name}.csv") as part:
        rows.to_csv(part, index=False, float_format="%.6g")
    display(SVG(folder / f"{name}.svg"))


def glue(**numbers: float | str) -> None:
    """Names numbers and words for the prose."""
    import myst_nb

    for name, value in numbers.items():
        myst_nb.glue(name, value if isinstance(value, str) else float(value), display=False)


def given(parameters: dict[str, Any], allowed: Collection[str] = PARAMETERS) -> dict[str, Any]:
    """The notebook's parameters: every plain value among its globals, so that a name papermill injected wrongly is seen.

    ValueError lists the allowed ones.
    """
    skipped = (types.ModuleType, types.FunctionType, type)
    found = {
        name: value
        for name, value in parameters.items()
        if not name.startswith("_")
        and not isinstance(value, skipped)
        and name not in ("In", "Out", "get_ipython", "exit", "quit", "open")
    }
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return found


def root() -> Path:
    """The checkout that the notebook runs in, or the current folder outside one."""
    here = Path.cwd()
    return next((place for place in (here, *here.parents) if (place / "_config.yml").exists()), here)


def folder(runs: str | Path | None = None) -> Path:
    """Where the runs are: the folder given, which must be there (ValueError), else $ASYM_RUNS, or runs/ of the checkout."""
    if runs is None:
        return root() / Store().folder
    expect("runs", runs, isinstance(runs, str | Path) and Path(runs).is_dir(), "a folder of records, or None")
    return Path(runs)


def _of(rows: pd.DataFrame, parts: tuple[str, ...]) -> pd.DataFrame:
    return rows[rows["part"].isin(parts)] if parts and len(rows) else rows
