"""The command line: asym run, status, table, merge, publish, stale, verify, bench, memory, precision."""

import dataclasses
import json
import logging
import math
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Column, Table
from tqdm import tqdm
from typer.core import TyperGroup

from asym import bench, cost, data, gemm, grid, kernels, presets, publication, questions, tables, verify, versions
from asym.atomic import whole
from asym.bench import gpu, machines, precision
from asym.cells import Cell
from asym.checks import expect, expect_device
from asym.config import Config
from asym.data import DataError
from asym.results import Record, Store, first_difference


class Commands(TyperGroup):
    """What a command is given wrongly (exit 2), and a file that it cannot read or write (exit 1), is told without a traceback.

    A ValueError of a library is a defect of ours, and keeps its traceback.
    """

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (DataError, ValueError, FileNotFoundError, NotADirectoryError) as error:
            raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            if type(error) is ValueError and PACKAGE not in raised_in.parents:
                raise
            raise typer.BadParameter(str(error), ctx) from None
        except OSError as error:
            console.print(str(error), soft_wrap=True)
            raise typer.Exit(1) from None


app = typer.Typer(cls=Commands, help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
PACKAGE = Path(__file__).parent
WIDE = 10_000  # columns of what is no terminal: nothing is cut or broken there
console = Console(width=None if sys.stdout.isatty() else WIDE, markup=False, emoji=False)

Question = Annotated[str | None, typer.Argument(help=f"One of {', '.join(questions.QUESTIONS)}; all without it.")]
PresetName = Annotated[str, typer.Option("--preset", help=f"One of {', '.join(presets.PRESETS)}.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="The cells of that part, network or field of the configuration (seed=0, loss=hinge). Given again: of one name, any "
        "of the values; of different names, all.",
    ),
]
Unverified = Annotated[bool, typer.Option("--unverified-data", help="Take data files whose checksum is not the published one.")]


@app.command()
def run(
    question: Question = None,
    preset: PresetName = "quick",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes of one thread each: the cores by default, on a GPU one. Runs that a scheduler is given at once: 256.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds; runs not finished by then are left for next time.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler's address, tcp://host:port.")] = None,
    stack: Annotated[int, typer.Option(min=1, help="Seeds of a run trained in one program: for a GPU.")] = 1,
    only: Only = None,
    unverified_data: Unverified = False,
) -> None:
    """Run what is missing. Finished runs are kept in $ASYM_RUNS (runs/ by default); the same command goes on after a stop."""
    wanted, store = _only(_cells(question, preset, unverified_data), only or ()), Store()
    configs = _seeds_outermost([cell.config for cell in wanted])
    try:
        with nullcontext() if scheduler is None else _dask(scheduler) as executor:
            outcome = grid.run(configs, store, jobs=jobs, device=device, budget=budget, executor=executor, stack=stack)
    except KeyboardInterrupt:
        console.print("stopped; finished runs are stored, the same command goes on")
        raise typer.Exit(130) from None
    except (OSError, BrokenExecutor) as error:  # a full disk, a scheduler that has gone
        console.print(f"{error}; finished runs are stored, the same command goes on")
        raise typer.Exit(1) from None
    except RuntimeError as error:
        if not isinstance(error.__cause__, DataError):
            raise
        console.print(str(error))  # a worker elsewhere that has no data
        raise typer.Exit(1) from None
    console.print(f"{outcome.ran} runs made, {outcome.done_before} there before, {outcome.left} left")
    raise typer.Exit(1 if outcome.left and budget is None else 0)


@app.command()
def status(
    question: Question = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's questions, or a question's parts; else all.")] = None,
    figures: Path = Path("figures"),
) -> None:
    """What is done and left of each preset, of each question at one, or of each part of a question, and about how many hours of a
    worker that takes: on every device of which there are runs, yours or published ("?" where they do not tell), and on this
    machine's processor."""
    store, (kind, rows) = Store(), _rows(question, preset)
    records = [*store.records(), *publication.library(figures).values()]
    devices = list(dict.fromkeys([gemm.processor(), *(record.provenance["device"] for record in records)]))
    hours = [f"hours left, {device}" for device in devices]
    table = _table(kind, "cells", "runs", "done", "left", "epochs left", *hours)
    for name, wanted in rows.items():
        configs = list(dict.fromkeys(cell.config for cell in wanted))  # each run once
        left = [config for config in configs if store.load(config) is None]
        cells = len({dataclasses.replace(config, seed=0) for config in configs})
        numbers = (cells, len(configs), len(configs) - len(left), len(left), sum(config.epochs for config in left))
        table.add_row(name, *map(str, numbers), *(_hours(left, records, device) for device in devices))
    console.print(table, f"untied convolution: {kernels.untied()}", sep="\n")
    if not figures.is_dir():
        console.print(f"no folder {figures} of published runs is here: the hours are told by your runs alone", soft_wrap=True)


def _rows(question: str | None, preset: str | None) -> tuple[str, dict[str, list[Cell]]]:
    """What status counts: what each row stands for, and its cells."""
    if preset and question:
        return "part", publication.by_part(_cells(question, preset, False))
    if preset:
        return "question", {name: _cells(name, preset, False) for name in questions.QUESTIONS}
    return "preset", {name: _cells(question, name, False) for name in presets.PRESETS}


def _hours(left: list[Config], records: list[Record], device: str) -> str:
    theirs = [record for record in records if record.provenance["device"] == device]
    hours = grid.estimate(left, theirs, grid.RATE if device == gemm.processor() else None) / 3600
    return "?" if math.isnan(hours) else f"{hours:.1f}"


@app.command("table")
def show(question: str, preset: PresetName = "quick") -> None:
    """Print the original's numbers beside those of your runs: test accuracy in %, mean over seeds and 95 % interval."""
    wanted = _cells(question, preset, False)
    rows = tables.as_text(tables.beside_original(wanted, Store().find(wanted)))
    if not len(rows):
        console.print(f"the original prints no table for {question}; asym status tells which of its runs there are")
        return
    shown = _table(*rows.columns, title=f"{question}, preset {preset}")
    for row in rows.astype(str).itertuples(index=False):
        shown.add_row(*row)
    console.print(shown)


@app.command()
def publish(question: Question = None, preset: PresetName = "cpu", figures: Path = Path("figures")) -> None:
    """Add your runs of a preset to figures/QUESTION/runs.parquet, from which the book's pages are made; a run there already
    stays, unless it is stale and yours is not.

    A run that several questions ask for is published once, under that of its table, else under the first of them; the runs of
    asym precision stay where that publishes them.
    """
    home = publication.homes(presets.load(preset))
    home |= {record.config.hash: precision.HOME for record in publication.published(figures / precision.HOME / publication.FILE)}
    found: dict[str, list[Record]] = {}
    for _, record in Store().find(_cells(question, preset, False)):
        found.setdefault(home[record.config.hash], []).append(record)
    if not found:
        raise typer.BadParameter(f"no run of preset {preset} is here: asym run makes them", param_hint="--preset")
    expect("figures", str(figures), figures.is_dir(), "a folder: the book's, or one made for this")
    if found.pop(precision.HOME, None) and not found:
        console.print(f"{figures / precision.HOME / publication.FILE}: has all of them already, by asym precision")
    for name, records in found.items():
        path = figures / name / publication.FILE
        total, new = publication.add(records, path)
        console.print(f"{path}: {total} runs, {new} of them new")


@app.command()
def merge(
    folder: Path,
    again: Annotated[
        Path | None,
        typer.Option(help="figures: add the runs that differ, where another device made them, to those of the performance page."),
    ] = None,
) -> None:
    """Take over the runs that yours lacks: of another machine's folder of records, or the published ones (asym merge figures).
    Exit 1 if a file of it is no sound record, or if there is none."""
    merged = publication.merge(folder, Store())
    for ours, theirs in merged.differ:
        ends = (f"{100 * record.epochs[-1]['test_accuracy']:.2f} % on {record.provenance['device']}" for record in (ours, theirs))
        told = "{}: yours stays, {}; theirs {}".format(ours.config.hash, *ends)
        console.print(f"{told} ({first_difference(ours, theirs)})", soft_wrap=True)
    for path, reason in merged.refused.items():
        name = str(path).encode(errors="backslashreplace").decode()  # a name need not be text
        console.print(f"{name}: refused, {reason}", soft_wrap=True)
    counts = (
        f"{len(merged.new)} runs new, {len(merged.alike)} alike, {len(merged.differ)} differ, {len(merged.refused)} files refused"
    )
    console.print(counts)
    if again:
        path = again / precision.HOME / machines.FILE
        console.print("{}: {} runs, {} of them new".format(path, *publication.add(machines.made_elsewhere(merged), path)))
    found = bool(merged.new or merged.alike or merged.differ)
    if not found and not merged.refused:
        console.print(f"{folder} holds no records: the folder is that of another's runs, or of published ones")
    raise typer.Exit(0 if found and not merged.refused else 1)


@app.command()
def stale(figures: Path = Path("figures")) -> None:
    """Name the pages whose published runs the present code, or the present questions and presets, would not make again; exit 1 if
    there is one."""
    expect("figures", str(figures), figures.is_dir(), "a folder")
    library, found, pages = publication.library(figures), 0, [*questions.QUESTIONS, precision.HOME]
    for name in pages:
        if name in questions.QUESTIONS:
            runs, unasked = [record for _, record in publication.shown(name, library).found], publication.unasked(name, figures)
        else:
            files = (figures / name / file for file in (publication.FILE, machines.FILE))
            runs, unasked = [record for file in files for record in publication.published(file)], []
        old = versions.stale(runs)
        found += bool(old or unasked)
        if old:
            made = ", ".join(sorted({versions.of(record)[:16] for record in old}))
            console.print(f"{name}: stale, {len(old)} of its runs were made by other code ({made})", soft_wrap=True)
        if unasked:
            console.print(f"{name}: stale, {len(unasked)} of its runs are of configs that no preset asks for", soft_wrap=True)
    console.print(f"{found} of {len(pages)} pages are stale")
    raise typer.Exit(1 if found else 0)


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
    expect("figures", str(figures), figures.is_dir(), "a folder")
    names = [question] if question else list(questions.QUESTIONS)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:  # one for all: questions share runs
        for name in names:
            questions.find(name)
            rows = verify.rerun(name, figures, Path(folder), jobs=jobs, device=device) if rerun else verify.check(name, figures)
            differing = rows[~rows["matches"]]
            wrong += len(differing)
            if everything or len(differing):
                console.print(_checked(name, rows if everything else differing))
            console.print(f"{name}: {len(rows) - len(differing)} of {len(rows)} match")
    raise typer.Exit(1 if wrong else 0)


@app.command("bench")
def timings(
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute: fewer rounds, without the slowest peers.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, writable=True, help="Where to write all that was measured.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu; or cuda, cuda:1 ...: what a step costs there, in its forms.")] = "cpu",
) -> None:
    """Time the layers beside stock torch, BioTorch and JAX (where installed) and beside what this machine can do at most; exit 1
    on a missed goal."""
    if json_file:
        _expect_writable(json_file.parent)
    if device != "cpu":
        return _on_gpu(device, json_file)
    report = bench.measure(quick)
    _write(report, json_file)
    table = _table("goal", "median", "quartiles", "bound", "rounds", "verdict", title=report["machine"]["processor"])
    for row in report["goals"]:
        found = ("", "") if row["median"] is None else (f"{row['median']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}")
        bound = f"{'>=' if row['at_least'] else '<='} {row['bound']:g}"
        table.add_row(row["goal"], *found, bound, str(row["rounds"]), row["verdict"])
    console.print(table)
    for name, ceiling in report["ceilings"].items():
        console.print(f"{name}: {ceiling:.0f} {'GB/s' if 'memory' in name else 'Gflop/s'}")
    for form, problem in report["problems"].items():
        console.print(f"{form}: not timed, {problem}")
    judged = Counter(row["verdict"] for row in report["goals"])
    console.print(f"{judged['met']} of {judged['met'] + judged['missed']} goals met, {judged['not measured']} not measured")
    raise typer.Exit(1 if judged["missed"] else 0)


