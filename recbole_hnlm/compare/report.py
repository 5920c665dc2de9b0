"""Everything that a comparison writes beside its ledger: tables, plots and one page with both."""

from __future__ import annotations

import html
import importlib.resources
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_hnlm.compare.blocks import Block, blocks_of
from recbole_hnlm.compare.outcomes import Outcome
from recbole_hnlm.compare.plots import bars, convergence
from recbole_hnlm.compare.splits import held_out_share
from recbole_hnlm.compare.tables import accuracy_table, comma_separated, cost_table
from recbole_hnlm.compare.writing import latex, markdown, web

TITLE = "Comparison"


def write_report(folder: Path, outcomes: Sequence[Outcome], against: str | None = None) -> list[Block]:
    """Write tables, the plots of every block, and one page with both; the blocks are handed back.

    The files are ``table.md``, ``table.csv``, ``table.tex``, ``cost.md``, ``report.html`` and, of a dataset and
    backbone, ``rows-DATASET-BACKBONE.svg`` and ``convergence-DATASET-BACKBONE.svg``.

    Raises:
        ValueError: If no row is called ``against``.
    """
    blocks = blocks_of(outcomes, against)
    head = head_lines(outcomes)
    plots = {block.title: (bars(block), convergence(block)) for block in blocks if block.lines}
    accuracy, cost = [accuracy_table(block) for block in blocks], [cost_table(block) for block in blocks]
    written = {
        "table.md": markdown(accuracy, "\n\n".join([f"# {TITLE}", *head])),
        "table.csv": comma_separated(blocks),
        "table.tex": latex(accuracy),
        "cost.md": markdown(cost, f"# {TITLE}: cost\n\nMeans over the seeds at the tuned points."),
        "report.html": page(blocks, plots, head),
    }
    for title, pair in plots.items():
        place = re.sub(r"[^\w.-]+", "-", title)  # a backbone may be a path, package.module:Class
        written |= {f"{name}-{place}.svg": plot for name, plot in zip(("rows", "convergence"), pair, strict=True)}
    for name, text in written.items():
        draft = folder / f".{name}.new"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)
    return blocks


def head_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What the figures are, in sentences that hold for all rows."""
    cells = [outcome.cell for outcome in outcomes]
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    alike = len({frozenset(cell.seeds) for cell in cells}) < 2
    whose = "" if alike else ", of which some rows have fewer, as notes below the tables say"
    where = "all rows" if alike else "the rows that have it, and rows are compared on the seeds that they share"
    common = _common([cell.values for cell in cells])
    metric = common.pop("valid_metric", "the validation metric")
    told = ", ".join(f"{key} {value}" for key, value in common.items())
    anew = {held_out_share(cell.values) != 0 for cell in cells}
    given = "split, start and draws" if True in anew else "start and draws"
    if len(anew) > 1:
        given += " (no split of datasets that have one of their own)"
    return [
        "Test metrics at the epoch that is best on validation: mean ± sample standard deviation over seeds; best bold, "
        f"second underlined. Every row was tuned by {metric} on the validation split alone, with the trials named in "
        "its line, on the first seed.",
        f"Seeds {', '.join(map(str, seeds))}{whose}: each gives {given}, the same in {where}. "
        f"Settings of all rows: {told}.",
    ]


def _common(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = values[0] if values else {}
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in values)}


def page(blocks: Sequence[Block], plots: Mapping[str, tuple[str, str]], head: Sequence[str]) -> str:
    """One HTML page with all tables and plots in it, which loads nothing from elsewhere; ``plots`` by block's title."""
    template = importlib.resources.files("recbole_hnlm.properties").joinpath("compare", "report.html")
    parts = []
    for block in blocks:
        parts += [f"<h2>{html.escape(block.title)}</h2>", web(accuracy_table(block))]
        if block.title in plots:
            rows, curves = plots[block.title]
            parts += [rows, "<h3>Convergence, first seed</h3>", curves]
            parts += ["<h3>Cost</h3>", web(cost_table(block))]
    text = "\n".join(f"<p>{html.escape(line)}</p>" for line in head)
    filled = string.Template(template.read_text(encoding="utf-8"))
    return filled.substitute(title=TITLE, head=text, body="\n".join(parts))
