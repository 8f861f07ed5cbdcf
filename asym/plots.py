"""The figures. Every function takes a tidy frame and returns a matplotlib figure; intervals are 95 % t intervals over seeds."""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import cycle

import matplotlib
import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asym.cells import LAYERS, kind, rules_of
from asym.frames import intervals
from asym.rules import RULES
from asym.soundness import BOUNDS as SHARES_AND_ANGLES
from asym.tables import COMPATIBLE, DIFFERS, telling

SHEET = "seaborn-v0_8-whitegrid"  # of matplotlib's own style sheets
STYLE = {  # on top of it
    "svg.hashsalt": "asym",  # the same figure gives the same bytes
    "svg.fonttype": "path",
    "figure.dpi": 100,
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it: the same figure whatever fonts a machine has
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "axes.linewidth": 1.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 1,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.title_fontsize": 12,
}
WIDTH = 7.0  # inches, a page's column
# Seaborn's palette for the colour blind, but for its yellow, which is hard to see on white; then three for rules that are added.
PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#56b4e9")
PALETTE += ("#332288", "#999933", "#661100")
SIGNS = "osD^vPX*h<>p"
COLOURS = dict(zip(RULES, cycle(PALETTE), strict=False))
MARKERS = dict(zip(RULES, cycle(SIGNS), strict=False))
SHADES = {1: 0.0, 2: -0.3, 3: -0.45, 4: -0.6}  # of a rule's colour by the layers that use it: mixed with so much black
# Of nets that only a name tells apart: a further shade (mixed with white above 0), and a dash.
VARIANTS = ((0.0, "-"), (0.3, "--"), (-0.4, ":"), (0.15, "-."))
NEUTRAL = "0.25"  # the colour of what has no rule
UNTESTED_STYLE = {"mfc": "white", "alpha": 0.45}  # of what ran too few seeds, or not the planned data and epochs
PANEL_NAMES = {"ce": "cross entropy", "hinge": "hinge loss", "sgd": "SGD", "adam": "Adam", "nesterov": "Nesterov momentum"}
BANDED = 3  # seeds that a band needs: the interval of two is 13 times as wide as they are apart, and hides all else
BOUNDS = SHARES_AND_ANGLES | {"accuracy": (0, 100)}  # in %
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
    matplotlib.style.use([SHEET, STYLE])


def shade(rule: str, layers: int, further: float = 0.0) -> tuple[float, float, float]:
    """The colour of a net by its rule and the number of layers that use it: the rule's own for one, darker for more."""
    amount = SHADES.get(layers, 0.0) + further
    paper = (1.0, 1.0, 1.0) if amount > 0 else (0.0, 0.0, 0.0)
    weight = min(abs(amount), 0.6)
    colour = matplotlib.colors.to_rgb(COLOURS[rule])
    return tuple((1 - weight) * own + weight * mixed for own, mixed in zip(colour, paper, strict=True))


def styles(rows: pd.DataFrame, line: str) -> dict[str, dict]:
    """Colour, dash and marker of each value of a column: of a rule its own, of a net those of its rule and its number of layers.

    rows: with rule, and unless the column is rule, asymmetric_layers.
    """
    if line == "rule":
        return {rule: {"color": COLOURS[rule], "ls": "-", "marker": MARKERS[rule]} for rule in dict.fromkeys(rows["rule"])}
    found, seen = {}, Counter()
    for entry in rows.drop_duplicates(line).to_dict("records"):
        kind = (entry["rule"], entry["asymmetric_layers"])
        further, dash = VARIANTS[seen[kind] % len(VARIANTS)]
        seen[kind] += 1
        found[entry[line]] = {"color": shade(*kind, further), "ls": dash, "marker": MARKERS[entry["rule"]]}
    return found


def _band(ax: Axes, summary: pd.DataFrame, x: str, **style) -> None:
    summary = summary.sort_values(x)
    (line,) = ax.plot(summary[x], summary["mean"], **style)
    half = summary["half"].where(summary["seeds"] >= BANDED)  # NaN is no band
    ax.fill_between(summary[x], summary["mean"] - half, summary["mean"] + half, color=line.get_color(), alpha=0.2, lw=0)


def _told(rows: pd.DataFrame, panel: str) -> dict[str, str]:
    """What each panel's nets are trained on and for how long, where the panels differ in it or some are trained for less long
    than planned."""
    if not {"dataset", "epochs"} <= set(rows) or panel == "dataset":
        return {}
    trained = {name: _trained(of_panel) for name, of_panel in rows.groupby(panel, sort=False)}
    short = "plan_epochs" in rows and (rows["epochs"] < rows["plan_epochs"]).any()
    return trained if short or len(set(trained.values())) > 1 else {}


