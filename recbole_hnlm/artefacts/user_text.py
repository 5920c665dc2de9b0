"""Text vectors of users, ``NAME.user_text.npy``: an addition to an artefact that is whole without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.errors import ArtefactError, rebuild_remedy
from recbole_hnlm.artefacts.exchange import read_profiles
from recbole_hnlm.artefacts.manifest import ArtefactPaths, Manifest, read_manifest, write_manifest
from recbole_hnlm.artefacts.storage import directory_lock, write_npy

USER_TEXT = "user_text.npy"


def add_user_text(directory: str | Path, name: str, made_for: Manifest, vectors: NDArray[np.floating[Any]]) -> Manifest:
    """Put the users' text vectors beside the artefact of dataset ``name``; a kill leaves it as it was.

    Args:
        directory: Where the files lie.
        name: Dataset.
        made_for: Manifest of the artefact when the profiles were read.
        vectors: A vector of each user by rank, zero for none, shape ``(users, S)``.

    Returns:
        The new manifest, which lists the vectors.

    Raises:
        ArtefactError: If the artefact was built anew in the meantime.
        ValueError: If the vectors do not fit it.
    """
    paths = ArtefactPaths(Path(directory), name)
    expected = (made_for.users, made_for.width)
    if vectors.shape != expected:
        raise ValueError(f"users' vectors have shape {vectors.shape}, expected {expected}")
    with directory_lock(paths.directory):
        found = read_manifest(directory, name)
        if found != made_for:
            raise ArtefactError(
                f"{paths.manifest} changed while vectors of its users were made; run again or {rebuild_remedy(name)}"
            )
        entry = write_npy(paths.path(USER_TEXT), vectors, "<f2")
        manifest = dataclasses.replace(found, files={**found.files, paths.path(USER_TEXT).name: entry})
        write_manifest(paths.directory, manifest)
    return manifest


def profiles_by_rank(directory: str | Path, name: str, tokens: tuple[list[str], list[str]]) -> tuple[list[str], ...]:
    """Profiles of users and of items as the artefact's files hold them, ``""`` for none.

    Args:
        directory: Where the files lie.
        name: Dataset.
        tokens: Users and items by rank.

    Raises:
        ArtefactError: If a file is damaged.
    """
    paths = ArtefactPaths(Path(directory), name)
    suffixes = ("user_profile", "item_profile")
    told = [read_profiles(paths, suffix) for suffix in suffixes]
    return tuple([profiles.get(token, "") for token in ranked] for profiles, ranked in zip(told, tokens, strict=True))
