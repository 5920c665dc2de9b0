"""The offline part of one run, end to end: split, teacher, text, artefacts. Joins RecBole's dataset to the file
format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.artefacts import ArtefactReader
from recbole_hnlm.artefacts.neg_text import remove_neg_text
from recbole_hnlm.building.chat import ChatSources, build_by_chat, plan_by_chat
from recbole_hnlm.building.provenance import check_provenance, settings_of_hybrid
from recbole_hnlm.building.teacher import TeacherResult, teacher_class, train_teacher
from recbole_hnlm.llm import (
    AtomicTable,
    BuildRequest,
    EncoderRun,
    TextEncoder,
    build_artefacts,
    build_encoder,
    read_atomic,
    select_text_fields,
)
from recbole_hnlm.llm.profiles import item_profiles
from recbole_hnlm.llm.report import Stages
from recbole_hnlm.llm.sharding import encode_share, first_says, is_first, is_sharded, local_device, wait_for_all
from recbole_hnlm.models.abilities import check_model
from recbole_hnlm.models.text import artefact_directory, hash_of_training_pairs, training_pairs
from recbole_hnlm.options import HNLMOptions, LLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory
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
        The artefacts' folder, or None where the run reads no text.

    Raises:
        ValueError: If artefacts are there but damaged or of another split, and ``hnlm_rebuild`` is off.
        FileNotFoundError: If this process does not see what the first one has built on another host.
    """
    if run.hnlm is None or not run.reads_text:
        return None
    options = run.hnlm
    directory, name = artefact_directory(config, options), str(config["dataset"])
    manifest = directory / f"{name}.hnlm.json"

    def check_or_build() -> None:
        if first_says(options.rebuild or not manifest.exists()):
            build(config, run, train_data, options)
            if is_sharded():
                wait_for_all(cache_directory(run))
            return
        reader = ArtefactReader.open(directory, name, pairs_hash=hash_of_training_pairs(train_data._dataset))
        check_provenance(reader.manifest, run, directory)

    on_first_rank(config, check_or_build)
    if not manifest.exists():
        raise FileNotFoundError(
            f"the first process has built {manifest}, which this host does not see; share the folder between the hosts "
            "(hnlm_artefact_dir) or copy it"
        )
    return directory


def build(config: Any, run: RunOptions, train_data: Any, options: HNLMOptions) -> None:
    """Make every artefact of a run: profiles, text vectors, each pair's hard negative, manifest.

    In a group that ``torchrun`` started every process encodes its share of the texts; rank 0 does the rest.
    """
    dataset = train_data._dataset
    directory, name = artefact_directory(config, options), str(config["dataset"])
    logger.info("building hard negatives of %s in %s", name, directory)
    cache = cache_directory(run)
    check_model(config, dataset, run)
    if is_first():
        remove_neg_text(directory, name)
    if run.chat is not None:
        if is_first():
            build_by_chat(config, run, dataset, text_sources(config, run, dataset, directory))
        return
    teacher_class(run.llm)
    if run.hybrid is not None:
        _build_by_hybrid(config, run, train_data, directory)
        return
    item_table, user_table, encoder = _text_sources(config, dataset, run.llm)
    if encoder is not None and item_table is not None and is_sharded():
        texts = _texts(item_table, dataset, run.llm)
        show = bool(config["show_progress"])
        encode_share(texts, encoder, cache, batch_size=run.llm.encoder_batch_size, show_progress=show)
    if not is_first():
        return
    stages = Stages()
    with stages.stage("teacher"):
        teacher = train_teacher(config, train_data, run.llm, cache)
    request = _request(config, run, dataset, teacher, (item_table, user_table, directory))
    with stages.stage("text vectors and writing"):
        build_artefacts(request, encoder)
    logger.info("stages of the build\n%s", stages.table())


def _build_by_hybrid(config: Any, run: RunOptions, train_data: Any, directory: Path) -> None:
    """The build by hybrid prompts, in which every process of a group makes vectors."""
    from recbole_hnlm.llm.hybrid.build import TeacherTables, build_by_hybrid, check_sources

    hybrid, dataset, cache, stages = run.hybrid, train_data._dataset, cache_directory(run), Stages()
    assert hybrid is not None
    settings = settings_of_hybrid(hybrid)
    tables = tables_of(config, dataset, run.llm)
    check_sources(str(config["dataset"]), tables[0], run.llm, hybrid)
    with stages.stage("teacher"):
        teacher = _teacher_of_the_group(config, train_data, run.llm, cache)
    users, items = (
        np.asarray(dataset.field2id_token[key], dtype=str) for key in (dataset.uid_field, dataset.iid_field)
    )
    embeddings = TeacherTables(users[1:], teacher.user_vectors[1:], items[1:], teacher.item_vectors[1:])
    request = _request(config, run, dataset, teacher, (*tables, directory))
    build_by_hybrid(request, embeddings, hybrid, settings, stages)
    logger.info("stages of the build\n%s", stages.table())


