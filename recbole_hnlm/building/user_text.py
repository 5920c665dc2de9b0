"""Vectors of users' own profiles, put beside artefacts that are there: no teacher and no chat model takes part.

Legend: U users, n items, S width of the encoder, W width of the artefact's vectors.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts import Manifest, add_user_text, read_manifest
from recbole_hnlm.artefacts.checks import open_npy, read_tokens
from recbole_hnlm.artefacts.exchange import IMPORTED
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.artefacts.user_text import USER_TEXT, profiles_by_rank
from recbole_hnlm.building.chat import corpus_of
from recbole_hnlm.building.sources import by_time, tables_of
from recbole_hnlm.llm import EncoderRun, build_encoder
from recbole_hnlm.llm.cache import VectorCache, encode_cached
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.item_vectors import TEACHER_ENCODER
from recbole_hnlm.llm.sharding import local_device
from recbole_hnlm.llm.text_space import TextSpace
from recbole_hnlm.run_options import RunOptions, cache_directory

logger = logging.getLogger(__name__)
_SAME = 0.99


def lacks_user_text(run: RunOptions, directory: Path, name: str) -> bool:
    """Whether a run reads vectors of users' profiles that its artefacts do not have yet and can be given.

    Artefacts whose vectors come from no encoder of texts stay as they are where nobody asked for profiles by name.

    Raises:
        ValueError: If the run insists on profiles that cannot be encoded.
    """
    options = run.hnlm
    if options is None or not options.reads_user_profiles:
        return False
    manifest = read_manifest(directory, name)
    if manifest.has_file(USER_TEXT):
        return False
    lacking = _cannot_be_encoded(manifest)
    if lacking and options.user_text is not None:
        raise ValueError(f"hnlm_user_text=profiles, but {lacking}; set hnlm_user_text=items")
    return not lacking


def encode_users(config: Any, run: RunOptions, dataset: Any, directory: Path) -> None:
    """Encode the users' profiles of the run's artefacts and put the vectors beside them.

    The vectors lie in the items' space: centred on the users' own mean, reduced like the items', of unit length.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        dataset: The training split.
        directory: Where the artefacts are, which were checked against the run.

    Raises:
        ValueError: If the folder is read-only, or texts or encoder are not those that the items' vectors are of.
    """
    name = str(config["dataset"])
    manifest = read_manifest(directory, name)
    encoder = build_encoder(run.llm.encoder, local_device(str(config["device"])), EncoderRun.of(run.llm))
    if encoder.revision != manifest.provenance.encoder_revision:
        raise ValueError(
            f"the artefacts in {directory} were made with revision {manifest.provenance.encoder_revision} of "
            f"{encoder.name}, this is {encoder.revision}; rebuild with --hnlm_rebuild=True or set hnlm_user_text=items"
        )
    tokens = read_tokens(ArtefactPaths(directory, name), manifest)
    users, items = profiles_by_rank(directory, name, tokens)
    chat = manifest.provenance.settings.get("chat")
    if chat is not None and chat["item_vectors"] == "fields":
        items = _corpus(config, run, dataset).item_templates
    cache = VectorCache(cache_directory(run), encoder)
    size, show = run.llm.encoder_batch_size, bool(config["show_progress"])
    of_items, of_users = (
        encode_cached(texts, encoder, cache, batch_size=size, show_progress=show)[0] for texts in (items, users)
    )
    space = _space(of_items, manifest)
    _check_items(space.project(of_items, np.any(of_items != 0, axis=1)), directory, name)
    vectors = _of_users(of_users, space)
    try:
        add_user_text(directory, name, manifest, vectors)
    except PermissionError as error:
        raise ValueError(
            f"{directory} is read-only and lacks vectors of users' profiles; copy it and name the copy in "
            "hnlm_artefact_dir, or set hnlm_user_text=items"
        ) from error
    logger.info("encoded the profiles of %d users of %d into %s", sum(map(bool, users)), len(users), directory)


def _corpus(config: Any, run: RunOptions, dataset: Any) -> Corpus:
    """What a chat model was told of, for the items' own texts."""
    return corpus_of(config, run, dataset, tables_of(config, dataset, run.llm), by_time(dataset))


def _cannot_be_encoded(manifest: Manifest) -> str:
    """Why an encoder of texts cannot make vectors that belong to an artefact; empty where it can."""
    if manifest.provenance.encoder == TEACHER_ENCODER:
        return f"{manifest.name} has no text"
    if "hybrid" in manifest.provenance.settings:
        return "llm_negatives=hybrid makes the text vectors with the tuned language model, which reads items alone"
    if manifest.provenance.encoder == IMPORTED:
        return f"the artefacts of {manifest.name} were imported, and nobody knows what encoded them"
    return ""


def _space(items: NDArray[np.float32], manifest: Manifest) -> TextSpace:
    """The space of the items' raw vectors, shape ``(n, S)``, of the artefact's width."""
    return TextSpace.of(items, np.any(items != 0, axis=1), manifest.width)


def _check_items(made: NDArray[np.float32], directory: Path, name: str) -> None:
    """Refuse to go on where items encoded now, shape ``(n, W)``, do not lie where the artefact has them."""
    kept = open_npy(ArtefactPaths(directory, name).path("item_text.npy"), name).astype(np.float32)
    there = np.any(kept != 0, axis=1)
    likeness = (made[there] * kept[there]).sum(axis=1).mean() if there.any() else 0.0
    if np.any(made[~there]) or likeness < _SAME:
        raise ValueError(
            f"the items' texts are not those that the artefacts in {directory} were made of, so users' vectors would "
            "lie in another space; rebuild with --hnlm_rebuild=True or set hnlm_user_text=items"
        )


def _of_users(raw: NDArray[np.float32], space: TextSpace) -> NDArray[np.float32]:
    """Users' raw vectors, shape ``(U, S)``, along the directions that the items' space keeps: shape ``(U, W)``."""
    there = np.any(raw != 0, axis=1)
    if not there.any():
        return np.zeros((len(raw), space.width), dtype=np.float32)
    return dataclasses.replace(space, mean=raw[there].mean(axis=0, dtype=np.float64)).project(raw, there)
