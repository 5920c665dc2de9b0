"""``recbole-hnlm compare``: arguments in, trainings, tables and plots out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_hnlm.compare.blocks import Block
from recbole_hnlm.compare.fitness import refuse_unfit_cells
from recbole_hnlm.compare.ledger import OK, Ledger
from recbole_hnlm.compare.outcomes import Outcome, job, replay
from recbole_hnlm.compare.plan import Cell, cells_of
from recbole_hnlm.compare.pool import Pool, Start, start_in_child, stoppable
from recbole_hnlm.compare.progress import Progress
from recbole_hnlm.compare.report import write_report
from recbole_hnlm.compare.request import LISTS, Asked, parse_arguments, read_request
from recbole_hnlm.compare.store import read_plan, write_plan
from recbole_hnlm.compare.tables import accuracy_table
from recbole_hnlm.compare.writing import markdown
from recbole_hnlm.options.parsing import nearest

_HELP = {
    "datasets": "names of datasets",
    "models": "backbones, e.g. BPR LightGCN",
    "neg_samplers": "rows by negative sampler, e.g. uniform dns hnlm",
    "comparators": "rows by language-model method on the same text",
    "losses": "rows by ranking loss over uniform negatives",
    "baselines": "models that train as RecBole trains them, e.g. EASE Pop",
    "controls": "controls put over the rows of text, e.g. permuted",
    "config_files": "YAML files of settings for all rows",
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments; every further ``--key=value`` is a setting of all rows, which is then not tuned."""
    made = argparse.ArgumentParser(prog="recbole-hnlm compare", description=parser.__doc__, allow_abbrev=False)
    made.add_argument(
        "--plan",
        help="YAML file with the same keys, and rows, settings and settings by dataset or model; "
        "what is given here too replaces the file's, names of datasets and models keep their settings there",
    )
    for name in ("datasets", "models", *LISTS, "config_files"):
        made.add_argument(f"--{name}", nargs="*" if name in LISTS else "+", help=_HELP[name])
    made.add_argument("--seeds", type=int, help="final runs of a row, with seeds from --seed (2020) on (default 5)")
    made.add_argument("--tune", type=int, help="trials of a row on validation, the first at its defaults (default 8)")
    made.add_argument("--processes", type=int, help="runs at a time (default 1)")
    made.add_argument("--out", help="folder of runs, tables and plots; what is in it is not trained again")
    made.add_argument(
        "--against", help="row that the others are held against (default: best id-only one by validation)"
    )
    made.add_argument("--dry_run", action="store_true", help="show rows and the number of runs, and stop")
    made.add_argument("--report_only", action="store_true", help="make tables and plots of what is in --out, and stop")
    made.add_argument("--retry_failed", action="store_true", help="train again what failed before")
    made.add_argument("--no_progress", action="store_true", help="show no progress")
    return made


def main(arguments: Sequence[str]) -> list[Block]:
    """Carry out the command.

    Raises:
        ValueError: On anything that cannot be compared, before a run is started.
    """
    args, settings = parse_arguments(parser(), arguments)
    given = vars(args)
    if args.report_only:
        if args.out is None:
            raise ValueError("no folder to report on; name one with --out")
        return report(Path(args.out), args.against)
    asked = read_request({key: value for key, value in given.items() if not isinstance(value, bool)}, settings)
    cells = cells_of(asked.request)
    names = sorted({cell.row.name for cell in [*cells, *read_plan(asked.out)[0]]})
    if asked.against is not None and asked.against not in names:
        raise ValueError(f"against={asked.against!r} is no row, choose one of {names}{nearest(asked.against, names)}")
    refuse_unfit_cells(_unfinished(cells, asked.out))
    if args.dry_run:
        sys.stdout.write(dry_run(cells))
        return []
    return compare(asked, cells, retry_failed=args.retry_failed, show=not args.no_progress)


def _unfinished(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Cells with runs that the folder's ledger does not hold."""
    if not folder.is_dir():
        return list(cells)
    ledger = Ledger(folder)
    return [cell for cell in cells if replay(cell, ledger).missing]


def dry_run(cells: Sequence[Cell]) -> str:
    """The rows and how many runs they take at most."""
    lines = [f"{cell.label}: {cell.budget} trials of {', '.join(cell.space) or 'nothing'}" for cell in cells]
    seeds = len(cells[0].seeds)
    lines.append(f"{len(cells)} rows, {seeds} seeds, at most {sum(cell.runs for cell in cells)} runs")
    return "\n".join(lines) + "\n"


def compare(
    asked: Asked, cells: Sequence[Cell], retry_failed: bool = False, show: bool = True, start: Start | None = None
) -> list[Block]:
    """Train what the folder's ledger does not hold, and write the report.

    Args:
        asked: The comparison.
        cells: Its cells.
        retry_failed: Whether runs that failed before are tried again.
        show: Whether progress is shown.
        start: How a run is started; a process of its own unless given.
    """
    folder = asked.out
    with Ledger(folder) as ledger:
        write_plan(folder, cells, asked.against)
        known = [_known(replay(cell, ledger), retry_failed) for cell in cells]
        with stoppable(lambda: report(folder, asked.against)), Progress(cells, known, show) as progress:
            pool = Pool(ledger, start or start_in_child(folder), asked.processes, retry_failed, progress)
            pool.run([job(cell, ledger) for cell in cells])
    return report(folder, asked.against)


def _known(outcome: Outcome, retry_failed: bool) -> int:
    """Runs of a cell that will not be trained now."""
    cell = outcome.cell
    later = [record for record in outcome.records if record["seed"] != cell.seeds[0]]  # the first one's are trials
    failed = outcome.trials_failed + sum(record["status"] != OK for record in later)
    return max(0, cell.runs - outcome.missing - (failed if retry_failed else 0))


def report(folder: Path, against: str | None = None) -> list[Block]:
    """Tables and plots of what a folder holds; Markdown goes to standard output too.

    Raises:
        ValueError: If the folder holds no plan.
    """
    cells, kept_against = read_plan(folder)
    if not cells:
        raise ValueError(f"{folder} holds no plan.json; run recbole-hnlm compare with --out={folder} first")
    ledger = Ledger(folder)
    blocks = write_report(folder, [replay(cell, ledger) for cell in cells], against or kept_against)
    sys.stdout.write(markdown([accuracy_table(block) for block in blocks], f"{folder / 'report.html'}"))
    return blocks
