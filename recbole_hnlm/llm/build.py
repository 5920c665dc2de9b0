"""Builds the artefact of a dataset: profiles, text vectors, and a hard-negative vector per pair.

Legend: P training pairs, K negatives per pair, n items of the catalogue, S and D vector widths.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.manifest import Provenance
from recbole_hnlm.artefacts.pairs import (
    hash_pairs,
    item_neg_id,
    rank_tokens,
    ranks_in,
)
from recbole_hnlm.artefacts.writer import ArtefactContents, write_artefact
from recbole_hnlm.llm.encoders import TextEncoder
from recbole_hnlm.llm.fields import select_text_fields
from recbole_hnlm.llm.item_vectors import ItemVectors, item_vectors
from recbole_hnlm.llm.profiles import (
    TEMPLATE_VERSION,
    History,
    item_names,
    item_profiles,
    user_profiles,
)
from recbole_hnlm.llm.report import BuildReport
from recbole_hnlm.llm.request import BuildRequest
from recbole_hnlm.llm.source_text import sources_of
from recbole_hnlm.options import LLMOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankedPairs:
    """The training pairs by rank, each once.

    Attributes:
        users: Users with a training pair, sorted.
        items: The catalogue, sorted.
        user_ranks: User of each pair, shape ``(P,)``.
        item_ranks: Item of each pair, shape ``(P,)``.
        negatives: Hard negative items of each pair, -1 for none, shape ``(P, K)``.
        duplicates: Repeated pairs that were left out.
        digest: Hash of all the training pairs.
    """

    users: list[str]
    items: list[str]
    user_ranks: NDArray[np.int64]
    item_ranks: NDArray[np.int64]
    negatives: NDArray[np.int64]
    duplicates: int
    digest: str


@dataclass(frozen=True)
class BuildTexts:
    """Everything of a build that is text.

    Attributes:
        pairs: The training pairs.
        item_fields: Fields of the items' profiles.
        user_fields: Fields of the users' profiles.
        items: Profile of each item by rank, ``""`` for none.
        users: Profile of each user by rank.
        sources: What the manifest records of the files that were read.
    """

    pairs: RankedPairs
    item_fields: tuple[str, ...]
    user_fields: tuple[str, ...]
    items: list[str]
    users: list[str]
    sources: Mapping[str, Mapping[str, str]]


def build_artefacts(request: BuildRequest, encoder: TextEncoder | None = None) -> BuildReport:
    """Build and write the artefact of a dataset.

    The vector of a pair is the text vector of its hard negative item; pairs that share an item
    share its row. A pair whose hard negatives have no text has no vector and is counted. A build
    that was killed, run again, encodes only what is not in the cache yet and ends with the bytes of
    an undisturbed one.

    Args:
        request: What to build.
        encoder: What makes the vectors; ``options.encoder`` by default, which is loaded only if
            there is a text to encode.

    Raises:
        ValueError: If tokens are not in the catalogue or no vector can be made at all.
    """
    started = time.perf_counter()
    texts = read_texts(request)
    found = item_vectors(request, texts.pairs.items, texts.items, encoder)
    manifest = write_artefact(
        request.output_dir,
        request.dataset,
        _contents(texts, found.vectors),
        _provenance(request, found, texts),
        text_rows_limit=request.text_rows_limit,
    )
    report = BuildReport(
        directory=Path(request.output_dir),
        manifest=manifest,
        duplicates=texts.pairs.duplicates,
        items_without_text=texts.items.count(""),
        texts_encoded=found.encoded,
        texts_cached=found.cached,
        seconds=time.perf_counter() - started,
    )
    logger.info("artefacts of %s\n%s", request.dataset, report.table())
    return report


def read_texts(request: BuildRequest) -> BuildTexts:
    """Rank the training pairs and write the profiles of items and users, where the request has none.

    Raises:
        ValueError: If tokens are not in the catalogue, or the options name a field that does not exist.
    """
    pairs = _rank_pairs(request)
    item_fields, user_fields = choose_fields(request)
    files = sources_of((request.item_table, item_fields), (request.user_table, user_fields))
    sources = {**files, **request.reviews}
    if request.profiles is not None:
        written = request.profiles
        return BuildTexts(pairs, item_fields, user_fields, list(written.items), list(written.users), sources)
    items = item_profiles(request.item_table, item_fields, pairs.items, request.options.profile_words)
    told, fields = sum(map(bool, items)), ", ".join(item_fields) or "no field"
    logger.info("item profiles from %s: %d of %d items have text", fields, told, len(items))
    users = _user_texts(request, pairs, item_fields, user_fields)
    return BuildTexts(pairs, item_fields, user_fields, items, users, sources)


def choose_fields(request: BuildRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields of the items' and of the users' profiles, in their order.

    Raises:
        ValueError: If the options name a field that does not exist, or there is no such file.
    """
    options = request.options
    chosen = []
    for table, explicit, kind in (
        (request.item_table, options.text_fields, "item"),
        (request.user_table, options.user_text_fields, "user"),
    ):
        if table is None and explicit:
            raise ValueError(f"text fields {list(explicit)} need a .{kind} file, there is none")
        chosen.append(() if table is None else select_text_fields(table, explicit))
    return chosen[0], chosen[1]


