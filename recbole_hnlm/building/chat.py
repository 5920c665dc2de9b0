"""The offline part by a chat model: joins RecBole's dataset and the run's options to the text pipeline."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.artefacts import Manifest, Provenance, write_artefact
from recbole_hnlm.artefacts.neg_text import remove_neg_text
from recbole_hnlm.artefacts.pairs import rank_tokens, ranks_in
from recbole_hnlm.building.coverage import check_tellable
from recbole_hnlm.building.reviews import reviews_told, training_reviews
from recbole_hnlm.building.unanswered import tell_unanswered, unanswered_of
from recbole_hnlm.llm import AtomicTable, TextEncoder, select_text_fields
from recbole_hnlm.llm.build import profile_settings
from recbole_hnlm.llm.chat import ChatBackend
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.negative_stage import Profiles
from recbole_hnlm.llm.profiles import History
from recbole_hnlm.llm.prompts import prompts_edition
from recbole_hnlm.llm.source_text import sources_of
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.llm.text_pipeline import TextRun, artefact_contents, run_text_pipeline, write_profiles
from recbole_hnlm.models.text import training_pairs
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.chat import OpenAIOptions, TransformersOptions
from recbole_hnlm.options.text import GroundingOptions, TextOptions
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.run_options.chat import ChatRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatSources:
    """What a build by a chat model reads.

    Attributes:
        item_table: The dataset's ``.item`` file, or None.
        user_table: Its ``.user`` file, or None.
        encoder: What makes text vectors, or None where no item has text or nothing is encoded.
        order: Order of the training pairs in time, shape ``(E,)``.
        directory: Where the artefacts go.
        cache: Where answers and vectors are kept.
    """

    item_table: AtomicTable | None
    user_table: AtomicTable | None
    encoder: TextEncoder | None
    order: np.ndarray
    directory: Path
    cache: Path


def build_by_chat(config: Any, run: RunOptions, dataset: Any, sources: ChatSources) -> Manifest:
    """Ask the model for profiles and hard negatives, and write the artefacts of the run and ``NAME.neg_text``.

    What was answered is kept: a build that was killed or ran out of its budget asks only the rest.

    Raises:
        ValueError: If no item has text, or too few to train on, or there is no key where one is needed.
    """
    text = asked_of(config, run, dataset, sources)
    check_tellable(run, text.corpus)
    assert sources.encoder is not None, "items have text, so there is an encoder"
    told = text.corpus
    files = sources_of((told.item_table, told.item_fields), (told.user_table, told.user_fields))
    text = dataclasses.replace(text, sources={**files, **reviews_told(config, dataset, run)})
    result = run_text_pipeline(text, chat_backend(config, run, sources.cache), sources.encoder)
    if result.manifest is None:
        remove_neg_text(sources.directory, text.dataset)
    provenance = _provenance(run, text, sources.encoder, result.stages)
    written = write_artefact(sources.directory, text.dataset, artefact_contents(text, result), provenance)
    tell_unanswered(written)
    return written


def chat_backend(config: Any, run: RunOptions, cache: Path, *, estimates_only: bool = False) -> ChatBackend:
    """The chat model of a run behind the cache of its answers; the run's budget holds for all that is asked of it."""
    from recbole_hnlm.llm.backends import CachedBackend, OpenAIBackend, OpenAIBatchBackend, build_transformers_backend

    chat = run.chat
    assert chat is not None
    backend: CachedBackend
    if isinstance(chat.model, TransformersOptions):
        backend = build_transformers_backend(chat.model, cache, chat.spending, str(config["device"]))
    elif chat.backend == "openai-batch":
        backend = OpenAIBatchBackend(chat.model, cache, chat.batch, chat.spending, estimates_only=estimates_only)
    elif chat.backend == "openai":
        backend = OpenAIBackend(chat.model, cache, chat.spending, estimates_only=estimates_only)
    else:
        raise NotImplementedError(f"llm_backend={chat.backend} is not made here yet")
    backend.spent = chat.spent
    return backend


def chat_settings(chat: ChatRun, options: LLMOptions) -> dict[str, Any]:
    """What of a run's options decides the texts, for the manifest; not how they were asked for, nor what they cost."""
    model: OpenAIOptions | TransformersOptions = chat.model
    settings = {
        "backend": backend_family(chat.backend),
        "chat_model": model.chat_model,
        "chat_revision": model.chat_revision,
        "chat_quantization": getattr(model, "chat_quantization", None),
        "temperature": model.temperature,
        "negatives_per_pair": options.negatives_per_pair,
        **dataclasses.asdict(chat.text),
        **dataclasses.asdict(chat.grounding),
        "prompts": prompts_edition(chat.text.domain, chat.text.prompts),
    }
    known: dict[str, Any] = json.loads(json.dumps(settings))
    return known


