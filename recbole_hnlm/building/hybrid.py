"""The build by hybrid prompts: joins RecBole's dataset and the teacher to the language model that is tuned."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.artefacts.storage import write_text
from recbole_hnlm.building.chat import chat_settings, profiles_by_chat
from recbole_hnlm.building.provenance import settings_of_hybrid
from recbole_hnlm.building.sources import request_of, tables_of, told_sources
from recbole_hnlm.building.teacher import TeacherResult, train_teacher
from recbole_hnlm.llm.negative_stage import Profiles
from recbole_hnlm.llm.report import Stages
from recbole_hnlm.llm.sharding import by_the_first, is_first, is_sharded, wait_for_all
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory

logger = logging.getLogger(__name__)


def build_by_hybrid_prompts(config: Any, run: RunOptions, train_data: Any, directory: Path) -> None:
    """The build by hybrid prompts, in which every process of a group makes vectors."""
    from recbole_hnlm.llm.hybrid.build import TeacherTables, build_by_hybrid, check_sources

    hybrid, dataset, cache, stages = run.hybrid, train_data._dataset, cache_directory(run), Stages()
    assert hybrid is not None
    settings: dict[str, Any] = {"hybrid": settings_of_hybrid(hybrid)}
    tables = tables_of(config, dataset, run.llm)
    check_sources(str(config["dataset"]), tables[0], run.llm, hybrid)
    profiles = None
    if run.chat is not None:
        settings["chat"] = chat_settings(run.chat, run.llm)
        with stages.stage("profiles"):
            profiles = _profiles_of_the_group(config, run, dataset, directory)
    with stages.stage("teacher"):
        teacher = _teacher_of_the_group(config, train_data, run.llm, cache)
    users, items = (
        np.asarray(dataset.field2id_token[key], dtype=str) for key in (dataset.uid_field, dataset.iid_field)
    )
    embeddings = TeacherTables(users[1:], teacher.user_vectors[1:], items[1:], teacher.item_vectors[1:])
    request = request_of(config, run, dataset, teacher, (*tables, directory), profiles)
    build_by_hybrid(request, embeddings, hybrid, settings, stages)
    logger.info("stages of the build\n%s", stages.table())


def _profiles_of_the_group(config: Any, run: RunOptions, dataset: Any, directory: Path) -> Profiles:
    """What the chat model writes; in a group the first process asks, and all read what it has left in the cache."""
    cache = cache_directory(run)
    path = cache / "profiles" / f"{config['dataset']}.json"

    def ask() -> None:
        written = profiles_by_chat(config, run, dataset, told_sources(config, run, dataset, directory))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, [json.dumps(dataclasses.asdict(written), ensure_ascii=False)])

    by_the_first(ask, cache)
    return Profiles(**json.loads(path.read_text(encoding="utf-8")))


def _teacher_of_the_group(config: Any, train_data: Any, options: LLMOptions, cache: Path) -> TeacherResult:
    """The teacher; in a group the first process trains it, and the others read it from the cache."""
    if not is_sharded():
        return train_teacher(config, train_data, options, cache)
    found = train_teacher(config, train_data, options, cache) if is_first() else None
    wait_for_all(cache)
    return found or train_teacher(config, train_data, options, cache)
