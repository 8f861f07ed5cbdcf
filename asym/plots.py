"""The figures. Every function takes a tidy frame and returns a matplotlib figure; intervals are 95 % t intervals over seeds."""

import math

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asym.results import interval
from asym.rules import RULES

STYLE = {
    "svg.hashsalt": "asym",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "figure.dpi": 100,
    "font.size": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH = 7.0  # inches, a page's column
COLOURS = dict(zip(RULES, sns.color_palette("colorblind", 9).as_hex(), strict=True))
MARKERS = dict(zip(RULES, "osD^vPX*h", strict=True))
LOSS_NAMES = {"ce": "cross entropy", "hinge": "hinge loss"}
MEASURE_NAMES = {
    "weight_angle": "weight angle (°)",
    "delta_angle": "local delta angle (°)",
    "gradient_angle": "global gradient angle (°)",
    "feedback_ratio": "|F| / |W|",
    "sign_agreement": "sign agreement",
    "drift": "relative drift of W - F",
    "idle": "idle units",
}


def use_style() -> None:
    """Sets the one style that all figures share."""
    sns.set_theme(style="whitegrid", rc=STYLE)
    matplotlib.rcParams.update(STYLE)


def _summary(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and half-width of the interval over seeds."""
    found = rows.dropna(subset=value).groupby(by, sort=False)[value].apply(lambda v: pd.Series(interval(v), ["mean", "half"]))
    return found.unstack().reset_index() if len(found) else pd.DataFrame(columns=[*by, "mean", "half"])


def _band(ax: Axes, summary: pd.DataFrame, x: str, **style) -> None:
    summary = summary.sort_values(x)
    (line,) = ax.plot(summary[x], summary["mean"], **style)
    half = summary["half"].fillna(0)
    ax.fill_between(summary[x], summary["mean"] - half, summary["mean"] + half, color=line.get_color(), alpha=0.2, lw=0)


def learning_curves(runs: pd.DataFrame, printed: pd.DataFrame) -> Figure:
    """Test accuracy (%) against the epoch, a panel a loss and a line a network; the original's numbers as crosses.

    runs: results.frame; printed: tables.original of the same part.
    """
    runs = runs[runs["epoch"] > 0].assign(accuracy=100 * runs["test_accuracy"])
    losses = [loss for loss in LOSS_NAMES if loss in set(runs["loss"])]
    networks = list(dict.fromkeys(runs["network"]))
    colours = dict(zip(networks, sns.color_palette("colorblind", len(networks)), strict=True))
    figure, axes = plt.subplots(1, len(losses), layout="constrained", figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for ax, loss in zip(axes[0], losses, strict=True):
        for network in networks:
            mine = _summary(runs[(runs["loss"] == loss) & (runs["network"] == network)], ["epoch"], "accuracy")
            if len(mine):
                style = "--" if network.endswith("-U") else "-"
                _band(ax, mine, "epoch", color=colours[network], ls=style, lw=1.4, label=network)
            theirs = printed[(printed["loss"] == loss) & (printed["network"] == network)]
            ax.plot(theirs["epochs"], theirs["accuracy_percent"], "x", color=colours[network], ms=8, mew=2, clip_on=False)
        ax.set(title=LOSS_NAMES[loss], xlabel="epoch", ylabel="test accuracy (%)" if ax is axes[0][0] else "")
    handles, labels = axes[0][0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color="black", ls="", marker="x", ms=8, mew=2))
    figure.legend(handles, [*labels, "original"], loc="outside lower center", ncols=min(4, len(labels) + 1))
    return figure


def beside_original(table: pd.DataFrame) -> Figure:
    """Ours (dot and interval over seeds) beside the original's number (cross), a row a cell; table: tables.beside_original."""
    losses = [loss for loss in LOSS_NAMES if loss in set(table["loss"])]
    rows = list(dict.fromkeys(_row_name(entry) for entry in table.to_dict("records")))
    figure, axes = plt.subplots(
        1,
        len(losses),
        layout="constrained",
        figsize=(WIDTH, 0.9 + 0.27 * len(rows)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    figure.get_layout_engine().set(wspace=0.08)
    for ax, loss in zip(axes[0], losses, strict=True):
        for entry in table[table["loss"] == loss].to_dict("records"):
            y = rows.index(_row_name(entry))
            half = 0 if math.isnan(entry["half_width"]) else entry["half_width"]
            ax.errorbar(entry["ours"], y, xerr=half, fmt="o", color=COLOURS["bp"], ms=5, capsize=3)
            ax.plot(entry["original"], y, "x", color=COLOURS["kp"], ms=7, mew=2)
        ax.set(title=LOSS_NAMES[loss], xlabel="test accuracy (%)")
    axes[0][0].set_yticks(range(len(rows)), rows)
    axes[0][0].invert_yaxis()
    handles = [
        plt.Line2D([], [], color=COLOURS["bp"], marker="o", ls="-"),
        plt.Line2D([], [], color=COLOURS["kp"], marker="x", ms=7, mew=2, ls=""),
    ]
    figure.legend(handles, ["ours, 95 % interval over seeds", "original, one seed"], loc="outside lower center", ncols=2)
    return figure


def _row_name(entry: dict) -> str:
    return f"{entry['network']}, {entry['epochs']:.0f} epochs"


def alignment(layers: pd.DataFrame, measures: tuple[str, ...] = ("weight_angle", "delta_angle", "gradient_angle")) -> Figure:
    """Measures against the epoch: a row of panels a measure, a column a network, a line a layer; layers: results.layer_frame."""
    networks = list(dict.fromkeys(layers["network"]))
    depth = int(layers["layer"].max())
    colours = sns.color_palette("viridis", depth)
    size = (WIDTH, 0.8 + 1.9 * len(measures))
    figure, axes = plt.subplots(
        len(measures), len(networks), layout="constrained", figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for row, measure in zip(axes, measures, strict=True):
        for ax, network in zip(row, networks, strict=True):
            for layer in range(1, depth + 1):
                mine = layers[(layers["network"] == network) & (layers["layer"] == layer)]
                mine = mine if measure in ("gradient_angle", "idle") else mine[mine["layer_rule"] != "bp"]
                summary = _summary(mine, ["epoch"], measure)
                if len(summary):
                    _band(ax, summary, "epoch", color=colours[layer - 1], lw=1.4, label=f"layer {layer}")
            if measure.endswith("angle"):
                ax.axhline(90, color="0.4", lw=0.8, ls=":")
        row[0].set_ylabel(MEASURE_NAMES[measure].replace(" angle", "\nangle"))
    for ax, network in zip(axes[0], networks, strict=True):
        ax.set_title(network, fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    named = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend([named[k] for k in sorted(named)], sorted(named), loc="outside lower center", ncols=6)
    return figure


def against_depth(runs: pd.DataFrame) -> Figure:
    """Last test accuracy (%) against the number of layers, a line a rule; runs: results.frame of a depth sweep."""
    last = runs[runs["epoch"] == runs.groupby(["network", "seed"])["epoch"].transform("max")]
    last = last.assign(accuracy=100 * last["test_accuracy"])
    figure, ax = plt.subplots(layout="constrained", figsize=(WIDTH, 3.6))
    for rule in [rule for rule in RULES if rule in set(last["rule"])]:
        summary = _summary(last[last["rule"] == rule], ["layers"], "accuracy")
        _band(ax, summary, "layers", color=COLOURS[rule], marker=MARKERS[rule], ms=5, label=rule)
    ax.set(xlabel="weight layers", ylabel="test accuracy (%)", xticks=sorted(set(last["layers"])))
    figure.legend(loc="outside right upper")
    return figure
