"""The build by hybrid prompts: joins RecBole's datasets and their teachers to the language model that is tuned."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from recbole.data import data_preparation
from recbole.utils import init_seed

from recbole_hnlm.artefacts.storage import write_text
from recbole_hnlm.building.chat import asked_of, chat_settings, profiles_by_chat
from recbole_hnlm.building.provenance import settings_of_hybrid
from recbole_hnlm.building.sources import request_of, tables_of, told_sources
from recbole_hnlm.building.teacher import TeacherResult, train_teacher
from recbole_hnlm.data_source import check_dataset_files, load_dataset
from recbole_hnlm.llm.build import read_texts
from recbole_hnlm.llm.negative_stage import Profiles
from recbole_hnlm.llm.report import Stages
from recbole_hnlm.llm.request import BuildRequest
from recbole_hnlm.llm.sharding import by_the_first, is_first, is_sharded, wait_for_all
from recbole_hnlm.llm.text_pipeline import TextRun
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.run_options import RunOptions, cache_directory

if TYPE_CHECKING:
    from recbole_hnlm.llm.hybrid.build import TeacherTables

logger = logging.getLogger(__name__)


def build_by_hybrid_prompts(config: Any, run: RunOptions, train_data: Any, directory: Path) -> None:
    """The build by hybrid prompts, in which every process of a group makes vectors."""
    from recbole_hnlm.llm.hybrid.build import build_by_hybrid, pair_texts

    hybrid, stages = run.hybrid, Stages()
    assert hybrid is not None
    settings: dict[str, Any] = {"hybrid": settings_of_hybrid(hybrid)}
    if run.chat is not None:
        settings["chat"] = chat_settings(run.chat, run.llm)
    mine = _Source(config, run, train_data, directory)
    others = [_Source.of_another(config, run, name) for name in hybrid.options.tune_datasets]
    for source in (mine, *others):  # what costs money or may fail comes before any teacher
        source.write_profiles(stages)
    settings.update(mine.unanswered)
    request, tables = mine.taught(stages)
    pooled = []
    for other in others:
        asked, embeddings = other.taught(stages)
        pooled.append(pair_texts(asked.dataset, read_texts(asked), embeddings))
    build_by_hybrid(request, tables, hybrid, settings, stages, pooled)
    logger.info("stages of the build\n%s", stages.table())


def told_of_others(config: Any, run: RunOptions) -> list[TextRun]:
    """What a chat model is told of the other datasets whose pairs a run tunes on."""
    names = run.hybrid.options.tune_datasets if run.hybrid is not None else ()
    return [_Source.of_another(config, run, name).told() for name in names]


class _Source:
    """A dataset whose pairs are tuned on."""

    def __init__(self, config: Any, run: RunOptions, train_data: Any, directory: Path) -> None:
        """Look at the dataset's text.

        Raises:
            ValueError: If it has none, or the base model cannot read the prompts.
            FileNotFoundError: If there is no such base model.
        """
        from recbole_hnlm.llm.hybrid.build import check_sources

        self._config, self._run, self._train_data, self._directory = config, run, train_data, directory
        self._tables = tables_of(config, train_data._dataset, run.llm)
        self._profiles: Profiles | None = None
        self.unanswered: dict[str, Any] = {}
        assert run.hybrid is not None
        check_sources(str(config["dataset"]), self._tables[0], run.llm, run.hybrid)

    @classmethod
    def of_another(cls, config: Any, run: RunOptions, name: str) -> _Source:
        """Dataset ``name``, read and split as a run with these settings would."""
        if name == config["dataset"]:
            raise ValueError(f"llm_tune_datasets names {name}, the run's own dataset; name the others alone")
        given = {key: value for key, value in config.external_config_dict.items() if key not in ("model", "dataset")}
        other = type(config)(config.model_class, name, config_dict=copy.deepcopy(given))
        check_dataset_files(other)
        init_seed(other["seed"], other["reproducibility"])
        train_data = data_preparation(other, load_dataset(other))[0]
        return cls(other, run, train_data, cache_directory(run))

    def write_profiles(self, stages: Stages) -> None:
        """Have a chat model write the profiles, where the run has one; templates are filled later.

        In a group the first process asks, and all read what it has left in the cache.
        """
        if self._run.chat is None:
            return
        cache, name = cache_directory(self._run), str(self._config["dataset"])
        path = cache / "profiles" / f"{name}.json"

        def ask() -> None:
            sources = told_sources(self._config, self._run, self._train_data._dataset, self._directory)
            written, unanswered = profiles_by_chat(self._config, self._run, self._train_data._dataset, sources)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = {"profiles": dataclasses.asdict(written), "unanswered": unanswered}
            write_text(path, [json.dumps(kept, ensure_ascii=False)])

        with stages.stage("profiles"):
            by_the_first(ask, cache)
        kept = json.loads(path.read_text(encoding="utf-8"))
        self._profiles, self.unanswered = Profiles(**kept["profiles"]), kept["unanswered"]

    def told(self) -> TextRun:
        """What a chat model is told of it."""
        dataset = self._train_data._dataset
        sources = told_sources(self._config, self._run, dataset, self._directory)
        return asked_of(self._config, self._run, dataset, sources)

    def taught(self, stages: Stages) -> tuple[BuildRequest, TeacherTables]:
        """What is asked of a build, with the hard negatives of a teacher, and the teacher's embeddings."""
        from recbole_hnlm.llm.hybrid.build import TeacherTables

        config, run, dataset = self._config, self._run, self._train_data._dataset
        with stages.stage("teacher"):
            teacher = _teacher_of_the_group(config, self._train_data, run.llm, cache_directory(run))
        users, items = (
            np.asarray(dataset.field2id_token[key], dtype=str) for key in (dataset.uid_field, dataset.iid_field)
        )
        tables = TeacherTables(users[1:], teacher.user_vectors[1:], items[1:], teacher.item_vectors[1:])
        return request_of(config, run, dataset, teacher, (*self._tables, self._directory), self._profiles), tables


def _teacher_of_the_group(config: Any, train_data: Any, options: LLMOptions, cache: Path) -> TeacherResult:
    """The teacher; in a group the first process trains it, and the others read it from the cache."""
    if not is_sharded():
        return train_teacher(config, train_data, options, cache)
    found = train_teacher(config, train_data, options, cache) if is_first() else None
    wait_for_all(cache)
    return found or train_teacher(config, train_data, options, cache)
