"""The performance page: a stored report of the bench as tables and as a roofline."""

import json
import math
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown

from asym import presets, provenance, publication, tables
from asym.bench import machines, precision
from asym.bench.goals import MET, MISSED
from asym.numbered import Numbered
from asym.quantities import LEVEL
from asym.questions import QUESTIONS, cells

FILE, GPU_FILE, WITHDRAWN = "bench.json", "gpu.json", "withdrawn.csv"
NET = {"dense": "dense", "poggio": "conv", "poggio_untied": "conv, untied"}


def load(folder: Path) -> dict:
    """The stored report of `asym bench --json`."""
    return json.loads((folder / FILE).read_text())


def load_gpu(folder: Path) -> dict:
    """The stored report of `asym bench --device cuda --json`."""
    return json.loads((folder / GPU_FILE).read_text())


def gpu_facts(report: dict) -> dict[str, str | float]:
    """What the prose names: the machine, and a dense step's milliseconds in three forms."""
    dense = {(form["seeds"], form["recorded"]): form["ms_a_step"] for form in report["forms"] if form["net"] == "dense"}
    machine = report["machine"] | {"commit": report["machine"]["commit"][:8]}
    return machine | {"eager": dense[1, False], "recorded": dense[1, True], "stacked": dense[5, True]}


def facts(report: dict) -> dict[str, str | float]:
    """What the prose names: the machine, its ceilings, and how many goals are met."""
    verdicts = [row["verdict"] for row in report["goals"]]
    best = {
        kind: max((v for name, v in report["ceilings"].items() if name.startswith(kind)), default=math.nan)
        for kind in ("fp32", "bf16", "memory")
    }
    libraries = {f"by_{name}": report["ceilings"].get(f"fp32 product, {name}", math.nan) for name in ("torch", "oneDNN")}
    machine = report["machine"]
    named = {name: machine[name] for name in ("processor", "torch", "date", "matrix_products")}
    counted = {"met": verdicts.count(MET), "judged": verdicts.count(MET) + verdicts.count(MISSED), "threads": machine["threads"]}
    return named | counted | best | libraries | {"commit": machine["commit"][:8]}


def show_goals(report: dict) -> Numbered:
    """Every goal: the median over its rounds, the quartiles, the bound, the verdict."""
    rows = [
        {
            "goal": row["goal"],
            "measured": "" if row["median"] is None else f"{row['median']:.3g}",
            "quartiles": "" if row["median"] is None else f"{row['low']:.3g} to {row['high']:.3g}",
            "bound": f"{'at least' if row['at_least'] else 'at most'} {row['bound']:g}",
            "rounds": row["rounds"],
            "verdict": row["verdict"],
        }
        for row in report["goals"]
    ]
    return _table(rows, "goals", "The goals: the median of the ratios of one round, its quartiles, and the bound.")


def show_ceilings(report: dict) -> Numbered:
    """What the machine did at most while the bench ran."""
    rows = [
        {"ceiling": name, "measured": f"{value:.0f} {'GB/s' if name.startswith('memory') else 'Gflop/s'}"}
        for name, value in report["ceilings"].items()
    ]
    return _table(rows, "ceilings", "What this machine did at most.")


def show_forms(report: dict) -> Numbered:
    """The median seconds of everything that was timed."""
    rows = [
        {"form": name, "milliseconds": f"{1000 * form['seconds']:.2f}", "rounds": form["rounds"]}
        for name, form in report["forms"].items()
    ]
    return _table(rows, "forms", "The median time of everything that was timed.")


def roof(report: dict) -> pd.DataFrame:
    """A row a net: operations per byte moved, and Gflop/s reached."""
    rows = pd.DataFrame(report["roofline"])
    return rows.assign(intensity=rows["operations"] / rows["bytes"], gflops=rows["operations"] / rows["seconds"] / 1e9)


def origin(report: dict) -> HTML:
    """Where the roofline comes from."""
    known = facts(report)
    words = (f"{known['threads']} threads", known["processor"], known["date"], f"commit {known['commit']}")
    return provenance.origin("roofline", "performance", words, command="make bench")


def show_gpu(report: dict) -> Numbered:
    """Every form of a step on a GPU."""
    rows = [
        {
            "net": form["net"],
            "precision": form["precision"],
            "seeds in one program": form["seeds"],
            "step": "recorded" if form["recorded"] else "kernel by kernel",
            "ms a step and seed": f"{form['ms_a_step']:.2f}",
            "s to look at it after an epoch": f"{form['s_an_end']:.3f}",
            "GiB": f"{form['gib']:.2f}",
        }
        for form in report["forms"]
    ]
    caption = f"Feedback alignment at batch 500 on one {report['machine']['gpu']}: medians of three epochs of random images."
    return _table(rows, "gpu", caption)


