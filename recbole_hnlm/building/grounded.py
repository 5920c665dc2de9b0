"""``NAME.neg_text`` for ``neg_sampler: semantic`` where no language model has made one: text neighbours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.errors import ArtefactError
from recbole_hnlm.artefacts.manifest import ArtefactPaths
from recbole_hnlm.artefacts.neg_text import NegTextManifest, read_neg_text_manifest
from recbole_hnlm.building.chat import ChatSources, text_run
from recbole_hnlm.building.provenance import check_named
from recbole_hnlm.building.sources import text_sources
from recbole_hnlm.building.turns import make_in_turn
from recbole_hnlm.llm.neighbours import NO_MODEL, neighbours_provenance, write_text_neighbours
from recbole_hnlm.llm.text_pipeline import TextRun
from recbole_hnlm.models.grounded import grounded_directory
from recbole_hnlm.models.text import artefact_directory, hash_of_training_pairs
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.options.text import GroundingOptions, TextOptions
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers.semantic import SemanticOptions

logger = logging.getLogger(__name__)
NEIGHBOURS = 5
"""Text neighbours of a pair's item; more than the one item that a named negative is grounded to."""


def ensure_grounded(config: Any, run: RunOptions, train_data: Any) -> None:
    """Write the text neighbours of each pair's item where ``semantic`` runs and no model has named negatives.

    Neighbours of another split, text or encoder are written anew. A folder that the user names is never written to.

    Raises:
        ValueError: If the dataset has no text, the file is damaged, or a model named negatives from another text.
    """
    options, dataset = run.sampler_options, train_data._dataset
    if not isinstance(options, SemanticOptions):
        return
    if options.folder is None:
        make_in_turn(config, run, lambda: _absent(config, run, dataset))
    directory = grounded_directory(config, run, options)
    found = _found(directory, str(config["dataset"]))
    if found is not None and found.provenance.get("model") != NO_MODEL:
        check_named(found, config, run, dataset, directory)


def _absent(config: Any, run: RunOptions, dataset: Any) -> Callable[[], None] | None:
    directory, name = artefact_directory(config, run.hnlm or HNLMOptions()), str(config["dataset"])
    found = _found(directory, name)
    if found is not None and found.provenance.get("model") != NO_MODEL:
        return None
    sources = text_sources(config, run, dataset, directory)
    if sources.encoder is None:
        raise ValueError(
            f"neg_sampler=semantic needs text, {name!r} has none; add an .item file with a title, or use dns"
        )
    wanted, encoder = _neighbours(config, run, dataset, sources), sources.encoder
    same = found is not None and found.pairs_hash == hash_of_training_pairs(dataset)
    if same and found is not None and found.provenance == neighbours_provenance(wanted, encoder):
        return None

    def write() -> None:
        logger.warning(
            "no language model has named negatives of %s, so the %d items nearest in text to each positive stand in; "
            "recbole-hnlm build makes others, with llm_backend or with llm_negatives=hybrid and llm_grounded_items",
            *(name, NEIGHBOURS),
        )
        write_text_neighbours(wanted, encoder)

    return write


def _neighbours(config: Any, run: RunOptions, dataset: Any, sources: ChatSources) -> TextRun:
    options = TextOptions(), GroundingOptions(ground_items=NEIGHBOURS)
    return text_run(config, run, dataset, sources, options)


def neighbours_are_there(directory: Path, name: str) -> bool:
    """Whether a folder holds text neighbours, and not what a model has named, nor a file that nobody can read."""
    try:
        found = _found(directory, name)
    except ArtefactError:
        return False
    return found is not None and found.provenance.get("model") == NO_MODEL


def _found(directory: Path, name: str) -> NegTextManifest | None:
    if not ArtefactPaths(directory, name).path("neg_text.json").exists():
        return None
    return read_neg_text_manifest(directory, name)
