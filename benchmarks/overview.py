"""One line for each dataset and backbone of results/: python benchmarks/overview.py results"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recbole_hnlm.compare.blocks import Line, best_by_validation, blocks_of
from recbole_hnlm.compare.ledger import Ledger
from recbole_hnlm.compare.outcomes import replay
from recbole_hnlm.compare.statistics import Difference
from recbole_hnlm.compare.store import read_plan
from recbole_hnlm.compare.tables import probability

METRICS = ("recall@20", "ndcg@20")
FOLDERS = {
    "peers": "LightGCN, amazon-office", "peers-ngcf": "NGCF, amazon-office", "peers-sgl": "SGL, amazon-office",
    "peers-simgcl": "SimGCL, amazon-office", "peers-bpr": "BPR, amazon-office",
    "peers-goodbooks": "LightGCN, goodbooks", "peers-bpr-goodbooks": "BPR, goodbooks",
    "peers-movietweetings": "LightGCN, movietweetings", "peers-bpr-movietweetings": "BPR, movietweetings",
    "peers-ml-100k": "LightGCN, ml-100k", "peers-bpr-ml-100k": "BPR, ml-100k",
}  # fmt: skip
"""Folders of tables of ``compare`` -> what is in them."""
KINDS = {"sampler": ("sampler",), "text": ("text",), "other": ("loss", "baseline", "comparator")}
"""What is named in a line -> kinds of rows that it is the best of, by validation."""
HEAD = (
    "| | best sampler | R@20 / N@20 | `hnlm` over it (p) | permuted over it | best row of text | over it (p) "
    "| best other row | over the sampler |"
)


def leaders_of(folder: Path) -> dict[str, Line]:
    """The lines of an overview by what is named in it, all held against the best sampler; what is not there is not
    in it."""
    ledger = Ledger(folder)
    outcomes = [outcome for cell in read_plan(folder)[0] if (outcome := replay(cell, ledger)).complete]
    best = {
        name: best_by_validation([outcome for outcome in outcomes if outcome.cell.row.kind in kinds])
        for name, kinds in KINDS.items()
    }
    (block,) = blocks_of(outcomes, best["sampler"])
    lines = {line.name: line for line in block.lines}
    named = {**best, "hnlm": "hnlm", "permuted": "hnlm permuted"}
    return {name: lines[row] for name, row in named.items() if row in lines}


def differences(line: Line | None) -> list[Difference]:
    """A line against the best sampler, by metric; nothing without a line."""
    figures = [] if line is None else [line.figures[metric].against for metric in METRICS]
    return [one for one in figures if one is not None]


def cells_of(line: Line | None, with_p: bool = False) -> str:
    """A line's differences in percent, and p of the t-tests for splits that overlap, uncorrected; empty without one."""
    found = differences(line)
    if not found:
        return ""
    cell = " / ".join(f"{one.percent:+.1f}" for one in found) + " %"
    return f"{cell} ({' / '.join(probability(one.p_resampled) for one in found)})" if with_p else cell


def row(title: str, leaders: dict[str, Line]) -> str:
    """What leads, and by how much, among the rows of one dataset and backbone."""
    names = {name: line.name for name, line in leaders.items()}
    figures = " / ".join(f"{leaders['sampler'].figures[metric].mean:.4f}" for metric in METRICS)
    cells = [
        title, names["sampler"], figures, cells_of(leaders.get("hnlm"), with_p=True), cells_of(leaders.get("permuted")),
        names.get("text", ""), cells_of(leaders.get("text"), with_p=True),
        names.get("other", ""), cells_of(leaders.get("other")),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def mean_row(backbone: str, leaders: list[dict[str, Line]]) -> str:
    """What ``hnlm``, and the best row of text, are above the best sampler on the mean of a backbone's datasets."""
    means = []
    for name in ("hnlm", "text"):
        columns = zip(*(differences(one[name]) for one in leaders), strict=True)
        means.append(
            " / ".join(f"{sum(one.percent for one in column) / len(column):+.1f}" for column in columns) + " %"
        )
    return f"| {backbone}, mean of its {len(leaders)} | | | {means[0]} | | | {means[1]} | | |"


def table(results: Path) -> list[str]:
    """Lines of a Markdown table."""
    leaders = {title: leaders_of(results / folder) for folder, title in FOLDERS.items()}
    body = [row(title, found) for title, found in leaders.items()]
    for backbone in ("BPR", "LightGCN"):
        body.append(mean_row(backbone, [one for title, one in leaders.items() if title.startswith(f"{backbone},")]))
    return [HEAD, "|---" * (HEAD.count("|") - 1) + "|", *body]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", default="results")
    sys.stdout.write("\n".join(table(Path(parser.parse_args().results))) + "\n")


if __name__ == "__main__":
    main()
