"""``recbole-hnlm check-leak``: the leak check from a command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_leak_parser(commands: Any) -> argparse.ArgumentParser:
    """Enter ``check-leak`` among the sub-commands; options of RecBole and ours pass through."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check-leak", help="run a method with held-out data exchanged; status 1 if anything but the data changes"
    )
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each training (2)")
    parser.add_argument("--poison_seed", type=int, default=0, help="seed of the exchange (0)")
    parser.add_argument("--keep", type=Path, default=None, help="an empty folder in which data and files stay")
    return parser


def run_leak_check(args: argparse.Namespace, files: list[str] | None) -> None:
    """Check, print the table, and end with status 1 where a leak was found or the method cannot be judged.

    Raises:
        ValueError: If the model cannot be imported, or the settings cannot work.
    """
    from recbole_hnlm.leak import LeakCheck, check_leak
    from recbole_hnlm.model_lookup import find_model

    settings = LeakCheck(args.epochs, args.poison_seed, args.keep)
    report = check_leak(find_model(args.model), args.dataset, files, settings=settings)
    sys.stdout.write(report.table() + "\n")
    if report.leaks or not report.decided:
        raise SystemExit(1)
