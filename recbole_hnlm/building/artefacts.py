"""The offline part of one run, end to end: split, teacher, text, artefacts. Joins RecBole's dataset to the file
format."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts import ArtefactReader
from recbole_hnlm.artefacts.neg_text import remove_neg_text
from recbole_hnlm.artefacts.storage import check_writable
from recbole_hnlm.building.chat import build_by_chat
from recbole_hnlm.building.coverage import warn_of_thin_text
from recbole_hnlm.building.grounded import neighbours_are_there
from recbole_hnlm.building.hybrid import build_by_hybrid_prompts
from recbole_hnlm.building.provenance import check_provenance, check_sources
from recbole_hnlm.building.sources import request_of, text_and_encoder, text_sources, texts_of
from recbole_hnlm.building.teacher import teacher_class, train_teacher
from recbole_hnlm.building.turns import in_turn, one_at_a_time
from recbole_hnlm.building.unanswered import tell_unanswered
from recbole_hnlm.building.user_text import encode_users, lacks_user_text
from recbole_hnlm.llm import build_artefacts
from recbole_hnlm.llm.report import Stages
from recbole_hnlm.llm.sharding import encode_share, first_says, is_first, is_sharded, wait_for_all
from recbole_hnlm.models.abilities import check_model
from recbole_hnlm.models.text import artefact_directory, hash_of_training_pairs
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.samplers.semantic import SemanticOptions
from recbole_hnlm.training.processes import on_first_rank

logger = logging.getLogger(__name__)


def ensure_artefacts(config: Any, run: RunOptions, train_data: Any) -> Path | None:
    """Build what the run reads and is not there yet; refuse what is there and does not fit.

    Of several processes the first one looks and builds, and all go on or fail together.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        train_data: A loader over the training split.

    Returns:
        The artefacts' folder, or None where the run reads no text and draws nothing that a language model names.

    Raises:
        ValueError: If artefacts are there but damaged or of another split, and ``hnlm_rebuild`` is off.
        FileNotFoundError: If this process does not see what the first one has built on another host.
    """
    if run.hnlm is None or not reads_artefacts(run):
        return None
    options = run.hnlm
    directory, name = artefact_directory(config, options), str(config["dataset"])
    manifest = directory / f"{name}.hnlm.json"

    def lacking() -> bool:
        return bool(first_says(options.rebuild or not manifest.exists()))

    def check_or_build() -> None:
        if lacking():
            with one_at_a_time(config, run):
                if lacking():  # still, after the wait for another build
                    build(config, run, train_data, options)
                    if is_sharded():
                        wait_for_all(cache_directory(run))
                    return
        refuse_unfit_artefacts(config, run, train_data._dataset, directory)

    def absent_users() -> Callable[[], None] | None:
        lacking = lacks_user_text(run, directory, name)
        return partial(encode_users, config, run, train_data._dataset, directory) if lacking else None

    def make_whole() -> None:
        check_or_build()
        if is_first():
            in_turn(config, run, absent_users)

    on_first_rank(config, make_whole)
    if not manifest.exists():
        raise FileNotFoundError(
            f"the first process has built {manifest}, which this host does not see; share the folder between the hosts "
            "(hnlm_artefact_dir) or copy it"
        )
    return directory


def refuse_unfit_artefacts(config: Any, run: RunOptions, dataset: Any, directory: Path) -> None:
    """Refuse artefacts that are there, and damaged or not those that the run asks for.

    Raises:
        ValueError: Naming what is wrong with them, and the remedy.
    """
    found = ArtefactReader.open(directory, str(config["dataset"]), pairs_hash=hash_of_training_pairs(dataset))
    check_provenance(found.manifest, run, directory)
    check_sources(found.manifest, config, run, dataset, directory)
    tell_unanswered(found.manifest)


def reads_artefacts(run: RunOptions) -> bool:
    """Whether a run reads text, or draws what a language model of its own names, which is written with the vectors."""
    own = run.sampler_options
    if run.reads_text:
        return True
    if not isinstance(own, SemanticOptions) or own.folder is not None:
        return False
    by_chat = run.chat is not None and run.llm.names_by == "text" and run.chat.text.pair_grouping != "none"
    return by_chat or run.hybrid is not None


def build(config: Any, run: RunOptions, train_data: Any, options: HNLMOptions) -> None:
    """Make every artefact of a run: profiles, text vectors, each pair's hard negative, manifest.

    In a group that ``torchrun`` started every process encodes its share of the texts; rank 0 does the rest.
    """
    dataset = train_data._dataset
    directory, name = artefact_directory(config, options), str(config["dataset"])
    if is_first():
        check_writable(directory)
    logger.info("building hard negatives of %s in %s", name, directory)
    cache = cache_directory(run)
    check_model(config, dataset, run)
    if run.llm.names_by == "text":
        if is_first():
            build_by_chat(config, run, dataset, text_sources(config, run, dataset, directory))
        return
    teacher_class(run.llm)
    if run.hybrid is not None:
        build_by_hybrid_prompts(config, run, train_data, directory)
        return
    item_table, user_table, encoder = text_and_encoder(config, dataset, run.llm)
    if is_first():
        warn_of_thin_text(run, dataset, item_table)
    if encoder is not None and item_table is not None and is_sharded():
        texts = texts_of(item_table, dataset, run.llm)
        show = bool(config["show_progress"])
        encode_share(texts, encoder, cache, batch_size=run.llm.encoder_batch_size, show_progress=show)
    if not is_first():
        return
    stages = Stages()
    with stages.stage("teacher"):
        teacher = train_teacher(config, train_data, run.llm, cache)
    request = request_of(config, run, dataset, teacher, (item_table, user_table, directory))
    with stages.stage("text vectors and writing"):
        _remove_names(directory, name)
        build_artefacts(request, encoder)
    logger.info("stages of the build\n%s", stages.table())


def _remove_names(directory: Path, name: str) -> None:
    """Forget what a model named for artefacts that are made without it; text neighbours belong to none and stay."""
    if not neighbours_are_there(directory, name):
        remove_neg_text(directory, name)
