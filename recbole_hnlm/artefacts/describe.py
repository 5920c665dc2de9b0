"""What an artefact holds, as text for people: files, coverage, origin and a few pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from recbole_hnlm.artefacts.atomic import iter_rows
from recbole_hnlm.artefacts.cells import unquoted
from recbole_hnlm.artefacts.errors import rebuild_remedy
from recbole_hnlm.artefacts.manifest import ArtefactPaths, Manifest, read_manifest
from recbole_hnlm.artefacts.neg_text import iter_neg_text
from recbole_hnlm.artefacts.pairs import neg_id_item
from recbole_hnlm.artefacts.storage import FileEntry


def describe(directory: str | Path, name: str, samples: int = 3) -> str:
    """The artefact of dataset ``name`` in words, for ``recbole-hnlm inspect``.

    Args:
        directory: Where the files lie.
        name: Dataset.
        samples: Training pairs to show, spread evenly over the file.

    Raises:
        MissingArtefactError: If nothing was built.
    """
    paths = ArtefactPaths(Path(directory), name)
    manifest = read_manifest(directory, name)
    lines = [f"artefacts of {name} in {paths.directory}", ""]
    lines += _table(_facts(manifest))
    harm = {file_name: _harm(paths.directory / file_name, entry) for file_name, entry in manifest.files.items()}
    lines += ["", "files"] + _table(
        [
            (file_name, f"{entry.bytes:>14,} bytes  sha256 {entry.sha256[:12]}{harm[file_name]}")
            for file_name, entry in sorted(manifest.files.items())
        ]
    )
    try:
        lines += ["", _remedy(name)] if any(harm.values()) else _samples(paths, manifest, samples)
    except ValueError as error:
        lines += ["", f"{error}; {_remedy(name)}"]
    return "\n".join(lines) + "\n"


def _remedy(name: str) -> str:
    return f"files are damaged; {rebuild_remedy(name)}"


def _harm(path: Path, entry: FileEntry) -> str:
    """What is wrong with a file by its size, which is soon known; the checksum is for those who read it."""
    if not path.is_file():
        return "  MISSING"
    size = path.stat().st_size
    return "" if size == entry.bytes else f"  DAMAGED: {size:,} bytes on disk"


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    origin = manifest.provenance
    share = f"{manifest.coverage:.1%}"
    return [
        ("training pairs", f"{manifest.pairs:,} (hash {manifest.pairs_hash[:12]})"),
        ("with a vector", f"{manifest.covered_pairs:,} (coverage {share})"),
        ("negatives per pair", str(manifest.negatives_per_pair)),
        ("vectors", f"{manifest.rows:,} x {manifest.width}, {manifest.dtype}"),
        ("users / items", f"{manifest.users:,} / {manifest.items:,}"),
        ("items with text", f"{manifest.items_with_text:,}"),
        ("encoder", f"{origin.encoder} ({origin.encoder_revision}; pooling {origin.pooling})"),
        ("template", origin.template),
        ("item fields", ", ".join(origin.item_fields) or "none"),
        ("user fields", ", ".join(origin.user_fields) or "none"),
        ("teacher", json.dumps(dict(origin.teacher), sort_keys=True)),
        ("settings", json.dumps(dict(origin.settings), sort_keys=True)),
        ("written by", f"recbole_hnlm {manifest.package_version}"),
    ]


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0)
    return [f"  {left:<{width}}  {right}" for left, right in rows]


def _samples(paths: ArtefactPaths, manifest: Manifest, samples: int) -> list[str]:
    count = min(samples, manifest.covered_pairs)
    if count <= 0:
        return ["", "no pair has a vector"]
    step = manifest.covered_pairs // count
    rows = islice(_rows(paths.path("hnlm"), 3), 0, step * count, step)
    pairs = [cells for _, cells in rows]
    if len(pairs) < count:
        raise ValueError(f"{paths.path('hnlm')} has fewer pairs than {paths.manifest.name} says")
    wanted = {item for _, item, _ in pairs}
    wanted |= {neg_id_item(neg) for _, _, negs in pairs for neg in negs.split(" ")}
    names = _names(paths, {(user, item) for user, item, _ in pairs})
    users = _profiles(paths.path("user_profile"), {user for user, _, _ in pairs})
    items = _profiles(paths.path("item_profile"), wanted)
    lines: list[str] = []
    for user, item, negs in pairs:
        lines += ["", f"user {user}: {users.get(user) or '(no text)'}"]
        lines.append(f"  positive {item}: {items.get(item) or '(no text)'}")
        for neg in negs.split(" "):
            text = items.get(neg_id_item(neg)) or "(a vector of its own, no text)"
            lines.append(f"  negative {neg_id_item(neg)}: {text}")
        lines += [f"  named: {name}" for name in names.get((user, item), ())]
    return lines


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    try:
        yield from iter_rows(path, columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _names(paths: ArtefactPaths, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """What a model named for some pairs, with the catalogue item that it was taken for."""
    found: dict[tuple[str, str], list[str]] = {}
    if paths.path("neg_text").is_file():
        for user, item, text, grounded, similarity in iter_neg_text(paths.directory, paths.name):
            if (user, item) in wanted:
                meant = f" (item {grounded}, cosine {similarity})" if grounded else " (no catalogue item)"
                found.setdefault((user, item), []).append(f"{text}{meant}")
    return found


def _profiles(path: Path, wanted: set[str]) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {token: unquoted(text) for _, (token, text) in _rows(path, 2) if token in wanted}
