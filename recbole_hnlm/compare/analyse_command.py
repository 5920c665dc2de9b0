"""``recbole-hnlm analyse NAME``: what an analysis asks for is trained, and its table and plot are written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_hnlm.compare.analyses import ANALYSES, Analysis, Entry, Reading, analysis_of
from recbole_hnlm.compare.analyses.probe import train_and_probe
from recbole_hnlm.compare.analyses.readings import comma_separated
from recbole_hnlm.compare.children import Child
from recbole_hnlm.compare.defaults import told_of_defaults
from recbole_hnlm.compare.fitness import refuse_unfit_cells
from recbole_hnlm.compare.ledger import FAILED, OK, Ledger, Record, RunSetting
from recbole_hnlm.compare.plan import LOCAL, Cell, cells_of
from recbole_hnlm.compare.plots import svg_element
from recbole_hnlm.compare.pool import Pool, Start, start_in_child, stoppable
from recbole_hnlm.compare.progress import Progress
from recbole_hnlm.compare.request import FIRST_SEED, Asked, parse_arguments, read_request
from recbole_hnlm.compare.rows import Grid
from recbole_hnlm.compare.sharing import open_account
from recbole_hnlm.compare.tables import Table
from recbole_hnlm.compare.writing import markdown
from recbole_hnlm.leak.worlds import WRITTEN_SETTINGS

_MADE_OF = ("hnlm_base_sampler", "train_batch_size", *WRITTEN_SETTINGS)
"""Settings of all runs that entries hold already, as their analysis has read them."""


@dataclass(frozen=True)
class Written:
    """What an analysis has written.

    Attributes:
        table: Its table.
        readings: Everything that the table was made of.
        files: Markdown, CSV and plot.
    """

    table: Table
    readings: list[Reading]
    files: tuple[Path, ...]


def parser_of(analysis: Analysis, name: str) -> argparse.ArgumentParser:
    """The arguments of one analysis; every further ``--key=value`` is a setting of all its runs."""
    made = argparse.ArgumentParser(
        prog=f"recbole-hnlm analyse {name}", description=type(analysis).__doc__, allow_abbrev=False
    )
    made.add_argument("--dataset", "-d", required=True, help="name of the dataset")
    made.add_argument("--model", "-m", default="LightGCN", help="backbone (default LightGCN)")
    made.add_argument("--out", required=True, help="folder of runs, table and plot; what is in it is not trained again")
    made.add_argument("--seeds", type=int, default=1, help="runs of every row, with seeds from --seed (2020) on (1)")
    made.add_argument("--processes", type=int, default=1, help="runs at a time (1)")
    made.add_argument("--config_files", nargs="+", help="YAML files of settings for all runs")
    made.add_argument("--retry_failed", action="store_true", help="train again what failed before")
    made.add_argument("--no_progress", action="store_true", help="show no progress")
    analysis.add_arguments(made)
    return made


def _overview() -> str:
    """What there is to analyse, a line each."""
    told = {name: (type(analysis_of(name)).__doc__ or "").split("\n")[0] for name in ANALYSES}
    width = max(map(len, told))
    lines = [f"  {name:{width}}  {line}" for name, line in told.items()]
    usage = "usage: recbole-hnlm analyse NAME --dataset=... --out=...  (analyse NAME --help tells the rest)"
    return "\n".join([usage, "", *lines, ""])


def main(arguments: Sequence[str]) -> Written:
    """Carry out ``analyse NAME --dataset=... --out=...``.

    Raises:
        ValueError: On anything that cannot be trained, before a run is started.
    """
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(_overview())
        raise SystemExit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name = arguments[0]
    analysis = analysis_of(name)
    args, settings = parse_arguments(parser_of(analysis, name), arguments[1:])
    given = {"datasets": [args.dataset], "models": [args.model], "out": args.out, "seeds": args.seeds, "tune": 1,
             "processes": args.processes, "config_files": args.config_files}  # fmt: skip
    asked = read_request(given, settings)
    args.first_seed = asked.request.seeds[0] if asked.request.seeds else FIRST_SEED
    entries = analysis.entries(args, asked.request.shared)
    cells = cells_of_entries(asked, entries, args.model)
    refuse_unfit_cells(cells)
    done = train_cells(asked, cells, analysis.probes, retry_failed=args.retry_failed, show=not args.no_progress)
    notes = []
    for cell, records in zip(cells, done, strict=True):
        told = told_of_defaults(cell.defaults, records)
        notes += [f"{cell.row.name}: {told}"] if told else []
    return write(analysis, name, asked, list(zip(entries, done, strict=True)), notes)


def cells_of_entries(asked: Asked, entries: Sequence[Entry], model: str) -> list[Cell]:
    """The cells of entries, in their order, checked as those of a comparison are; nothing is tuned."""
    found: dict[str, Cell] = {}
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is asked for twice; name each value once")
    own = next(iter(asked.request.datasets))
    for dataset in dict.fromkeys(entry.dataset or own for entry in entries):
        rows = {entry.name: {"space": {}, **entry.values} for entry in entries if (entry.dataset or own) == dataset}
        made_of = {key for key in _MADE_OF if all(key in row for row in rows.values())}
        shared = {key: value for key, value in asked.request.shared.items() if key not in made_of}
        request = replace(asked.request, datasets={dataset: {}}, grid=Grid(models=(model,), rows=rows), shared=shared)
        found.update({cell.row.name: cell for cell in cells_of(request)})
    return [found[entry.name] for entry in entries]


def train_cells(
    asked: Asked, cells: Sequence[Cell], probing: bool, retry_failed: bool = False, show: bool = True
) -> list[list[Record]]:
    """Records of every cell and seed, from the folder's ledger where they are in it.

    Args:
        asked: What was asked for.
        cells: What to train, each with its seeds.
        probing: Whether runs are those of :func:`train_and_probe`, which a ledger of their own holds.
        retry_failed: Whether runs that failed before are tried again.
        show: Whether progress is shown.
    """
    start: Start = _probing(asked.out) if probing else start_in_child(asked.out)
    with Ledger(asked.out / "probed" if probing else asked.out) as ledger:
        settings = [[cell.setting(cell.start, seed) for seed in cell.seeds] for cell in cells]
        known = [sum(ledger.find(one.key) is not None for one in runs) for runs in settings]
        with stoppable(), Progress(cells, known, show) as progress:
            pool = Pool(ledger, start, asked.processes, retry_failed, progress)
            return pool.run([_once(runs) for runs in settings])


def _once(settings: list[RunSetting]) -> Any:
    return (yield settings)


def _probing(folder: Path) -> Callable[[RunSetting], Child]:
    account = open_account()
    return lambda setting: Child(train_and_probe, (setting, folder, account))


def write(
    analysis: Analysis, name: str, asked: Asked, done: Sequence[tuple[Entry, list[Record]]], notes: Sequence[str] = ()
) -> Written:
    """Table as Markdown and CSV, and the plot as SVG; ``notes`` come below the table's own.

    Raises:
        ValueError: If no run has succeeded, or none tells what the analysis reads.
    """
    readings = [
        reading
        for entry, records in done
        for record in records
        if record["status"] == OK
        for reading in analysis.readings(entry, record)
    ]
    failures = [
        f"{entry.name}, seed {record['seed']}, failed: {record['error']}"
        for entry, records in done
        for record in records
        if record["status"] == FAILED
    ]
    if not readings and failures:
        raise ValueError(f"every run of the analysis failed; {failures[0]}")
    if not readings:
        raise ValueError(f"the runs have ended well, but none tells what {name} reads; choose other rows or settings")
    request = asked.request
    table = analysis.table(readings, f"{next(iter(request.datasets))}, {' '.join(request.grid.models)}")
    given = ", ".join(f"{key} {value}" for key, value in request.shared.items() if key not in LOCAL)
    made = f"Seeds {', '.join(map(str, request.seeds))}; nothing is tuned; settings of all rows: {given or 'none'}."
    table = replace(table, notes=(made, *table.notes, *notes, *failures))
    contents = {"md": markdown([table], f"![]({name}.svg)"), "csv": comma_separated(readings),
                "svg": svg_element(analysis.plot(readings))}  # fmt: skip
    files = []
    for suffix, content in contents.items():
        path = asked.out / f"{name}.{suffix}"
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(content, encoding="utf-8")
        draft.replace(path)
        files.append(path)
    sys.stdout.write(contents["md"])
    return Written(table, readings, tuple(files))