def _write(report: dict, json_file: Path | None) -> None:
    if json_file:
        with whole(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def _on_gpu(device: str, json_file: Path | None) -> None:
    expect_device(device)
    expect("device", device, device.startswith("cuda"), "cpu or a CUDA device")
    report = gpu.report(device)
    _write(report, json_file)
    console.print(report["machine"])
    console.print(pd.DataFrame(report["forms"]).to_string(index=False))


@app.command("memory")
def memories(figures: Path = Path("figures"), unverified_data: Unverified = False) -> None:
    """Train one run of each kind for an epoch and store the memory that it took in figures/memory.csv, for the pages' tables."""
    plan = [cell.config for name in presets.PRESETS for cell in _cells(None, name, unverified_data)]
    figures.mkdir(parents=True, exist_ok=True)
    _expect_writable(figures)
    for name, unverified in {(config.dataset, config.unverified_data) for config in plan}:
        data.load(name, unverified=unverified)  # what is missing is told before the first measurement
    rows = [cost.row(config, cost.measure(config)) for config in tqdm(cost.kinds(plan), unit="run", disable=None)]
    with whole(figures / cost.FILE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    console.print(pd.DataFrame(rows).to_string(index=False))


@app.command("precision")
def precisions(
    preset: PresetName = "quick",
    figures: Path = Path("figures"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes of one thread each; the cores by default.")] = None,
    unverified_data: Unverified = False,
) -> None:
    """Train what neither you nor the published runs have of three cells in fp32 and in bf16, publish the bf16 runs, and print
    where both end: test accuracy in %."""
    compared = precision.run(presets.load(preset, unverified_data=unverified_data), figures, Store(), jobs=jobs)
    table = _table("cell", "seeds", "fp32", "bf16", "bf16 - fp32", title=f"preset {preset}")
    for row in compared.to_dict("records"):
        numbers = (tables.points(row[name], row[f"{name}_half"]) for name in ("fp32", "bf16", "difference"))
        table.add_row(f"{row['part']}, {row['network']}", str(row["seeds"]), *numbers)
    console.print(table)


def _table(*names: str, title: str | None = None) -> Table:
    """An empty table whose columns a narrow terminal breaks over lines, and does not cut."""
    return Table(*(Column(name, overflow="fold") for name in names), title=title)


def _checked(name: str, rows) -> Table:
    table = _table("id", "published", "derived", "tolerance", "verdict", "differs", title=name)
    for row in rows.to_dict("records"):
        quick = " (quick)" if row.get("register") == verify.REGISTERS["quick"] else ""  # the same id is in both registers
        numbers = (f"{row['value_published']:.4g}", f"{row['value_derived']:.4g}", f"{row['tolerance']:.2g}")
        verdict = (
            row["verdict_published"]
            if row["verdict_published"] == row["verdict_derived"]
            else f"{row['verdict_published']} / {row['verdict_derived']}"
        )
        table.add_row(row["claim"] + quick, *numbers, verdict, row["differs"])
    return table


def _seeds_outermost(configs: list[Config]) -> list[Config]:
    """Of several questions too: a stopped grid is all of them with fewer seeds."""
    seeds = list(dict.fromkeys(config.seed for config in configs))
    return sorted(configs, key=lambda config: seeds.index(config.seed))


def _cells(question: str | None, preset: str, unverified_data: bool) -> list[Cell]:
    level = presets.load(preset, unverified_data=unverified_data)
    names = [question] if question else questions.QUESTIONS
    return [cell for name in names for cell in questions.cells(name, level)]


def _only(cells: list[Cell], given: Iterable[str]) -> list[Cell]:
    """Those of the cells that have, of every name that is given, one of its values."""
    names = ("part", "network", *Config.__dataclass_fields__)
    wanted: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        expect("only", text, bool(equals) and name in names, f"NAME=VALUE, with a name of {', '.join(names)}")
        wanted.setdefault(name, []).append(value)
    for name, values in wanted.items():
        there = dict.fromkeys(_told(cell, name) for cell in cells)
        for value in values:
            expect("only", f"{name}={value}", value in there, f"{name}= one of {'; '.join(there)}")
        cells = [cell for cell in cells if _told(cell, name) in values]
    return cells


def _told(cell: Cell, name: str) -> str:
    return str(getattr(cell if name in ("part", "network") else cell.config, name))


def _expect_writable(folder: Path) -> None:
    """OSError, which names the folder, unless files can be written there: told before what takes long."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from None


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    expect("scheduler", address, address != "", "a Dask scheduler's address, tcp://host:port")
    try:
        from distributed import Client

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # the command tells of one that has gone
        client = Client(address)
    except (ImportError, OSError, ValueError) as error:
        raise typer.BadParameter(f"scheduler {address}: {error}") from None
    with client:
        yield client.get_executor()