def show_precision(figures: Path, preset: str = "cpu") -> Numbered | Markdown:
    """fp32 beside bf16 from the published runs, with the difference paired by seed."""
    compared = precision.compare(precision.wanted(presets.load(preset)), publication.library(figures))
    rows = [
        {
            "cell": f"{row['part']}, {row['network']}",
            "epochs": row["epochs"],
            "seeds": row["seeds"],
            "fp32": tables.points(row["fp32"], row["fp32_half"]),
            "bf16": tables.points(row["bf16"], row["bf16_half"]),
            "bf16 minus fp32": tables.points(row["difference"], row["difference_half"]),
            "diverged": row["diverged"],
            "times as fast": f"{row['speed']:.2f} ({row['slowest']:.2f} to {row['fastest']:.2f})" if row["speed"] > 0 else "",
            "made on": row["devices"],
        }
        for row in compared.to_dict("records")
    ]
    caption = (
        "Test accuracy in % of the same cells in fp32 and in bf16, means with 95 % t intervals; differences are paired by seed. "
        "Times as fast: the median over seeds, from the least to the most; what else the machine did at the time differs."
    )
    return _table(rows, "precision", caption) if rows else Markdown("Not run yet.")


def show_pairs(figures: Path) -> Numbered | Markdown:
    """bf16 minus fp32 in the published runs that have a twin, by kind of net and the epoch at which both are read."""
    found = precision.pairs(publication.library(figures).values())
    rows = []
    for (net, clipped, epoch), alike in found.groupby(["net", "clipped", "epoch"]) if len(found) else ():
        differences, steps = alike["bf16"] - alike["fp32"], alike["fp32"] - alike["before"]
        farthest = alike.loc[differences.abs().idxmax()]
        rows.append(
            {
                "net": f"{NET[net]}, clipped gradients" if clipped else NET[net],
                "epoch": epoch,
                "pairs": len(alike),
                "seeds": ", ".join(map(str, sorted(alike["seed"].unique()))),
                "mean": f"{differences.mean():+.2f}",
                "from": f"{differences.min():+.2f}",
                "to": f"{differences.max():+.2f}",
                "farthest apart": f"{farthest['rule']}, lr {farthest['lr']:g}, seed {farthest['seed']}",
                "standard deviation": tables.points(differences.std()),
                "of the last epoch's step": tables.points(steps.std()),
            }
        )
    caption = "Published runs that have a twin in the other precision: test accuracy in bf16 minus that in fp32, in points."
    return _table(rows, "pairs", caption) if rows else Markdown("Not run yet.")


def show_machines(figures: Path) -> Numbered | Markdown:
    """The published runs that were made again on another machine beside those, net by net."""
    asked = [cell for level in publication.LEVELS for question in QUESTIONS for cell in cells(question, presets.load(level))]
    again = publication.published(figures / precision.HOME / machines.FILE)
    rows = [
        {
            "cell": f"{row['part']}, {row['network']}",
            "loss": row["loss"],
            "epochs": row["epochs"],
            "seeds": row["seeds"],
            "published": tables.points(row["published"], row["published_half"]),
            "again": tables.points(row["again"], row["again_half"]),
            "difference": tables.points(row["difference"], row["difference_half"]),
            f"over the last {LEVEL} epochs": tables.points(row["level"], row["level_half"]),
            "one seed apart": tables.points(row["apart"]),
            "two seeds apart": tables.points(row["seeds_apart"]),
            "made on": row["devices"],
            "again on": row["other_devices"],
        }
        for row in machines.compare(asked, publication.library(figures), again).to_dict("records")
    ]
    caption = (
        "Test accuracy in % of runs made twice, on two machines: means with 95 % t intervals over seeds; the differences, paired "
        "by seed, at the last epoch and on average over the last ones; how far the two ends of a seed lie apart (root mean "
        "square), and how far those of two seeds where they were made first."
    )
    return _table(rows, "machines", caption) if rows else Markdown("No run has been made twice yet.")


def show_withdrawn(folder: Path) -> Numbered:
    """One of the withdrawn runs beside two from a processor: without the fault of the GPU's average, and with it put in."""
    rows = [
        {
            "epoch": row["epoch"],
            "made on": f"{row['made']} ({row['device']})",
            "training loss": f"{row['train_loss']:.3f}",
            "training accuracy (%)": f"{100 * row['train_accuracy']:.2f}",
            "test accuracy (%)": f"{100 * row['test_accuracy']:.2f}",
        }
        for row in pd.read_csv(folder / WITHDRAWN).to_dict("records")
    ]
    caption = "`PG0` of table 6, cross entropy, seed 0, the same start and batches: what was withdrawn, and why."
    return _table(rows, "withdrawn", caption)


def _table(rows: list[dict], name: str, caption: str) -> Numbered:
    return Numbered(pd.DataFrame(rows), f"tbl-performance-{name}", caption, name)