def _rank_pairs(request: BuildRequest) -> RankedPairs:
    items, _ = rank_tokens(request.catalogue)
    users, user_ranks = rank_tokens(request.user_tokens)
    item_ranks = ranks_in(request.item_tokens, items)
    negatives = np.asarray(request.hard_negatives, dtype=object)
    negatives = negatives.reshape(len(user_ranks), -1)
    neg_ranks = ranks_in(negatives.ravel(), items).reshape(negatives.shape)
    given = np.asarray(request.item_tokens, dtype=object)
    _require_known("training item", given[item_ranks < 0].tolist())
    _require_known("hard negative", [token for token in negatives[neg_ranks < 0].tolist() if token])
    keys = user_ranks * len(items) + item_ranks
    _, first = np.unique(keys, return_index=True)
    first.sort()
    duplicates = len(keys) - len(first)
    if duplicates:
        logger.info("%d training pairs occur more than once; the first of each counts", duplicates)
    digest = hash_pairs(request.user_tokens, request.item_tokens)
    return RankedPairs(users, items, user_ranks[first], item_ranks[first], neg_ranks[first], duplicates, digest)


def _require_known(what: str, unknown: list[str]) -> None:
    if unknown:
        raise ValueError(f"{what} {unknown[0]!r} is not in the catalogue ({len(unknown)} such)")


def _user_texts(
    request: BuildRequest, pairs: RankedPairs, item_fields: Sequence[str], user_fields: Sequence[str]
) -> list[str]:
    options = request.options
    names = item_names(request.item_table, item_fields, pairs.items)
    order, seed = options.user_history_order, options.seed
    history = History(pairs.user_ranks, pairs.item_ranks, options.user_history, order, seed)
    return user_profiles(request.user_table, user_fields, pairs.users, names, history, options.profile_words)


def profile_settings(options: LLMOptions) -> dict[str, Any]:
    """What of the options decides the profiles, for the manifest."""
    names = ("profile_words", "user_history", "user_history_order", "seed")
    fields = {name: getattr(options, name) for name in ("text_fields", "user_text_fields")}
    return {
        **{name: getattr(options, name) for name in names},
        **{name: None if chosen is None else list(chosen) for name, chosen in fields.items()},
    }


def _provenance(request: BuildRequest, found: ItemVectors, texts: BuildTexts) -> Provenance:
    return Provenance(
        encoder=found.encoder,
        encoder_revision=found.revision,
        pooling=found.pooling,
        template=TEMPLATE_VERSION,
        item_fields=texts.item_fields,
        user_fields=texts.user_fields,
        teacher=dict(request.teacher),
        settings={**profile_settings(request.options), **found.settings, "sources": texts.sources},
    )


def _contents(texts: BuildTexts, vectors: NDArray[np.float32]) -> ArtefactContents:
    pairs = texts.pairs
    half = vectors.astype(np.float16)
    has_text: NDArray[np.bool_] = np.any(half != 0, axis=1)
    used = np.zeros(len(half), dtype=bool)
    used[pairs.negatives[pairs.negatives >= 0]] = True
    rows = np.flatnonzero(used & has_text)
    row_of_item = np.full(len(half) + 1, -1, dtype=np.int64)  # the last entry serves rank -1
    row_of_item[rows] = np.arange(len(rows))
    return ArtefactContents(
        user_tokens=pairs.users,
        item_tokens=pairs.items,
        pair_users=pairs.user_ranks,
        pair_items=pairs.item_ranks,
        neg_rows=row_of_item[pairs.negatives],
        neg_ids=[item_neg_id(pairs.items[row]) for row in rows.tolist()],
        neg_vectors=half[rows],
        item_vectors=half,
        item_profiles=texts.items,
        user_profiles=texts.users,
        pairs=len(pairs.user_ranks),
        pairs_hash=pairs.digest,
    )