def _trained(rows: pd.DataFrame) -> str:
    epochs = " to ".join(map(str, dict.fromkeys((rows["epochs"].min(), rows["epochs"].max()))))
    return f"{rows['dataset'].iloc[0]}, {epochs} epochs"


def _panels(names: list[str], height: float, told: dict[str, str] | None = None, **options) -> tuple[Figure, list[Axes]]:
    """A figure with a titled panel a name, two or three in a row; told: a second line of its title."""
    columns = min(2 if len(names) == 4 else 3, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    size = (WIDTH, height * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, layout="constrained", figsize=size, squeeze=False, **options)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(PANEL_NAMES.get(name, name) + (f"\n{told[name]}" if told else ""), fontsize=10)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    return figure, list(axes.flat[: len(names)])


def _epochs(ax: Axes, shortest: int, drawn: int | None = None) -> None:
    """Whole epochs on the x axis; a logarithmic one where what is drawn there reaches beyond ten times our shortest run.

    drawn: the last epoch of all panels that share the axis, which then begins at epoch 0.
    """
    shared = drawn is not None
    drawn = drawn if shared else max(max(line.get_xdata()) for line in ax.get_lines())
    if drawn <= 10 * shortest:
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
        return
    ticks = [epoch for epoch in ((0, 1, 10, 100) if shared else (1, 3, 10, 30, 100, 300)) if epoch <= drawn]
    if shared:  # epoch 0 has no logarithm
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ax.set_xlim(-0.2, 1.2 * drawn)
    else:
        ax.set_xscale("log")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()


def _within(axes: Iterable[Axes], measure: str, side: str = "y") -> None:
    """Ends the axes where the measure does: an interval over few seeds may reach beyond what it can be."""
    for ax in axes if measure in BOUNDS else ():
        (low, high), (bottom, top) = BOUNDS[measure], getattr(ax, f"get_{side}lim")()
        margin = 0.03 * (min(top, high) - max(bottom, low))
        ax.set(**{f"{side}lim": (max(bottom, low - margin), min(top, high + margin))})


def _legend(figure: Figure, axes: list[Axes], extra: tuple = ()) -> None:
    named = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    named |= dict(extra)
    if named:
        columns = max(1, min(len(named), 4, 72 // (6 + max(map(len, named)))))
        lines = math.ceil(len(named) / columns)
        figure.set_figheight(figure.get_figheight() + 0.22 * lines)
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)


def accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows with their test accuracy in %, as the column `accuracy`."""
    return runs.assign(accuracy=100 * runs["test_accuracy"])


def against(
    rows: pd.DataFrame,
    x: str,
    *,
    value: str = "accuracy",
    line: str = "rule",
    panel: str = "part",
    labels: tuple[str, str] = ("", "test accuracy (%)"),
    log: bool = False,
) -> Figure:
    """The mean of a column over seeds against another, with its interval: a line a value of one column, a panel a value of
    another; hollow where one seed stands alone; rows without an x are a level, dotted over the whole panel. labels: of the x and
    the y axis."""
    panels, lines = (list(dict.fromkeys(rows[name])) for name in (panel, line))
    placed = rows[rows[x].notna()]
    figure, axes = _panels(panels, 2.9, _told(placed, panel), sharey=True)
    style, alone = styles(rows, line), False
    for index, (ax, name) in enumerate(zip(axes, panels, strict=True)):
        for label in lines:
            mine = rows[(rows[panel] == name) & (rows[line] == label)]
            summary = intervals(mine, x, value)
            if len(summary):
                _band(ax, summary, x, **style[label], ms=5, lw=1.4, label=label)
                colour, marker = style[label]["color"], style[label]["marker"]
                ax.errorbar(summary[x], summary["mean"], summary["half"], fmt="none", ecolor=colour, lw=1)
                one = summary[summary["half"].isna()]
                ax.scatter(one[x], one["mean"], 25, marker=marker, facecolors="white", edgecolors=colour, zorder=3)
                alone = alone or len(one) > 0
            for level in intervals(mine[mine[x].isna()], line, value)["mean"]:
                ax.axhline(level, color=style[label]["color"], ls=":", lw=1.4)
        crowded = len(axes) not in (1, 2, 4) and index % 3 != 1  # of three side by side the middle one is labelled
        ax.set(xlabel="" if crowded else labels[0], xscale="log" if log else "linear")
        if log:
            values = sorted(placed.loc[placed[panel] == name, x].unique())
            ax.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
            ax.minorticks_off()
        else:
            ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes[0].set_ylabel(labels[1])
    _within(axes, value)
    _legend(figure, axes, (("one seed", _sample("one seed", color=NEUTRAL, marker="o", ls="", mfc="white")),) if alone else ())
    return figure


def learning_curves(runs: pd.DataFrame, printed: pd.DataFrame, panel: str = "loss") -> Figure:
    """Test accuracy (%) against the epoch, a panel a value of a column and a line a network; the original's numbers as crosses,
    at the plan's last epoch where it prints none. The epochs are logarithmic where those of some of our runs are few beside what
    is drawn.

    runs: frames.frame; printed: tables.original of the same part.
    """
    printed = printed.assign(epochs=printed["epochs"].fillna(runs["plan_epochs"].max()))
    runs = accuracies(runs[runs["epoch"] > 0])
    panels = list(dict.fromkeys(runs[panel]))
    networks = list(dict.fromkeys(runs["network"]))
    style = styles(runs, "network")
    figure, axes = _panels(panels, 3.0, _told(runs, panel), sharey=True)
    for ax, name in zip(axes, panels, strict=True):
        for network in networks:
            mine = intervals(runs[(runs[panel] == name) & (runs["network"] == network)], "epoch", "accuracy")
            if len(mine):
                colour, dash = (style[network][name] for name in ("color", "ls"))
                _band(ax, mine, "epoch", color=colour, ls=dash, lw=1.4, label=network)
            theirs = printed[(printed[panel] == name) & (printed["network"] == network)]
            if len(theirs):
                cross = {"color": style[network]["color"], "ms": 8, "mew": 2, "clip_on": False}
                ax.plot(theirs["epochs"], theirs["accuracy_percent"], "x", **cross)
        ax.set(xlabel="epoch", ylabel="test accuracy (%)" if ax is axes[0] else "")
        _epochs(ax, runs.loc[runs[panel] == name, "epochs"].min())
    _within(axes, "accuracy")
    cross = plt.Line2D([], [], color="black", ls="", marker="x", ms=8, mew=2)
    _legend(figure, axes, (("original", cross),))
    return figure


def train_and_test(runs: pd.DataFrame, panel: str = "activation") -> Figure:
    """Training (dashed) and test accuracy (%) against the epoch, a panel a value of a column and a colour a network."""
    runs = accuracies(runs[runs["epoch"] > 0]).assign(training=100 * runs["train_accuracy"])
    panels, networks = list(dict.fromkeys(runs[panel])), list(dict.fromkeys(runs["network"]))
    style = styles(runs, "network")
    figure, axes = _panels(panels, 3.0, _told(runs, panel), sharey=True)
    for ax, name in zip(axes, panels, strict=True):
        for network in networks:
            mine = runs[(runs[panel] == name) & (runs["network"] == network)]
            for value, dash in (("accuracy", "-"), ("training", "--")):
                summary = intervals(mine, "epoch", value)
                if len(summary):
                    label = network if value == "accuracy" else None
                    _band(ax, summary, "epoch", color=style[network]["color"], ls=dash, lw=1.4, label=label)
        ax.set(xlabel="epoch", ylabel="accuracy (%)" if ax is axes[0] else "")
        _epochs(ax, runs.loc[runs[panel] == name, "epochs"].min())
    _within(axes, "accuracy")
    _legend(figure, axes, (("training", plt.Line2D([], [], color="black", ls="--")),))
    return figure


def beside_original(table: pd.DataFrame, panel: str = "loss") -> Figure:
    """Ours (dot and interval over seeds) beside the original's number (cross), a row a cell and a panel a value of a column; of
    other data, fewer epochs or fewer seeds the dot is hollow and pale.

    table: tables.beside_original.
    """
    panels, rows = list(dict.fromkeys(table[panel])), _row_names(table, panel)
    names = list(dict.fromkeys(rows))
    figure, axes = _panels(panels, 0.4 + 0.27 * len(names), sharex=True, sharey=True)
    figure.get_layout_engine().set(wspace=0.08)
    for ax, name in zip(axes, panels, strict=True):
        for entry, row in zip(table.to_dict("records"), rows, strict=True):
            if entry[panel] != name:
                continue
            as_planned = entry["verdict"] in (COMPATIBLE, DIFFERS)
            _dot(ax, entry["ours"], names.index(row), entry["half_width"], as_planned, color=_of_name(entry["network"]))
            ax.plot(entry["original"], names.index(row), "x", color=NEUTRAL, ms=7, mew=2)
        ax.set(xlabel="test accuracy (%)")
    _within(axes, "accuracy", "x")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    _beside_legend(figure, "original, one seed", not table["verdict"].isin((COMPATIBLE, DIFFERS)).all())
    return figure


def _dot(ax: Axes, x: float, y: int, half: float, as_planned: bool, *, ms: int = 5, capsize: int = 3, **style) -> None:
    """A mean with the bars of its interval, if it tells anything; hollow and pale unless it ran as planned."""
    bars = None if math.isnan(telling(half)) else half
    ax.errorbar(x, y, xerr=bars, fmt="o", ms=ms, capsize=capsize, **style, **({} if as_planned else UNTESTED_STYLE))


def _of_name(network: str) -> tuple[float, float, float]:
    """The colour of a net in the original's notation."""
    rules = rules_of(network, LAYERS[kind(network)])
    return shade(rules[-1], sum(rule != "bp" for rule in rules))


def _row_names(table: pd.DataFrame, panel: str) -> list[str]:
    """Of each row; with its table where a row of another one has the same."""
    names = [_row_name(entry, panel) for entry in table.to_dict("records")]
    shared = table["part"].groupby(names).transform("nunique") > 1
    return [f"{name} ({part})" if several else name for name, part, several in zip(names, table["part"], shared, strict=True)]


def _row_name(entry: dict, panel: str) -> str:
    epochs = "" if math.isnan(entry["epochs"]) else f", {entry['epochs']:.0f} epochs"
    activation = "" if panel == "activation" or entry["activation"] == "relu" else f", {entry['activation']}"
    optimizer = "" if panel == "optimizer" or entry["optimizer"] == "adam" else f", {entry['optimizer']}"
    return f"{entry['network']}{activation}{optimizer}{epochs}"


def beside_published(judged: pd.DataFrame) -> Figure:
    """Published accuracies (%) as crosses, one a row, ours as dots with their intervals. judged: rows of claims.judge."""
    figure, ax = plt.subplots(layout="constrained", figsize=(WIDTH, 0.32 * len(judged) + 0.6))
    rows = range(len(judged))
    for y, entry in enumerate(judged.to_dict("records")):
        _dot(ax, entry["value"], y, entry["half_width"], entry["as_planned"], color=NEUTRAL)
    ax.plot(judged["original"], rows, "x", color=NEUTRAL, ms=7, mew=2)
    ax.set_yticks(rows, judged["claim"])
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy (%)")
    _beside_legend(figure, "published", not judged["as_planned"].all())
    return figure


def _beside_legend(figure: Figure, theirs: str, untested: bool, ours: str = "ours, 95 % interval over seeds") -> None:
    dot = {"color": NEUTRAL, "marker": "o", "ls": "-"}
    hollow = [_sample("the same, not yet tested as planned", **dot, **UNTESTED_STYLE)] if untested else []
    cross = [_sample(theirs, color=NEUTRAL, marker="x", ms=7, mew=2, ls="")] if theirs else []
    _legend(figure, [], tuple((sample.get_label(), sample) for sample in (_sample(ours, **dot), *hollow, *cross)))


def nothing() -> Figure:
    """What stands for a figure whose runs are not there."""
    figure = plt.figure(figsize=(WIDTH, 1))
    figure.text(0.5, 0.5, "not run yet", ha="center", va="center", color="0.4")
    return figure


def forest(judged: pd.DataFrame, names: list[str]) -> Figure:
    """Differences in points with their 95 % intervals, a row each (names), the original's as crosses; judged: claims.judge.

    What is not yet tested, for want of seeds, epochs or the original's data, is drawn hollow and pale.
    """
    figure, ax = plt.subplots(layout="constrained", figsize=(WIDTH, 0.9 + 0.2 * len(judged)))
    for y, entry in enumerate(judged.to_dict("records")):
        _dot(ax, entry["value"], y, entry["half_width"], entry["as_planned"], color=NEUTRAL, ms=4, capsize=2)
        ax.plot(entry["original"], y, "x", color=NEUTRAL, ms=6, mew=1.6)
    theirs = "original, one seed" if judged["original"].notna().any() else ""
    ax.axvline(0, color="0.3", lw=1)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="test accuracy minus that of backpropagation (points)", ylim=(len(names) - 0.5, -0.5))
    _beside_legend(figure, theirs, not judged["as_planned"].all(), "ours, paired by seed, 95 % interval")
    return figure


def alignment(layers: pd.DataFrame, measures: tuple[str, ...] = ("weight_angle", "delta_angle", "gradient_angle")) -> Figure:
    """Measures against the epoch: a row of panels a measure, a column a network, a line a layer; layers: frames.layer_frame."""
    networks = list(dict.fromkeys(layers["network"]))
    depth = int(layers["layer"].max())
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, depth + 2)[1:-1])
    size = (WIDTH, 0.8 + 1.9 * len(measures))
    figure, axes = plt.subplots(
        len(measures), len(networks), layout="constrained", figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for row, measure in zip(axes, measures, strict=True):
        for ax, network in zip(row, networks, strict=True):
            for layer in range(1, depth + 1):
                mine = layers[(layers["network"] == network) & (layers["layer"] == layer)]
                mine = mine if measure in ("gradient_angle", "idle") else mine[mine["layer_rule"] != "bp"]
                summary = intervals(mine, "epoch", measure)
                if len(summary):
                    _band(ax, summary, "epoch", color=colours[layer - 1], lw=1.4, label=f"layer {layer}")
            if measure.endswith("angle"):
                ax.axhline(90, color="0.4", lw=0.8, ls=":")
        row[0].set_ylabel(MEASURE_NAMES[measure].replace(" angle", "\nangle"))
        _within(row, measure)
    for ax, network in zip(axes[0], networks, strict=True):
        ax.set_title(network, fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
        _epochs(ax, layers["epochs"].min(), layers["epoch"].max())
    samples = [_sample(f"layer {index + 1}", color=colour, lw=1.4) for index, colour in enumerate(colours)]
    _legend(figure, [], tuple((sample.get_label(), sample) for sample in samples))
    return figure


def roofline(nets: pd.DataFrame, ceilings: dict[str, float]) -> Figure:
    """Gflop/s against operations per byte, on logarithmic axes: what the memory and the processor allow, and each net's step.

    nets: columns net, intensity, gflops; ceilings: Gflop/s of "fp32", and GB/s of "memory".
    """
    figure, ax = plt.subplots(layout="constrained", figsize=(WIDTH, 3.4))
    left, right = nets["intensity"].min() / 8, nets["intensity"].max() * 4
    ridge = ceilings["fp32"] / ceilings["memory"]
    ax.plot([left, ridge, right], [left * ceilings["memory"], *[ceilings["fp32"]] * 2], color="0.3", lw=1.4, label="roof, fp32")
    for entry, marker in zip(nets.to_dict("records"), MARKERS.values(), strict=False):
        style = {"color": NEUTRAL, "marker": marker, "ms": 8, "ls": ""}
        ax.plot(entry["intensity"], entry["gflops"], label=entry["net"].replace("_", ", "), **style)
    ax.set(xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="Gflop/s", xlim=(left, right))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    _legend(figure, [ax])
    return figure


def key(rules: pd.DataFrame) -> Figure:
    """What colours, shades and marks mean in all figures. rules: a row a rule, with its colour and marker."""
    figure, axes = plt.subplots(1, 3, layout="constrained", figsize=(WIDTH, 3.2))
    of_rules = [_sample(entry["rule"], color=entry["colour"], marker=entry["marker"]) for entry in rules.to_dict("records")]
    shaded = [("fa", count) for count in SHADES] + [("shared_update", count) for count in SHADES]
    of_counts = [_sample(f"{rule}, {count} layer{'s' * (count > 1)}", color=shade(rule, count), lw=3) for rule, count in shaded]
    for ax, title, handles in zip(
        axes, ("rules", "how many layers use it", "marks"), (of_rules, of_counts, _marks()), strict=True
    ):
        ax.set_axis_off()
        ax.legend(handles=handles, title=title, loc="upper left", alignment="left", labelspacing=0.7)
    return figure


def _sample(label: str, **style) -> plt.Line2D:
    return plt.Line2D([], [], label=label, **style)


def _marks() -> list:
    line, dot = {"color": NEUTRAL}, {"color": NEUTRAL, "marker": "o"}
    return [
        _sample("mean over seeds", **line),
        matplotlib.patches.Patch(color=NEUTRAL, alpha=0.2, label="95 % interval"),
        _sample("training, or another net\nof the same rule", ls="--", **line),
        _sample("ours and its interval", **dot),
        _sample("not yet tested as planned", **UNTESTED_STYLE, **dot),
        _sample("the original, or\nanother's figure", marker="x", ms=7, mew=2, ls="", **line),
        _sample("90°: no better than\na random direction", ls=":", lw=0.8, **line),
    ]
