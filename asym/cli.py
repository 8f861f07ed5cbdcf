"""The command line: asym run, asym status, asym table, asym publish, asym verify."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from asym import grid, presets, publication, questions, tables, verify
from asym.data import DataError
from asym.results import Store

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()

Question = Annotated[str | None, typer.Argument(help=f"One of {', '.join(questions.QUESTIONS)}; all without it.")]
PresetName = Annotated[str, typer.Option("--preset", help=f"One of {', '.join(presets.PRESETS)}.")]
Unverified = Annotated[bool, typer.Option("--unverified-data", help="Take data files whose checksum is not the published one.")]


@app.command()
def run(
    question: Question = None,
    preset: PresetName = "quick",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes of one thread each; the cores by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds; runs not finished by then are left for next time.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler's address, tcp://host:port.")] = None,
    unverified_data: Unverified = False,
) -> None:
    """Run what is missing. Finished runs are kept in $ASYM_RUNS (runs/ by default); the same command goes on after a stop."""
    configs = [cell.config for cell in _cells(question, preset, unverified_data)]
    try:
        outcome = grid.run(configs, Store(), jobs=jobs, device=device, budget=budget, executor=scheduler and _dask(scheduler))
    except DataError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyboardInterrupt:
        console.print("stopped; finished runs are stored, the same command goes on")
        raise typer.Exit(130) from None
    except OSError as error:  # a full disk, say
        console.print(f"{error}; finished runs are stored, the same command goes on")
        raise typer.Exit(1) from None
    console.print(f"{outcome.ran} runs made, {outcome.done_before} there before, {outcome.left} left")
    raise typer.Exit(1 if outcome.left and budget is None else 0)


@app.command()
def status(preset: PresetName = "quick") -> None:
    """What is done and what is left of each question at a preset, and about how long that takes."""
    store = Store()
    table = Table("question", "cells", "runs", "done", "left", "epochs left", "hours left, one core", title=f"preset {preset}")
    total: dict = {}  # a run that two questions ask for is counted under the first
    for question in questions.QUESTIONS:
        wanted = _cells(question, preset, False)
        configs = [config for config in dict.fromkeys(cell.config for cell in wanted) if config not in total]
        total |= {config: store.load(config) is not None for config in configs}
        table.add_row(
            question,
            str(len({(c.part, c.network, c.config.loss, c.config.activation, c.config.optimizer) for c in wanted})),
            *_progress(configs, total, store),
        )
    table.add_section()
    table.add_row("all", "", *_progress(list(total), total, store))
    console.print(table)


def _progress(configs: list, done: dict, store: Store) -> list[str]:
    left = [config for config in configs if not done[config]]
    hours = grid.estimate(left, store) / 3600
    return [str(len(configs)), str(len(configs) - len(left)), str(len(left)), str(sum(c.epochs for c in left)), f"{hours:.2f}"]


@app.command("table")
def show(question: str, preset: PresetName = "quick") -> None:
    """Print the original's numbers beside those of your runs: test accuracy in %, mean over seeds and 95 % interval."""
    wanted = _cells(question, preset, False)
    rows = tables.as_text(tables.beside_original(wanted, Store().find(wanted)))
    shown = Table(*rows.columns, title=f"{question}, preset {preset}")
    for row in rows.astype(str).itertuples(index=False):
        shown.add_row(*row)
    console.print(shown)


@app.command()
def publish(question: Question = None, preset: PresetName = "cpu", figures: Path = Path("figures")) -> None:
    """Add your runs of a preset to figures/QUESTION/runs.parquet, from which the book's pages are made; runs there already stay.

    A run that several questions ask for is published once, under the first of them.
    """
    home = publication.homes(presets.load(preset))
    found: dict[str, dict] = {}
    for _, record in Store().find(_cells(question, preset, False)):
        found.setdefault(home[record.config.hash], {})[record.config.hash] = record
    for name, records in found.items():
        path = figures / name / publication.FILE
        before = {record.config.hash: record for record in publication.published(path)}
        publication.publish((records | before).values(), path)
        console.print(f"{path}: {len(records | before)} runs, {len(records | before) - len(before)} of them new")


@app.command("verify")
def check(
    question: Question = None,
    rerun: Annotated[str | None, typer.Option(help="quick: retrain the quick runs and compare their numbers.")] = None,
    figures: Path = Path("figures"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes of one thread each, with --rerun.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ..., with --rerun.")] = "cpu",
    everything: Annotated[bool, typer.Option("--all", help="Print every entry, not only those that differ.")] = False,
) -> None:
    """Derive every published number and claim again, from the published runs or from retrained ones; exit 1 on a mismatch."""
    if rerun not in (None, "quick"):
        raise typer.BadParameter(f"rerun must be quick; got {rerun!r}")
    names = [question] if question else list(questions.QUESTIONS)
    wrong = 0
    for name in names:
        try:
            questions.find(name)
            with tempfile.TemporaryDirectory() as folder:
                rows = (
                    verify.rerun(name, figures, Path(folder), jobs=jobs, device=device) if rerun else verify.check(name, figures)
                )
        except (FileNotFoundError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        differing = rows[~rows["matches"]]
        wrong += len(differing)
        if everything or len(differing):
            console.print(_checked(name, rows if everything else differing))
        console.print(f"{name}: {len(rows) - len(differing)} of {len(rows)} match")
    raise typer.Exit(1 if wrong else 0)


def _checked(name: str, rows) -> Table:
    table = Table("id", "published", "derived", "tolerance", "verdict", "matches", title=name)
    for row in rows.to_dict("records"):
        numbers = (f"{row['value_published']:.4g}", f"{row['value_derived']:.4g}", f"{row['tolerance']:.4g}")
        verdict = (
            row["verdict_published"]
            if row["verdict_published"] == row["verdict_derived"]
            else f"{row['verdict_published']} / {row['verdict_derived']}"
        )
        table.add_row(row["claim"], *numbers, verdict, "yes" if row["matches"] else "NO")
    return table


def _cells(question: str | None, preset: str, unverified_data: bool) -> list[questions.Cell]:
    try:
        level = presets.load(preset, unverified_data=unverified_data)
        names = [question] if question else questions.QUESTIONS
        return [cell for name in names for cell in questions.cells(name, level)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _dask(address: str):
    try:
        from distributed import Client

        return Client(address).get_executor()
    except (ImportError, OSError, ValueError) as error:
        raise typer.BadParameter(f"scheduler {address}: {error}") from None
