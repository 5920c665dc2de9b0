"""``plan.json``: the cells of a folder, so that tables can be made of it and a later comparison can add to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_hnlm.compare.ledger import canonical
from recbole_hnlm.compare.plan import Cell
from recbole_hnlm.compare.rows import KINDS, Row
from recbole_hnlm.compare.spaces import Space, read_space

NAME = "plan.json"


def write_plan(folder: Path, cells: Sequence[Cell], against: str | None) -> list[Cell]:
    """Add cells to a folder's plan; one of the same dataset, backbone and name, or else of the same search under
    another name, stands in for the older one.

    Where no row is named to hold the others against, the one that was named before stays.

    Returns:
        Every cell of the folder, in the order of the tables.

    Raises:
        ValueError: If rows of a dataset would stand in one table though data, split or metrics differ.
    """
    with FileLock(folder / ".plan.lock"):  # two comparisons may add their rows at the same time
        kept, kept_against = read_plan(folder)
        names = {(cell.dataset, cell.block, cell.row.name) for cell in cells}
        searches = {(cell.dataset, cell.block, cell.key) for cell in cells}
        kept = [
            cell
            for cell in kept
            if (cell.dataset, cell.block, cell.row.name) in names
            or (cell.dataset, cell.block, cell.key) not in searches
        ]
        place = {(cell.dataset, cell.block, cell.row.name): cell for cell in kept}
        place.update({(cell.dataset, cell.block, cell.row.name): cell for cell in cells})
        every = sorted(place.values(), key=lambda cell: KINDS.index(cell.row.kind))
        _refuse_incomparable(folder, every)
        versions = {name: metadata.version(name) for name in ("recbole_hnlm", "recbole", "torch", "optuna")}
        content = {
            "versions": versions,
            "against": against or kept_against,
            "cells": [_described(cell) for cell in every],
        }
        draft = folder / f".{NAME}.new"
        draft.write_text(json.dumps(json.loads(canonical(content)), indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / NAME)
    return every


def _refuse_incomparable(folder: Path, cells: Sequence[Cell]) -> None:
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for kind in ("measured_on", "evaluated"):
            other = getattr(cell, kind)
            if not other:  # a plan of before this was kept
                continue
            known = first.setdefault((cell.dataset, kind), cell)
            one = getattr(known, kind)
            if differs := [key for key in {**one, **other} if canonical(one.get(key)) != canonical(other.get(key))]:
                told = "; ".join(f"{key} {other.get(key)!r} and {one.get(key)!r}" for key in differs)
                raise ValueError(
                    f"{cell.label} and {known.label} of {folder} differ in {', '.join(differs)}, so they cannot stand "
                    f"in one table ({told}); give all rows the same, or name another --out"
                )


def read_plan(folder: Path) -> tuple[list[Cell], str | None]:
    """The cells of a folder and the row they are held against; nothing where there is no plan.

    Raises:
        ValueError: If the file cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return [], None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [_read(cell) for cell in content["cells"]], content["against"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it and give the whole plan again") from error


def _described(cell: Cell) -> dict[str, Any]:
    row = cell.row
    return {
        "dataset": cell.dataset, "data": cell.data, "backbone": cell.block, "row": row.name, "kind": row.kind,
        "model": row.model, "values": cell.values, "space": _space(cell.space), "start": cell.start,
        "trials": cell.budget, "seeds": list(cell.seeds), "made_by": row.values,
        "defaults": cell.defaults, "evaluated": cell.evaluated, **({"code": cell.code} if cell.code else {}),
    }  # fmt: skip


def _space(space: Space) -> list[Any]:
    """In pairs, as a search goes through the knobs in their order."""
    return [[key, knob.described()] for key, knob in space.items()]


def _read(told: dict[str, Any]) -> Cell:
    space, block = read_space(dict(told["space"])), told["backbone"]
    row = Row(told["row"], told["model"], told["kind"], told["made_by"], space, everywhere=not block)
    seeds = tuple(told["seeds"])
    known = told["data"], told.get("code", ""), told.get("defaults", {}), told.get("evaluated", {})
    return Cell(told["dataset"], block, row, told["values"], {}, space, told["start"], told["trials"], seeds, *known)
