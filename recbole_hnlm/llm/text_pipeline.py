"""The text pipeline end to end: profiles, hard negatives as text, grounding, vectors (HNLMRec, arXiv 2504.04726).

Legend: P training pairs, K negatives per pair, W width of the text vectors.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_hnlm.artefacts.neg_text import NegativeTable, NegTextManifest, write_neg_text
from recbole_hnlm.artefacts.pairs import hash_pairs
from recbole_hnlm.artefacts.writer import ArtefactContents
from recbole_hnlm.llm.cache import VectorCache, encode_cached
from recbole_hnlm.llm.chat import ChatBackend
from recbole_hnlm.llm.clustering import PairFeatures
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.encoders import TextEncoder
from recbole_hnlm.llm.grounding import Grounding, GroundingInput, ground
from recbole_hnlm.llm.grouping import PairGroups, group_pairs
from recbole_hnlm.llm.nearest import check_search
from recbole_hnlm.llm.negative_stage import NegativeTexts, Profiles, negative_requests, write_negatives
from recbole_hnlm.llm.negative_vectors import EmbeddedTexts, PooledNegatives, embed_texts, pool_negatives
from recbole_hnlm.llm.profile_stages import write_item_profiles, write_user_profiles
from recbole_hnlm.llm.prompts import PromptSet, load_prompts
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.llm.text_space import TextSpace
from recbole_hnlm.options.text import GroundingOptions, TextOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextRun:
    """One run of the pipeline.

    Attributes:
        dataset: Name of the dataset, which names the files.
        output_dir: Where ``NAME.neg_text`` goes.
        cache_dir: Where encoded texts are kept.
        corpus: The dataset's text and training pairs.
        text: What the model is asked for.
        grounding: How texts become catalogue items.
        negatives_per_pair: ``K``.
        text_width: ``W``; 0 keeps the encoder's width.
        encoder_batch_size: Texts encoded at a time.
        seed: Seed of the clustering.
        show_progress: Whether to show bars.
        sources: Digests of the files that the corpus was read from, which ``NAME.neg_text`` records.
    """

    dataset: str
    output_dir: str | Path
    cache_dir: str | Path
    corpus: Corpus
    text: TextOptions = field(default_factory=TextOptions)
    grounding: GroundingOptions = field(default_factory=GroundingOptions)
    negatives_per_pair: int = 1
    text_width: int = 0
    encoder_batch_size: int = 128
    seed: int = 2020
    show_progress: bool = False
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def prompts(self) -> PromptSet:
        """The prompts that the options ask for."""
        table = self.corpus.item_table
        return load_prompts(self.text.domain, self.text.prompts, () if table is None else table.types)

    def item_texts(self, profiles: Profiles) -> list[str]:
        """The text of each item that its vector is made of."""
        return list(self.corpus.item_templates if self.text.item_vectors == "fields" else profiles.items)


@dataclass(frozen=True)
class TextResult:
    """What the pipeline has made, by rank.

    Attributes:
        profiles: Profiles of users and items.
        texts: Hard negatives as text.
        vectors: Text vectors of the items and of the distinct negatives.
        grounding: Catalogue items of the negatives.
        pooled: One vector per pair.
        manifest: Manifest of ``NAME.neg_text``; None where no hard negatives were asked for.
        stages: Figures of the stages that asked the model.
    """

    profiles: Profiles
    texts: NegativeTexts
    vectors: EmbeddedTexts
    grounding: Grounding
    pooled: PooledNegatives
    manifest: NegTextManifest | None
    stages: tuple[StageCounts, ...]


def run_text_pipeline(run: TextRun, backend: ChatBackend, encoder: TextEncoder) -> TextResult:
    """Make profiles, negatives, their vectors and ``NAME.neg_text``; without pairs to ask for, the profiles alone.

    Every stage streams through the backend's cache and the cache of vectors, so a run that was killed asks and encodes
    only what is missing and ends with the bytes of an undisturbed one. Each stage ends with a table in the log.

    Args:
        run: What to do.
        backend: The model that chats.
        encoder: What makes text vectors.

    Raises:
        ValueError: If the prompts are wrong or no item has text.
        ImportError: If grounding needs what is not installed.
        RunStopped: If hardly any answer of the model can be used.
    """
    check_search(run.grounding.ground_search)
    corpus, options, prompts, show = run.corpus, run.text, run.prompts(), run.show_progress
    profiles, profile_counts = write_profiles(run, backend)
    cache = VectorCache(run.cache_dir, encoder)
    groups = _groups(run, profiles, encoder, cache)
    requests = negative_requests(prompts, corpus, profiles, groups, options, run.negatives_per_pair)
    texts, negative_counts = write_negatives(
        backend, requests, corpus, groups, options, count=run.negatives_per_pair, show_progress=show
    )
    vectors = embed_texts(
        texts,
        run.item_texts(profiles),
        encoder,
        cache,
        width=run.text_width,
        batch_size=run.encoder_batch_size,
        show_progress=show,
    )
    given = GroundingInput(corpus.pair_users, corpus.pair_items, texts.rows, vectors.names, vectors.items)
    grounding = ground(given, run.grounding)
    manifest = None
    if options.pair_grouping != "none":
        table = negative_table(run, texts, grounding, _provenance(run, prompts, backend, encoder))
        manifest = write_neg_text(run.output_dir, run.dataset, table)
    pooled = pool_negatives(texts, vectors.names)
    stages = (*profile_counts, negative_counts)
    return TextResult(profiles, texts, vectors, grounding, pooled, manifest, stages)


def write_profiles(run: TextRun, backend: ChatBackend) -> tuple[Profiles, tuple[StageCounts, ...]]:
    """The first two stages: profiles of items and, made of them, of users; and what became of the requests.

    Args:
        run: What to do.
        backend: The model that chats.

    Raises:
        ValueError: If the prompts are wrong.
        RunStopped: If hardly any answer of the model can be used.
    """
    corpus, options, prompts, show = run.corpus, run.text, run.prompts(), run.show_progress
    items, item_counts = write_item_profiles(backend, prompts, corpus, options, show_progress=show)
    users, user_counts = write_user_profiles(backend, prompts, corpus, items, options, show_progress=show)
    return Profiles(users, items), (item_counts, user_counts)


def artefact_contents(run: TextRun, result: TextResult) -> ArtefactContents:
    """The result as :func:`~recbole_hnlm.artefacts.writer.write_artefact` takes it."""
    corpus = run.corpus
    return ArtefactContents(
        user_tokens=corpus.users,
        item_tokens=corpus.items,
        pair_users=corpus.pair_users,
        pair_items=corpus.pair_items,
        neg_rows=result.pooled.neg_rows,
        neg_ids=result.pooled.neg_ids,
        neg_vectors=result.pooled.neg_vectors,
        item_vectors=result.vectors.items,
        item_profiles=result.profiles.items,
        user_profiles=result.profiles.users,
        pairs=len(corpus.pair_users),
        pairs_hash=_pairs_hash(corpus),
    )


def _groups(run: TextRun, profiles: Profiles, encoder: TextEncoder, cache: VectorCache) -> PairGroups:
    if run.text.pair_grouping != "cluster":
        return group_pairs(run.corpus, run.text)
    size, show = run.encoder_batch_size, run.show_progress
    items, users = (
        encode_cached(texts, encoder, cache, batch_size=size, show_progress=show)[0]
        for texts in (run.item_texts(profiles), profiles.users)
    )
    told = np.any(items != 0, axis=1)
    space = TextSpace.of(items, told, run.text_width)
    pairs = run.corpus.pair_users, run.corpus.pair_items
    features = PairFeatures(space.project(users), space.project(items), *pairs)
    return group_pairs(run.corpus, run.text, features, run.seed)


def negative_table(
    run: TextRun, texts: NegativeTexts, grounding: Grounding, provenance: Mapping[str, Any]
) -> NegativeTable:
    """What goes into ``NAME.neg_text``."""
    corpus = run.corpus
    return NegativeTable(
        user_tokens=corpus.users,
        item_tokens=corpus.items,
        names=texts.names,
        pair_users=corpus.pair_users,
        pair_items=corpus.pair_items,
        name_rows=texts.rows,
        items=grounding.items,
        similarity=grounding.similarity,
        pairs_hash=_pairs_hash(corpus),
        provenance=provenance,
    )


def _pairs_hash(corpus: Corpus) -> str:
    users = np.asarray(corpus.users, dtype=object)[corpus.pair_users]
    items = np.asarray(corpus.items, dtype=object)[corpus.pair_items]
    return hash_pairs(users, items)


def _provenance(run: TextRun, prompts: PromptSet, backend: ChatBackend, encoder: TextEncoder) -> dict[str, Any]:
    """What decides the content of the file; prompts of the user's own are known by what they say, not by their path."""
    settings = {**dataclasses.asdict(run.text), **dataclasses.asdict(run.grounding)}
    settings.pop("prompts")
    return {
        "model": backend.name,
        "model_revision": backend.revision,
        "decoding": dict(backend.decoding),
        "prompts": prompts.name,
        "prompts_sha256": prompts.fingerprint,
        "encoder": encoder.name,
        "encoder_revision": encoder.revision,
        "item_fields": list(run.corpus.item_fields),
        "user_fields": list(run.corpus.user_fields),
        "sources": dict(run.sources),
        "settings": {
            **settings,
            "negatives_per_pair": run.negatives_per_pair,
            "text_width": run.text_width,
            "user_history": run.corpus.history.length,
            "user_history_order": run.corpus.history.order,
            "seed": run.seed,
        },
    }
