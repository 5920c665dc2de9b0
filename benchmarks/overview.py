"""One line for each dataset and backbone of results/: python benchmarks/overview.py results"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from recbole_hnlm.compare.ledger import Ledger
from recbole_hnlm.compare.outcomes import Outcome, replay, validation_score
from recbole_hnlm.compare.statistics import difference, mean_and_deviation
from recbole_hnlm.compare.store import read_plan
from recbole_hnlm.compare.tables import probability

METRICS = ("recall@20", "ndcg@20")
FOLDERS = {
    "peers": "LightGCN, amazon-office", "peers-ngcf": "NGCF, amazon-office", "peers-sgl": "SGL, amazon-office",
    "peers-simgcl": "SimGCL, amazon-office", "peers-bpr": "BPR, amazon-office",
    "peers-bpr-goodbooks": "BPR, goodbooks", "peers-movietweetings": "LightGCN, movietweetings",
    "peers-bpr-movietweetings": "BPR, movietweetings", "peers-ml-100k": "LightGCN, ml-100k",
    "peers-bpr-ml-100k": "BPR, ml-100k",
}  # fmt: skip
"""Folders of tables of ``compare`` -> what is in them."""
TEXT, SAMPLER = ("text",), ("sampler",)
OTHERS = ("loss", "baseline", "comparator")
HEAD = (
    "| | best sampler | R@20 / N@20 | `hnlm` over it (p) | permuted over it | best row of text | over it (p) "
    "| best other row | over the sampler |"
)


def outcomes_of(folder: Path) -> dict[str, Outcome]:
    """The finished rows of a folder by name."""
    ledger = Ledger(folder)
    found = [replay(cell, ledger) for cell in read_plan(folder)[0]]
    return {outcome.cell.row.name: outcome for outcome in found if outcome.done}


def best_of(outcomes: Iterable[Outcome], kinds: tuple[str, ...]) -> Outcome | None:
    """The row of some kinds with the highest mean of validation over the seeds that all of these rows have."""
    of_kind = [outcome for outcome in outcomes if outcome.cell.row.kind in kinds]
    seeds = [{run["seed"] for run in outcome.done} for outcome in of_kind]
    shared = set.intersection(*seeds) if seeds else set()

    def validation(outcome: Outcome) -> float:
        scores = [validation_score(run) for run in outcome.done if run["seed"] in shared]
        return mean_and_deviation([score for score in scores if score is not None])[0]

    return max(of_kind, key=validation, default=None)


def by_seed(outcome: Outcome, metric: str) -> dict[int, float]:
    """Test figures of a row."""
    return {run["seed"]: run["test"][metric] for run in outcome.done}


def over(ours: Outcome | None, theirs: Outcome, with_p: bool = False) -> str:
    """A row's relative differences to another in percent, and p of the paired t-tests; empty without a row."""
    if ours is None:
        return ""
    told = [difference(by_seed(ours, metric), by_seed(theirs, metric)) for metric in METRICS]
    found = [one for one in told if one is not None]
    cell = " / ".join(f"{one.percent:+.1f}" for one in found) + " %"
    return f"{cell} ({' / '.join(probability(one.p_t) for one in found)})" if with_p else cell


def line(title: str, rows: Mapping[str, Outcome]) -> str:
    """What leads, and by how much, among the rows of one dataset and backbone."""
    sampler = best_of(rows.values(), SAMPLER)
    if sampler is None:
        raise ValueError(f"{title} has no finished row of a sampler to be held against")
    text, other = best_of(rows.values(), TEXT), best_of(rows.values(), OTHERS)
    figures = " / ".join(f"{mean_and_deviation(list(by_seed(sampler, metric).values()))[0]:.4f}" for metric in METRICS)
    cells = [
        title, sampler.cell.row.name, figures, over(rows.get("hnlm"), sampler, with_p=True),
        over(rows.get("hnlm permuted"), sampler), "" if text is None else text.cell.row.name,
        over(text, sampler, with_p=True), "" if other is None else other.cell.row.name, over(other, sampler),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def mean_line(blocks: Mapping[str, Mapping[str, Outcome]], backbone: str) -> str:
    """What `hnlm`, and the best row of text, are above the best sampler on the mean of a backbone's datasets."""
    cells = []
    for chosen in (lambda rows: rows["hnlm"], lambda rows: best_of(rows.values(), TEXT)):
        of_all: list[list[float]] = []
        for title, rows in blocks.items():
            sampler = best_of(rows.values(), SAMPLER)
            if title.startswith(f"{backbone},") and sampler is not None:
                both = [(by_seed(chosen(rows), metric), by_seed(sampler, metric)) for metric in METRICS]
                of_all.append([one.percent for pair in both if (one := difference(*pair)) is not None])
        cells.append(" / ".join(f"{sum(column) / len(column):+.1f}" for column in zip(*of_all, strict=True)) + " %")
    return f"| {backbone}, mean of its {len(of_all)} | | | {cells[0]} | | | {cells[1]} | | |"


def table(results: Path) -> list[str]:
    """Lines of a Markdown table."""
    blocks = {title: outcomes_of(results / folder) for folder, title in FOLDERS.items()}
    body = [line(title, rows) for title, rows in blocks.items()]
    means = [mean_line(blocks, backbone) for backbone in ("BPR", "LightGCN")]
    return [HEAD, "|---" * (HEAD.count("|") - 1) + "|", *body, *means]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", default="results")
    sys.stdout.write("\n".join(table(Path(parser.parse_args().results))) + "\n")


if __name__ == "__main__":
    main()
