"""What is to be known when a table is read: seeds, tests, what failed and what did not learn; sentences below it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from recbole_hnlm.compare.blocks import Block, Line
from recbole_hnlm.compare.defaults import told_of_defaults
from recbole_hnlm.compare.ledger import canonical
from recbole_hnlm.compare.statistics import least_wilcoxon

_COLLAPSED = 0.7  # of the best seed's validation score: seeds of one row differ by a tenth at most
_TOLD_WHERE_DIFFERENT = ("epochs", "stopping_step", "train_batch_size")
_AGAIN = "(the same command with --retry_failed trains it again)"

_OURS = ("neg_sampler", "hnlm_", "llm_", "ranking_loss", "comparator_")
"""Beginnings of settings that only some rows read, so that others go without."""


def notes_of(block: Block) -> list[str]:
    """Every note of a block."""
    notes = [*_seed_notes(block), *_test_notes(block), *_trial_notes(block), *_setting_notes(block)]
    if len(versions_of(block)) > 1:
        notes.append("Rows were trained with several versions of packages, which cost.md names; a new --out has one.")
    for told in (_collapsed, _cut_short, _by_other_defaults):
        notes += [f"{line.name}: {note}" for line in block.lines if (note := told(line))]
    partial = [line for line in block.lines if not line.outcome.complete]
    for line in partial:
        notes.append(f"{line.name}: not ranked, failed with some seeds: {'; '.join(line.outcome.failures)} {_AGAIN}")
    for outcome in block.others:
        if outcome.missing:
            notes.append(f"{outcome.cell.row.name}: unfinished, {outcome.missing} of {outcome.cell.runs} runs left.")
        else:
            notes.append(f"{outcome.cell.row.name}: failed: {'; '.join(outcome.failures)} {_AGAIN}")
    return notes


def _seed_notes(block: Block) -> list[str]:
    """Which rows have which seeds, where they differ, and on which of them rows are compared."""
    further: dict[tuple[int, ...], list[str]] = {}
    for line in block.lines:
        if line.outcome.complete:
            seeds = tuple(sorted({run["seed"] for run in line.outcome.done} - set(block.shared)))
            further.setdefault(seeds, []).append(line.name)
    if not any(further):
        return []
    own = "; ".join(f"{_listed(seeds)} of {_quoted(names)}" for seeds, names in sorted(further.items()) if seeds)
    if not block.shared:
        return [f"Rows share no seed, so none is marked as best. Seeds: {own}."]
    return [
        f"Seeds of all rows: {_listed(block.shared)}; further ones: {own}. Means are over a row's own seeds; the best "
        "and the second are marked, and the row compared with is chosen, on shared seeds alone, and the differences "
        "are over the seeds that both rows have."
    ]


def _quoted(names: Iterable[str]) -> str:
    """Names of rows one after the other; those with a comma of their own in quotes."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _test_notes(block: Block) -> list[str]:
    """How p values were made, and what they cannot be with so few seeds."""
    if block.base is None:
        return []
    asked = [f"Asked for against {block.asked}, which has no figures here; {block.base} is the best by validation."]
    return [*(asked if block.asked not in (None, block.base) else []), *_p_notes(block)]


def _p_notes(block: Block) -> list[str]:
    columns = [[line.figures[metric] for line in block.lines] for metric in block.metrics]
    tests = max((sum(figure.p_wilcoxon is not None for figure in column) for column in columns), default=0)
    if not tests:
        several = any(figure.deviation is not None for column in columns for figure in column)
        return [] if several else ["One seed: no p-value can be given."]
    pairs = {figure.against.seeds for column in columns for figure in column if figure.against}
    notes = [
        f"p: two-sided, paired over seeds, against {block.base}, Holm's correction over the rows of the table "
        f"({tests} test{'s' * (tests > 1)} a column)."
    ]
    notes += _split_notes(block.held_out)
    untold = [figure for column in columns for figure in column if figure.against and figure.p_t is None]
    if any(figure.p_wilcoxon is not None for figure in untold):
        notes.append("No p t where all seeds differ by the same: nothing tells how the difference varies.")
    if any(figure.p_wilcoxon is None and figure.against.seeds > 1 for figure in untold if figure.against):
        notes.append("No p where seeds change neither row: its runs are copies of one another.")
    if 1 in pairs:
        notes.append(f"Rows that share one seed with {block.base} have no p-value.")
    few = [seeds for seeds in sorted(pairs, reverse=True) if seeds > 1 and least_wilcoxon(seeds) > 0.05]
    if few:
        least = ", ".join(f"{least_wilcoxon(seeds):.4f} with {seeds} seeds" for seeds in few)
        notes.append(
            f"The Wilcoxon test cannot go below p {least}, even before correction, so it cannot reach .05 there."
        )
    return notes


