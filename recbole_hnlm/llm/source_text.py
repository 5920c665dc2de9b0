"""Which text a build has read, so that a later run can tell whether the dataset's files still say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import itemgetter

from recbole_hnlm.artefacts.atomic import AtomicTable


def sources_of(
    items: tuple[AtomicTable | None, Sequence[str]], users: tuple[AtomicTable | None, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """What the manifest records of the item and the user file: table and fields of profiles of each.

    Returns:
        ``file``, the sha256 of the whole file, and ``text``, that of what profiles read of it; nothing for a file
        that is not there.
    """
    of_kinds = {"item": items, "user": users}
    return {
        kind: {} if table is None else {"file": table.sha256, "text": text_digest(table, fields)}
        for kind, (table, fields) in of_kinds.items()
    }


def text_digest(table: AtomicTable, fields: Sequence[str]) -> str:
    """sha256 in hex of the cells that profiles are made of, in whatever order the file has its rows and columns.

    Args:
        table: An item or user file.
        fields: Fields of the profiles, in their order; ``""`` is returned for none.
    """
    if not fields:
        return ""
    rows = zip(*(table.column(field) for field in (table.key, *fields)), strict=True)
    digest = hashlib.sha256("\x1f".join(fields).encode())
    for row in sorted(rows, key=itemgetter(0)):  # rows of the same key stay in their order
        digest.update(b"\x1e" + "\x1f".join(row).encode())
    return digest.hexdigest()


def reviews_digest(users: Sequence[str], items: Sequence[str], reviews: Sequence[str] | None) -> str:
    """sha256 in hex of what was written at the training pairs, in whatever order they come; ``""`` for nothing."""
    told = sorted({row for row in zip(users, items, reviews or [""] * len(users), strict=True) if row[2]})
    if not told:
        return ""
    return hashlib.sha256("\x1e".join("\x1f".join(row) for row in told).encode()).hexdigest()