def _teacher_of_the_group(config: Any, train_data: Any, options: LLMOptions, cache: Path) -> TeacherResult:
    """The teacher; in a group the first process trains it, and the others read it from the cache."""
    if not is_sharded():
        return train_teacher(config, train_data, options, cache)
    found = train_teacher(config, train_data, options, cache) if is_first() else None
    wait_for_all(cache)
    return found or train_teacher(config, train_data, options, cache)


def _request(
    config: Any,
    run: RunOptions,
    dataset: Any,
    teacher: TeacherResult,
    files: tuple[AtomicTable | None, AtomicTable | None, Path],
) -> BuildRequest:
    """What is asked of a build: pairs in the order of time; ``files`` are item table, user table and output."""
    users, items = training_pairs(dataset)
    order = by_time(dataset)
    catalogue = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
    return BuildRequest(
        dataset=str(config["dataset"]),
        output_dir=files[2],
        cache_dir=cache_directory(run),
        user_tokens=users[order],
        item_tokens=items[order],
        catalogue=catalogue[1:],
        hard_negatives=catalogue[teacher.negatives[order]],
        item_table=files[0],
        user_table=files[1],
        fallback_vectors=teacher.item_vectors[1:],
        teacher=teacher.description,
        options=run.llm,
        device=str(config["device"]),
        show_progress=bool(config["show_progress"]),
    )


def plan(config: Any, run: RunOptions, train_data: Any) -> str:
    """What a build by a chat model would take, as a table; nothing is asked, encoded or written.

    Raises:
        ValueError: If the run asks no chat model.
    """
    if run.chat is None or run.hnlm is None:
        raise ValueError("llm_backend=template asks no model, so a build costs nothing; set llm_backend to plan one")
    dataset = train_data._dataset
    directory = artefact_directory(config, run.hnlm)
    return plan_by_chat(config, run, dataset, text_sources(config, run, dataset, directory))


def text_sources(config: Any, run: RunOptions, dataset: Any, directory: Path) -> ChatSources:
    """The dataset's text, its encoder and the folders of a build."""
    items, users, encoder = _text_sources(config, dataset, run.llm)
    return ChatSources(items, users, encoder, by_time(dataset), directory, cache_directory(run))


def by_time(dataset: Any) -> np.ndarray:
    """Order of the training pairs in time, so that a profile can name the most recent; as they stand without times."""
    feat, field = dataset.inter_feat, dataset.time_field
    times = feat[field].numpy() if field in feat.columns else np.zeros(len(feat))
    return np.argsort(times, kind="stable")


def _text_sources(
    config: Any, dataset: Any, options: LLMOptions
) -> tuple[AtomicTable | None, AtomicTable | None, TextEncoder | None]:
    """The dataset's item and user files and the encoder of its text: all that can fail, before the teacher trains."""
    items, users = tables_of(config, dataset, options)
    if items is None or not select_text_fields(items, options.text_fields):
        return items, users, None
    encoder = build_encoder(options.encoder, local_device(str(config["device"])), EncoderRun.of(options))
    return items, users, encoder


def tables_of(config: Any, dataset: Any, options: LLMOptions) -> tuple[AtomicTable | None, AtomicTable | None]:
    """The dataset's item and user files, with the fields that the options name."""
    home, name = Path(config["data_path"]), str(config["dataset"])
    items = _table(home / f"{name}.item", dataset.iid_field, dataset, config)
    users = _table(home / f"{name}.user", dataset.uid_field, dataset, config)
    if items is not None:
        select_text_fields(items, options.text_fields)
    if users is not None:
        select_text_fields(users, options.user_text_fields)
    if items is None and options.text_fields:
        raise ValueError(f"llm_text_fields={options.text_fields} but there is no {home / name}.item; put it there")
    return items, users


def _texts(table: AtomicTable, dataset: Any, options: LLMOptions) -> list[str]:
    """The texts that :func:`build_artefacts` will ask vectors of."""
    items = dataset.field2id_token[dataset.iid_field][1:].tolist()
    profiles = item_profiles(table, select_text_fields(table, options.text_fields), items, options.profile_words)
    return [text for text in profiles if text]


def _table(path: Path, key: str, dataset: Any, config: Any) -> AtomicTable | None:
    """An atomic file of the dataset, or None where the dataset has none."""
    if not path.is_file():
        return None
    table = read_atomic(path, key=key, separator=config["field_separator"])
    known = set(dataset.field2id_token[key])
    if not any(token in known for token in table.column(key)):
        raise ValueError(f"no {key} of {path} occurs in the interactions; check the file and field_separator")
    return table
