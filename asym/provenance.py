"""Where what a page shows comes from, as words: the runs behind a page, and those behind one figure."""

import re
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from types import MappingProxyType
from typing import Any

import pandas as pd
from IPython.display import HTML

from asym._copies import UNLISTED
from asym.cells import Cell
from asym.frames import RUN, doubt, names
from asym.publication import Shown
from asym.questions.dense import LOSS_WORDS
from asym.results import Record

Found = list[tuple[Cell, Record]]


def summary(shown: Shown, plan: Iterable[Cell]) -> dict[str, str]:
    """Of a page's runs: how many of which preset and of which nets of the plan, data, seeds, device, hours, torch and commit."""
    records = distinct(shown.found)
    known = [record.provenance for record in records]
    return {
        "runs": "; ".join(_coverage(shown, list(plan))),
        "data": ", ".join(sorted({_data(record) for record in records})),
        "seeds": _seeds(records),
        "device": _devices(records),
        "hours of training": f"{sum(p['seconds'] for p in known) / 3600:.1f}",
        "torch": ", ".join(sorted({p["torch"] for p in known})),
        "commit": ", ".join(sorted({p["commit"][:8] + p["commit"][40:] for p in known})),
    }


def behind(rows: pd.DataFrame, shown: Shown) -> Found:
    """The shown runs that a figure's rows are of, by the names that both tell, or by what the register's rows are computed from;
    none for rows that are of no run."""
    if "claim" in rows:
        text = "; ".join(rows["computed_from"])
        return [(cell, record) for cell, record in shown.found if _names(text, cell)]
    told = [name for name in RUN if name in rows] if "part" in rows else []
    wanted = set(rows[told].itertuples(index=False, name=None)) if told else set()
    return [(cell, record) for cell, record in shown.found if _key(cell, record, told) in wanted]


def told(found: Found, shown: Shown) -> list[str]:
    """How many runs of which preset stand behind a figure, their seeds, minutes and device."""
    if not found:
        return ["computed while the page is made"]
    records = distinct(found)
    levels = dict.fromkeys(shown.level(cell) for cell, _ in found)
    minutes = sum(record.provenance["seconds"] for record in records) / 60
    return [
        f"{len(records)} runs of the preset{'s' * (len(levels) > 1)} {' and '.join(levels)}",
        f"seeds {_seeds(records)}",
        f"{minutes:.0f} minutes",
        _devices(records),
    ]


def distinct(found: Found) -> list[Record]:
    """Each run once, however many cells show it."""
    return list({record.config.hash: record for _, record in found}.values())


def origin(
    name: str,
    notebook: str,
    words: Iterable[str],
    *,
    site: str = "figures",
    given: Mapping[str, Any] = MappingProxyType({}),
    command: str = "",
) -> HTML:
    """The line under a figure: its notebook, numbers and drawing, words on what is behind it, the command that makes it again.

    site: where the built book serves the numbers and the drawing; command: by default papermill's of the notebook, with the
    parameters given.
    """
    set_ = "".join(f" -y {shlex.quote(f'{key}: {value}')}" for key, value in given.items() if value is not None)
    source = f'<a class="source" href="_sources/{notebook}.ipynb" download>{notebook}.ipynb</a>'
    files = [f'<a href="{site}/{notebook}/{name}.{kind}" download>{kind.upper()}</a>' for kind in ("csv", "svg")]
    code = f"<code>{escape(command or f'papermill book/{notebook}.ipynb runs/{notebook}.ipynb{set_} --cwd .')}</code>"
    parts = (source, *files, *map(escape, words), code)
    return HTML(f'<p class="provenance">{" ".join(f"<span>{part}</span>" for part in parts)}</p>')


def _names(text: str, cell: Cell) -> bool:
    """Whether quantities so described read the cell, by its own name or as one of those that they choose from."""
    part, network = re.escape(cell.part), re.escape(cell.network)
    return bool(re.search(rf"\({part}, (?:{network},|that of \[(?:[^\]]*; )?{network}[;\]])", text))


def _key(cell: Cell, record: Record, told: list[str]) -> tuple:
    known = names(cell, record)
    return tuple(known[name] for name in told)


def _coverage(shown: Shown, plan: list[Cell]) -> list[str]:
    """Of each part: which presets are shown, how many of their runs there are, these runs' epochs, and their nets and losses
    where not all of the plan are asked for."""
    told = []
    for part, of_part in shown.levels.items():
        levels = dict.fromkeys(shown.level(cell) for cell in shown.cells if cell.part == part)
        planned = [cell for cell in plan if cell.part == part]
        spans = [_span(level, shown, part, planned, len(levels) == 1 or level != of_part) for level in levels]
        told.append(f"{part}: {'; '.join(spans)}" if of_part else f"{part}: not run")
    return told


def _span(level: str, shown: Shown, part: str, planned: list[Cell], named: bool) -> str:
    """named: nets are named if they are not all of the plan's."""
    asked = [cell for cell in shown.cells if cell.part == part and shown.level(cell) == level]
    found = [record for cell, record in shown.found if cell.part == part and shown.level(cell) == level]
    epochs = sorted({record.config.epochs for record in found})
    span = f", {' to '.join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))} epochs" if epochs else ""
    half = ", in bf16" if any(record.config.precision == "bf16" for record in found) else ""
    nets, losses = (dict.fromkeys(map(of, asked)) for of in (_net, _loss))
    of = f" of {', '.join(nets)}" if named and {*map(_net, planned)} > nets.keys() else ""
    by = f" {' and '.join(LOSS_WORDS[loss] for loss in losses).lower()}" if {*map(_loss, planned)} > losses.keys() else ""
    return f"{level}, {len(found)} of {len(asked)} runs{of}{by}{span}{half}"


def _net(cell: Cell) -> str:
    return cell.network


def _loss(cell: Cell) -> str:
    return cell.config.loss


def _seeds(records: Iterable[Record]) -> str:
    return ", ".join(map(str, sorted({record.config.seed for record in records})))


def _devices(records: Iterable[Record]) -> str:
    told = [record.provenance for record in records]
    known = {(p["device"], p["threads"], "".join(p.get("matrix_products", "").partition(",")[1:])) for p in told}
    return ", ".join(f"{device} ({threads} thread a run{precision})" for device, threads, precision in sorted(known))


def _data(record: Record) -> str:
    """The data set, with what is known of a copy that is not the published one: each stand-in test image can move a score by one
    image, those among the training images change every net, by an amount that is not known."""
    config, note = record.config, record.provenance["data_note"]
    limits = ((config.subset, "first {} training images"), (config.test_subset, "first {} test images"))
    some = ", ".join(words.format(count) for count, words in limits if count)
    name = f"{config.dataset} ({some})" if some else config.dataset
    bound = ""
    if note.startswith(UNLISTED):
        bound = ", of which nothing is known"
    elif moved := doubt(record):
        bound = (
            f": as test images they can move a score by at most {moved:.2f} points, as training images they change the nets "
            "by an unknown amount"
        )
    return f"{name} with {note}{bound}" if note else name
