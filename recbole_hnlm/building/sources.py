"""What a build reads of a run: the dataset's text files, their encoder, and the training pairs in the order of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.building.chat import ChatSources
from recbole_hnlm.building.reviews import reviews_told
from recbole_hnlm.building.teacher import TeacherResult
from recbole_hnlm.config import encoding_of
from recbole_hnlm.llm import (
    AtomicTable,
    BuildRequest,
    EncoderRun,
    TextEncoder,
    build_encoder,
    read_atomic,
    select_text_fields,
)
from recbole_hnlm.llm.negative_stage import Profiles
from recbole_hnlm.llm.profiles import item_profiles
from recbole_hnlm.llm.sharding import local_device
from recbole_hnlm.models.text import training_pairs
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory


def text_sources(config: Any, run: RunOptions, dataset: Any, directory: Path) -> ChatSources:
    """The dataset's text, its encoder and the folders of a build."""
    items, users, encoder = text_and_encoder(config, dataset, run.llm)
    return ChatSources(items, users, encoder, by_time(dataset), directory, cache_directory(run))


def told_sources(config: Any, run: RunOptions, dataset: Any, directory: Path) -> ChatSources:
    """The same without an encoder, where a model is told of the dataset and nothing is encoded."""
    return ChatSources(*tables_of(config, dataset, run.llm), None, by_time(dataset), directory, cache_directory(run))


def by_time(dataset: Any) -> np.ndarray:
    """Order of the training pairs in time, so that a profile can name the most recent; as they stand without times."""
    feat, field = dataset.inter_feat, dataset.time_field
    times = feat[field].numpy() if field in feat.columns else np.zeros(len(feat))
    return np.argsort(times, kind="stable")


def text_and_encoder(
    config: Any, dataset: Any, options: LLMOptions
) -> tuple[AtomicTable | None, AtomicTable | None, TextEncoder | None]:
    """The dataset's item and user files and the encoder of its text: all that can fail, before the teacher trains."""
    items, users = tables_of(config, dataset, options)
    if items is None or not select_text_fields(items, options.text_fields):
        return items, users, None
    encoder = build_encoder(options.encoder, local_device(str(config["device"])), EncoderRun.of(options))
    return items, users, encoder


def source_files(config: Any) -> dict[str, Path]:
    """Where the dataset's item and user files are, or would be."""
    home, name = Path(config["data_path"]), str(config["dataset"])
    return {kind: home / f"{name}.{kind}" for kind in ("item", "user")}


def tables_of(config: Any, dataset: Any, options: LLMOptions) -> tuple[AtomicTable | None, AtomicTable | None]:
    """The dataset's item and user files, with the fields that the options name."""
    item_file, user_file = source_files(config).values()
    items = _table(item_file, dataset.iid_field, dataset, config)
    users = _table(user_file, dataset.uid_field, dataset, config)
    if items is not None:
        select_text_fields(items, options.text_fields)
    if users is not None:
        select_text_fields(users, options.user_text_fields)
    for table, path, key in ((items, item_file, "text_fields"), (users, user_file, "user_text_fields")):
        asked = getattr(options, key)
        if table is None and asked:
            raise ValueError(f"llm_{key}={asked} but there is no {path}; put it there, or remove llm_{key}")
    return items, users


def texts_of(table: AtomicTable, dataset: Any, options: LLMOptions) -> list[str]:
    """The texts that :func:`build_artefacts` will ask vectors of."""
    items = dataset.field2id_token[dataset.iid_field][1:].tolist()
    profiles = item_profiles(table, select_text_fields(table, options.text_fields), items, options.profile_words)
    return [text for text in profiles if text]


def _table(path: Path, key: str, dataset: Any, config: Any) -> AtomicTable | None:
    """An atomic file of the dataset, or None where it has none; spaces part the tokens of sequences, as in prose."""
    if not path.is_file():
        return None
    table = read_atomic(path, key=key, separator=config["field_separator"], encoding=encoding_of(config))
    known = set(dataset.field2id_token[key])
    if not len(table.frame):
        raise ValueError(f"{path} has a header and no rows; fill it, or remove it to do without")
    if not any(token in known for token in table.column(key)):
        raise ValueError(f"no {key} of {path} occurs in the interactions; check the file and field_separator")
    between = config["seq_separator"]
    for field, kind in table.types.items():
        if kind == "token_seq" and between != " ":
            table.frame[field] = table.frame[field].str.replace(between, " ", regex=False)
    return table


def request_of(
    config: Any,
    run: RunOptions,
    dataset: Any,
    teacher: TeacherResult,
    files: tuple[AtomicTable | None, AtomicTable | None, Path],
    profiles: Profiles | None = None,
) -> BuildRequest:
    """What is asked of a build: pairs in the order of time; ``files`` are item table, user table and output.

    ``profiles`` are what a chat model has written; the build fills templates without.
    """
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
        profiles=profiles,
        reviews={} if profiles is None else reviews_told(config, dataset, run),
        options=run.llm,
        device=str(config["device"]),
        show_progress=bool(config["show_progress"]),
    )