def _split_notes(held_out: float | None) -> list[str]:
    """What it means for p, and for tuning, that seeds split anew; nothing where all share a split."""
    if held_out == 0:
        return []
    told = "p t and p Wilcoxon, which take runs for independent, are too small"
    if held_out is not None:
        told += f"; p t, resampled, is Nadeau and Bengio's (2003), for {held_out:g} test pairs a training pair"
    return [
        f"Every seed splits the same pairs anew, so that runs share most of their training pairs: {told}. Points are "
        "chosen on the first seed's split, where most test pairs of the other splits are training pairs, for all rows "
        "alike."
    ]


def _trial_notes(block: Block) -> list[str]:
    """Which rows were searched longer or shorter than others."""
    rows: dict[int, list[str]] = {}
    for line in block.lines:
        if line.outcome.cell.space:
            rows.setdefault(line.outcome.cell.budget, []).append(line.name)
    if len(rows) < 2:
        return []
    told = "; ".join(f"{budget} of {_quoted(names)}" for budget, names in sorted(rows.items()))
    return [f"Rows were not tuned alike, trials: {told}. The same --tune for all makes them comparable."]


def _setting_notes(block: Block) -> list[str]:
    """How long and in which steps rows train, where that is not the same for all, and in what else backbones differ
    that neither a row nor its search is made of.
    """
    notes = [_told_where_different(block.lines, key) for key in _TOLD_WHERE_DIFFERENT]
    lines = [line for line in block.lines if not line.outcome.cell.row.everywhere]
    cells = [line.outcome.cell for line in lines]
    of_rows = {key for cell in cells for key in (*cell.row.values, *cell.row.defaults, *cell.space)}
    keys = {key for cell in cells for key in cell.values if not key.startswith(_OURS) and key not in of_rows}
    notes += [_told_where_different(lines, key) for key in sorted(keys - {*_TOLD_WHERE_DIFFERENT})]
    return [note for note in notes if note]


def _told_where_different(lines: Sequence[Line], key: str) -> str:
    rows: dict[str, list[str]] = {}
    for line in lines:
        rows.setdefault(str(line.outcome.cell.values.get(key, "the default")), []).append(line.name)
    usual = max(rows, key=lambda value: len(rows[value]), default="")
    told = [f"{value} of {_quoted(names)}" for value, names in rows.items() if value != usual]
    return f"{key}: {'; '.join(told)}; {usual} of the other rows." if told else ""


def _cut_short(line: Line) -> str:
    """A word about runs whose best epoch is one of the last two that were looked at; empty where there are none."""
    values = line.outcome.cell.values
    if "epochs" not in values or all(run["epochs"] == 1 for run in line.outcome.done):  # EASE trains once
        return ""
    last = values["epochs"] - values.get("eval_step", 1)
    late = [run for run in line.outcome.done if run["best_epoch"] is not None and run["best_epoch"] + 1 >= last > 0]
    if not late:
        return ""
    seeds = ", ".join(f"{run['best_epoch'] + 1} with seed {run['seed']}" for run in late)
    return f"best at the end, in epoch {seeds}; it may be better with more than epochs={values['epochs']}."


def _collapsed(line: Line) -> str:
    """A word about seeds that stayed far below the row's best one on validation; empty where there are none."""
    runs = line.outcome.done
    if not runs or not runs[0]["higher_is_better"] or all(run["epochs"] == 1 for run in runs):  # EASE learns at once
        return ""
    best = max(run["valid_score"] for run in runs)
    low = [run for run in runs if run["valid_score"] < _COLLAPSED * best]
    if not low:
        return ""
    whole = all(run["epochs"] >= line.outcome.cell.values.get("epochs", math.inf) for run in low)
    ends = ", ".join(f"{run['seed']} after {run['epochs']} epochs" for run in low)
    remedy = "more epochs" if whole else "a larger stopping_step"
    share = f"{100 * _COLLAPSED:.0f} % of the best one on validation"
    return f"not all seeds learned: below {share}, seed {ends}; try {remedy}."


def _by_other_defaults(line: Line) -> str:
    return told_of_defaults(line.outcome.cell.defaults, line.outcome.done)


def versions_of(block: Block) -> list[dict[str, str]]:
    """Versions of packages that the block's runs were made with, each once."""
    found = {canonical(run["versions"]): run["versions"] for line in block.lines for run in line.outcome.done}
    return [versions for _, versions in sorted(found.items())]
