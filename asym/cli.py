"""The command line: asym run, asym status, asym table, asym publish."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from asym import grid, presets, questions, results
from asym.data import DataError
from asym.results import Store, published
from asym.tables import beside_original

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
    table = Table("question", "runs", "done", "left", "epochs left", "minutes left, one worker", title=f"preset {preset}")
    for question in questions.QUESTIONS:
        configs = list(dict.fromkeys(cell.config for cell in _cells(question, preset, False)))
        left = [config for config in configs if store.load(config) is None]
        minutes = grid.estimate(left, store) / 60
        numbers = (len(configs), len(configs) - len(left), len(left), sum(c.epochs for c in left), f"{minutes:.0f}")
        table.add_row(question, *map(str, numbers))
    console.print(table)


@app.command("table")
def show(question: str, preset: PresetName = "quick") -> None:
    """Print the original's numbers beside those of your runs: test accuracy in %, mean over seeds and 95 % interval."""
    wanted = _cells(question, preset, False)
    found = list(Store().find(wanted))
    shown = Table(
        "table",
        "network",
        "loss",
        "epochs",
        "original",
        "ours",
        "seeds",
        "diverged",
        title=f"{question}, preset {preset}",
    )
    for row in beside_original(wanted, found).to_dict("records"):
        ours = f"{row['ours']:.2f} ± {row['half_width']:.2f}" if row["seeds"] else ""
        epochs = f"{row['epochs_run']} of {row['epochs']:.0f}" if row["epochs_run"] < row["epochs"] else f"{row['epochs_run']}"
        numbers = (f"{row['original']:.2f}", ours, str(row["seeds"]), str(row["diverged"]))
        shown.add_row(row["part"].removeprefix("table "), row["network"], row["loss"], epochs, *numbers)
    console.print(shown)


@app.command()
def publish(question: str, preset: PresetName = "cpu", figures: Path = Path("figures")) -> None:
    """Add your runs of a preset to figures/QUESTION/runs.parquet, from which the book's page is made; runs there already stay."""
    path = figures / question / "runs.parquet"
    records = {record.config.hash: record for _, record in Store().find(_cells(question, preset, False))}
    before = {record.config.hash: record for record in published(path)}
    results.publish((records | before).values(), path)
    console.print(f"{path}: {len(records | before)} runs, {len(records | before) - len(before)} of them new")


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
