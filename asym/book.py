"""What a question's page shares with every other: parameters, runs, figures with their data, numbers for the prose."""

import math
import re
import types
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, SVG, display
from matplotlib.figure import Figure

from asym import claims, grid, plots, presets, tables
from asym.questions import Cell, cells
from asym.results import Record, Store, frame, interval, layer_frame, published

STORED = "stored"  # train nothing, show the published runs
SHOWN = ("published", "own")
PARAMETERS = ("preset", "dataset", "subset", "epochs", "seeds", "unverified_data", "device", "jobs", "shown")
LEVELS = ("quick", "cpu", "paper")  # from the smallest


class Page:
    """One question's page: runs what its preset lacks, then shows the published runs, or its own.

    parameters: the notebook's globals() right after its parameter cell. preset "stored" trains nothing. shown: "published" shows
    the largest preset of which a whole seed is published (its own where there is none), "own" always its own.
    ValueError lists the allowed values, and the allowed parameters if there is one that is not.
    """

    def __init__(self, question: str, parameters: dict[str, Any]):
        given = _given(parameters)
        self.question, self.root = question, _root()
        self.preset = given.pop("preset", STORED)
        shown = given.pop("shown", "published")
        if shown not in SHOWN:
            raise ValueError(f"shown must be one of {', '.join(SHOWN)}; got {shown!r}")
        machine = {"device": given.pop("device", None) or "cpu", "jobs": given.pop("jobs", None)}
        self.own = [] if self.preset == STORED else self._run(presets.load(self.preset, **given), machine)
        self.level, self.cells, self.found = self._published()
        if shown == "own" or not self.found:
            if not self.own:
                raise ValueError(
                    f"no run of {question} is published: give a preset ({', '.join(presets.PRESETS)}), not {STORED!r}"
                )
            self.level, self.cells, self.found = self.preset, self.own_cells, self.own
        self.site = "own" if self.found is self.own else "figures"  # where the built book serves the page's files
        self.output = self.root / ("_build/own" if self.site == "own" else "figures") / question
        plots.use_style()

    def _run(self, preset: presets.Preset, machine: dict[str, Any]) -> list[tuple[Cell, Record]]:
        self.own_cells, store = cells(self.question, preset), Store(self._folder())
        grid.run((cell.config for cell in self.own_cells), store, progress=self._say, **machine)
        return list(store.find(self.own_cells))

    def _folder(self) -> Path:
        return Store().folder if Store().folder.is_absolute() else self.root / Store().folder

    def _say(self, done: int, total: int) -> None:
        if done % max(1, total // 10) == 0 or done == total:
            print(f"{self.question}, {self.preset}: {done} of {total} runs", flush=True)

    def _published(self) -> tuple[str, list[Cell], list[tuple[Cell, Record]]]:
        """The largest level of which at least one whole seed is published; its cells, and those with a run."""
        records = {r.config.hash: r for r in published(self.root / "figures" / self.question / "runs.parquet")}
        best: tuple[str, list[Cell], list[tuple[Cell, Record]]] = ("", [], [])
        for level in reversed(LEVELS):
            wanted = cells(self.question, presets.load(level))
            found = [(cell, records[cell.config.hash]) for cell in wanted if cell.config.hash in records]
            seeds = Counter(cell.config.seed for cell, _ in found)
            whole = bool(seeds) and max(seeds.values()) == len(wanted) // len({cell.config.seed for cell in wanted})
            if whole and (not best[2] or found == best[2]):  # a smaller level of which the same runs are published says it better
                best = level, wanted, found
        return best

    def runs(self, part: str | None = None) -> pd.DataFrame:
        """One row a run and epoch of what the page shows; of one part of it if given."""
        return frame(self._of(part))

    def layers(self, part: str | None = None, networks: tuple[str, ...] = (), loss: str = "ce") -> pd.DataFrame:
        """One row a run, epoch and layer; of the networks given, in their order."""
        rows = layer_frame(self._of(part))
        rows = rows[rows["network"].isin(networks) & (rows["loss"] == loss)]
        return rows.sort_values("network", key=lambda names: names.map(networks.index), kind="stable")

    def table(self) -> pd.DataFrame:
        """The original's numbers with the shown runs' beside them."""
        return tables.beside_original(self.cells, self.found)

    def own_table(self) -> pd.DataFrame:
        """The same with the runs of the page's own preset; empty if it trained none."""
        return tables.beside_original(self.own_cells, self.own) if self.own else pd.DataFrame()

    def judge(self) -> pd.DataFrame:
        """The question's claims, each derived from the shown runs."""
        return claims.judge(self.question, self.runs())

    def _of(self, part: str | None) -> list[tuple[Cell, Record]]:
        return [(cell, record) for cell, record in self.found if part is None or cell.part == part]

    def badge(self) -> HTML:
        """Which preset, data, seeds, epochs, device and hours the page shows, and how many of the preset's runs there are."""
        rows = "; ".join(f"<b>{name}</b> {escape(value)}" for name, value in self.provenance().items())
        return HTML(f'<div class="admonition tip"><p class="admonition-title">What this page shows</p><p>{rows}</p></div>')

    def provenance(self) -> dict[str, str]:
        """Where the shown runs come from, as words."""
        records = [record for _, record in self.found]
        known = [r.provenance for r in records]
        epochs = [r.config.epochs for r in records]
        return {
            "preset": f"{self.level}, {len(self.found)} of {len(self.cells)} runs",
            "data": ", ".join(sorted({_data(r) for r in records})),
            "seeds": ", ".join(map(str, sorted({r.config.seed for r in records}))),
            "epochs": f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}",
            "device": ", ".join(sorted({f"{p['device']} ({p['threads']} thread a run)" for p in known})),
            "hours of training": f"{sum(p['seconds'] for p in known) / 3600:.1f}",
            "torch": ", ".join(sorted({p["torch"] for p in known})),
            "commit": ", ".join(sorted({p["commit"][:8] + p["commit"][40:] for p in known})),
        }

    def figure(self, name: str, figure: Figure, rows: pd.DataFrame) -> None:
        """Shows the figure; saves it as SVG, and the numbers behind it as CSV, under figures/<question>/."""
        self.output.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.output / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plots.plt.close(figure)
        rows.to_csv(self.output / f"{name}.csv", index=False, float_format="%.6g")
        display(SVG(self.output / f"{name}.svg"))

    def downloads(self, name: str) -> HTML:
        """Links to a figure's SVG and CSV, as the built book serves them."""
        links = (f'<a href="{self.site}/{self.question}/{name}.{kind}" download>{kind.upper()}</a>' for kind in ("svg", "csv"))
        return HTML(f'<p class="downloads">{name}: {" · ".join(links)}</p>')

    def show_table(self, table: pd.DataFrame) -> HTML:
        """Ours beside the original's, as a table: accuracies in %, our mean with its 95 % interval over the seeds."""
        rows = [_table_row(entry) for entry in table.to_dict("records")]
        return HTML(pd.DataFrame(rows).to_html(index=False, border=0, na_rep="", classes="beside-original"))

    def show_claims(self, judged: pd.DataFrame) -> HTML:
        """The claims, what the original and our runs give for each (points of accuracy), and the verdict."""
        rows = [
            {
                "claim": entry["sentence"],
                "original": _points(entry["published"]),
                "ours": _points(entry["derived"], entry["half_width"]),
                "verdict": entry["verdict"],
            }
            for entry in judged.to_dict("records")
        ]
        return HTML(pd.DataFrame(rows).to_html(index=False, border=0, classes="claims"))

    def glue_accuracies(self, control: str) -> None:
        """For the prose: of every network and loss at its last printed epoch, `NAME_LOSS` and `NAME_LOSS_half` (%), and
        `NAME_LOSS_minus`, `NAME_LOSS_minus_half`, its difference to the control, paired by seed (points)."""
        runs = self.runs()
        for network, loss in dict.fromkeys((cell.network, cell.config.loss) for cell in self.cells):
            mine = claims.accuracy(runs, network, loss)
            for name, values in (("", mine), ("_minus", (mine - claims.accuracy(runs, control, loss)).dropna())):
                mean, half = interval(values)
                key = f"{network}_{loss}{name}".replace(" layers, ", "_").replace("-", "_")
                self.glue(**{key: mean, f"{key}_half": half})

    def glue(self, **numbers: float | str) -> None:
        """Names numbers and words for the prose."""
        from myst_nb import glue

        for name, value in numbers.items():
            glue(name, value if isinstance(value, str) else float(value), display=False)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """The notebook's parameters: every plain value among its globals, so that a name papermill injected wrongly is seen."""
    skipped = (types.ModuleType, types.FunctionType, type)
    given = {
        name: value
        for name, value in parameters.items()
        if not name.startswith("_")
        and not isinstance(value, skipped)
        and name not in ("In", "Out", "get_ipython", "exit", "quit", "open")
    }
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; allowed: {', '.join(PARAMETERS)}")
    return given


