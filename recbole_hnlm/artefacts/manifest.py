"""The manifest ``NAME.hnlm.json``: what a dataset's artefact holds and what it was made from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.errors import ArtefactError, missing, rebuild_remedy, unusable
from recbole_hnlm.artefacts.storage import FileEntry, write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ArtefactPaths:
    """Where the files of dataset ``name`` lie in ``directory``."""

    directory: Path
    name: str

    def path(self, suffix: str) -> Path:
        """``DIRECTORY/NAME.suffix``."""
        return self.directory / f"{self.name}.{suffix}"

    @property
    def manifest(self) -> Path:
        """The manifest, written last."""
        return self.path("hnlm.json")


@dataclass(frozen=True)
class Provenance:
    """What the vectors were made from; goes into the manifest as it is.

    Attributes:
        encoder: Name of the text encoder, or ``teacher`` where the dataset has no text.
        encoder_revision: Commit or checksum of its weights.
        pooling: How it turns token states into one vector.
        template: Version of the profile template.
        item_fields: Fields of the items' profiles, in their order.
        user_fields: Fields of the users' profiles, in their order.
        teacher: Description of the model that chose the hard negatives.
        settings: Whatever else decides the content, such as the words of a profile.
    """

    encoder: str
    encoder_revision: str = ""
    pooling: str = ""
    template: str = ""
    item_fields: tuple[str, ...] = ()
    user_fields: tuple[str, ...] = ()
    teacher: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Content of ``NAME.hnlm.json``.

    Attributes:
        name: Dataset.
        pairs_hash: :func:`~recbole_hnlm.artefacts.pairs.hash_pairs` of the training pairs.
        pairs: Number of training pairs.
        covered_pairs: Pairs that have at least one vector.
        negatives_per_pair: Vectors a pair may have (K).
        rows: Rows of ``NAME.hnlm_emb.npy``.
        width: Width of the vectors (S).
        users: Users with a training pair.
        items: Items of the catalogue, which are the rows of ``NAME.item_text.npy``.
        items_with_text: Items whose text vector is not zero.
        provenance: What the vectors were made from.
        files: Length and checksum of every other file, by file name.
        dtype: Type of the vectors.
        format_version: Version of this layout.
        package_version: Version of the package that wrote it.
    """

    name: str
    pairs_hash: str
    pairs: int
    covered_pairs: int
    negatives_per_pair: int
    rows: int
    width: int
    users: int
    items: int
    items_with_text: int
    provenance: Provenance
    files: dict[str, FileEntry]
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION
    package_version: str = ""

    @property
    def coverage(self) -> float:
        """Share of the training pairs that have a vector."""
        return self.covered_pairs / self.pairs if self.pairs else 0.0

    def has_file(self, suffix: str) -> bool:
        """Whether ``NAME.suffix`` belongs to the artefact, e.g. ``hnlm_emb`` for the text form."""
        return f"{self.name}.{suffix}" in self.files

    def to_json(self) -> str:
        """Sorted, indented JSON without anything that changes between equal builds."""
        content = dataclasses.asdict(self)
        content["coverage"] = round(self.coverage, 6)
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def package_version() -> str:
    """Version of the installed package, ``unknown`` in a bare checkout."""
    try:
        return metadata.version("recbole_hnlm")
    except metadata.PackageNotFoundError:
        return "unknown"


def write_manifest(directory: Path, manifest: Manifest) -> Path:
    """Write the manifest, crash-safe; call it when every other file is in place."""
    path = ArtefactPaths(directory, manifest.name).manifest
    write_text(path, [manifest.to_json()])
    return path


def read_manifest(directory: str | Path, name: str) -> Manifest:
    """The manifest of dataset ``name``, checked for form and version but not against the files.

    Raises:
        MissingArtefactError: If there is none: nothing was built, or a build was cut short.
        ArtefactError: If it cannot be read, or a newer version of the package wrote it.
    """
    path = ArtefactPaths(Path(directory), name).manifest
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = int(content["format_version"])
    except FileNotFoundError as error:
        raise missing(path, name) from error
    except (ValueError, KeyError, TypeError) as error:
        raise unusable(path, f"is not a readable manifest ({error})", name) from error
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{path} has format {version}, this version reads up to {FORMAT_VERSION}; upgrade "
            f"recbole_hnlm or {rebuild_remedy(name)}"
        )
    try:
        return _from_json(content, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unusable(path, f"lacks or garbles a field ({error})", name) from error


def _from_json(content: dict[str, Any], name: str) -> Manifest:
    content = {key: value for key, value in content.items() if key != "coverage"}
    provenance = dict(content.pop("provenance"))
    for key in ("item_fields", "user_fields"):
        provenance[key] = tuple(provenance[key])
    files = {key: FileEntry(**entry) for key, entry in content.pop("files").items()}
    manifest = Manifest(**content, provenance=Provenance(**provenance), files=files)
    counts = ("pairs", "covered_pairs", "negatives_per_pair", "rows", "width", "users", "items")
    for key in counts:
        value = getattr(manifest, key)
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} is {value!r}, expected a count")
    if manifest.name != name:
        raise ValueError(f"it is of dataset {manifest.name!r}, expected {name!r}")
    return manifest