def backend_family(backend: str) -> str:
    """A batch job is answered by the same model as a request."""
    return "openai" if backend == "openai-batch" else backend


def profiles_by_chat(
    config: Any, run: RunOptions, dataset: Any, sources: ChatSources
) -> tuple[Profiles, dict[str, Any]]:
    """The profiles alone, for hybrid prompts, and :func:`unanswered_of` them; what was answered is kept, as for
    :func:`build_by_chat`.

    Raises:
        ValueError: If no item has text, or there is no key where one is needed.
    """
    text = asked_of(config, run, dataset, sources)
    profiles, stages = write_profiles(text, chat_backend(config, run, sources.cache))
    return profiles, unanswered_of(stages)


def asked_of(config: Any, run: RunOptions, dataset: Any, sources: ChatSources) -> TextRun:
    """What a chat model is asked of a run.

    Raises:
        ValueError: If the dataset has no text.
    """
    assert run.chat is not None
    table = sources.item_table
    if table is None or not select_text_fields(table, run.llm.text_fields):
        raise ValueError(
            f"llm_backend={run.chat.backend} needs text to tell the model, {config['dataset']!r} has none; add an "
            ".item file with a title, or use llm_backend=template"
        )
    return text_run(config, run, dataset, sources, (run.chat.text, run.chat.grounding))


def text_run(
    config: Any, run: RunOptions, dataset: Any, sources: ChatSources, options: tuple[TextOptions, GroundingOptions]
) -> TextRun:
    """The dataset's texts and pairs, and what is made of them."""
    return TextRun(
        dataset=str(config["dataset"]),
        output_dir=sources.directory,
        cache_dir=sources.cache,
        corpus=corpus_of(config, run, dataset, (sources.item_table, sources.user_table), sources.order),
        text=options[0],
        grounding=options[1],
        negatives_per_pair=run.llm.negatives_per_pair,
        text_width=run.llm.text_width,
        encoder_batch_size=run.llm.encoder_batch_size,
        seed=run.llm.seed,
        show_progress=bool(config["show_progress"]),
    )


def corpus_of(
    config: Any, run: RunOptions, dataset: Any, tables: tuple[AtomicTable | None, AtomicTable | None], order: np.ndarray
) -> Corpus:
    """The training split by rank, every pair once, and what was written at each.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        dataset: The training split.
        tables: The dataset's item and user files.
        order: Order of the training pairs in time.
    """
    options = run.llm
    users, items = (tokens[order] for tokens in training_pairs(dataset))
    catalogue, _ = rank_tokens(np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)[1:])
    owners, user_ranks = rank_tokens(users)
    item_ranks = ranks_in(items, catalogue)
    _, first = np.unique(user_ranks * len(catalogue) + item_ranks, return_index=True)
    first.sort()
    item_table, user_table = tables
    told = run.chat is not None and run.chat.text.reviews > 0
    reviews = training_reviews(config, dataset, (users.tolist(), items.tolist())) if told else None
    return Corpus(
        users=owners,
        items=catalogue,
        history=History(
            user_ranks[first], item_ranks[first], options.user_history, options.user_history_order, options.seed
        ),
        item_table=item_table,
        item_fields=() if item_table is None else select_text_fields(item_table, options.text_fields),
        user_table=user_table,
        user_fields=() if user_table is None else select_text_fields(user_table, options.user_text_fields),
        reviews=None if reviews is None else [reviews[place] for place in first],
        template_words=options.profile_words,
    )


def _provenance(run: RunOptions, text: TextRun, encoder: TextEncoder, stages: Sequence[StageCounts]) -> Provenance:
    options, chat, corpus = run.llm, run.chat, text.corpus
    assert chat is not None
    return Provenance(
        encoder=encoder.name,
        encoder_revision=encoder.revision,
        pooling=encoder.pooling,
        template=text.prompts().name,
        item_fields=tuple(corpus.item_fields),
        user_fields=tuple(corpus.user_fields),
        settings={
            **profile_settings(options),
            "encoder_backend": encoder.backend,
            "encoder_precision": encoder.precision,
            "text_width": options.text_width,
            "chat": chat_settings(chat, options),
            "sources": dict(text.sources),
            **unanswered_of(stages),
        },
    )