def _root() -> Path:
    """The checkout that the notebook runs in, or the current folder outside one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "_config.yml").exists()), here)


def _data(record: Record) -> str:
    """The data set, with what is known of a copy that is not the published one: each stand-in test image can move the accuracy by
    one image."""
    config, note = record.config, record.provenance["data_note"]
    name = config.dataset if config.subset is None else f"{config.dataset} (first {config.subset} training images)"
    stand_ins = re.search(r"(\d+) test", note)
    bound = f", which can move a test accuracy by at most {int(stand_ins[1]) / 100:.2f} points" if stand_ins else ""
    return f"{name} with {note}{bound}" if note else name


def _table_row(entry: dict[str, Any]) -> dict[str, Any]:
    short = entry["epochs_run"] < entry["epochs"]
    if not entry["seeds"]:
        verdict = "not run"
    elif entry["agrees"] is None:
        verdict = "other data" if entry["dataset"] != claims.DATASET else "fewer epochs" if short else "fewer than 3 seeds"
    else:
        verdict = "agrees" if entry["agrees"] else "differs"
    return {
        "table": entry["part"].removeprefix("table "),
        "network": entry["network"],
        "loss": entry["loss"],
        "epochs": f"{entry['epochs']:.0f}" + (f" (ours {entry['epochs_run']})" if short else ""),
        "original": f"{entry['original']:.2f}",
        "ours": _points(entry["ours"], entry["half_width"]),
        "difference": f"{entry['difference']:+.2f}" if entry["seeds"] else "",
        "seeds": entry["seeds"],
        "diverged": entry["diverged"],
        "verdict": verdict,
    }


def _points(mean: float, half: float = math.nan) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"
