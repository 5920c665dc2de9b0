"""Hard negatives as text: what a user who chose this item would not want (HNLMRec, arXiv 2504.04726).

Legend: P training pairs, K negatives per pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.asking import ask, number_of
from recbole_hnlm.llm.chat import ChatBackend, ChatRequest
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.grouping import PairGroups
from recbole_hnlm.llm.profile_stages import NONE, item_line
from recbole_hnlm.llm.prompts import PromptSet
from recbole_hnlm.llm.replies import Answer, form_of, negatives_schema, read_negatives
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.options.text import TextOptions

_TOKENS_PER_WORD = 2
_REASON_TOKENS = 60
_FRAME_TOKENS = 40


@dataclass(frozen=True)
class NegativeTexts:
    """The hard negatives of the training pairs as text.

    Attributes:
        names: The distinct texts, sorted.
        rows: Which of them belong to each pair, best first, -1 for none, shape ``(P, K)``.
    """

    names: Sequence[str]
    rows: NDArray[np.int64]

    @property
    def coverage(self) -> float:
        """Share of the pairs with at least one text; 0 for no pairs."""
        return float((self.rows >= 0).any(axis=1).mean()) if len(self.rows) else 0.0


@dataclass(frozen=True)
class Profiles:
    """What the earlier stages have written, by rank.

    Attributes:
        users: Profile of each user.
        items: Profile of each item.
    """

    users: Sequence[str]
    items: Sequence[str]


def negative_requests(
    prompts: PromptSet, corpus: Corpus, profiles: Profiles, groups: PairGroups, options: TextOptions, count: int = 1
) -> Iterator[ChatRequest]:
    """A request for each group of pairs, made one at a time.

    Args:
        prompts: The prompts.
        corpus: The dataset.
        profiles: Profiles of users and items; template ones do for an estimate.
        groups: Which pairs share a request.
        options: The pipeline's options.
        count: Negatives per pair, K.
    """
    template = prompts.hard_negative
    for number, places in enumerate(groups):
        items = corpus.pair_items[places].tolist()
        words = options.item_words if len(items) == 1 else options.history_words
        lines = [item_line(corpus.names[item], profiles.items[item], words) for item in items]
        schema = negatives_schema(len(items), count)
        values = {
            "user_profile": profiles.users[corpus.pair_users[places[0]]] or NONE,
            "pairs": "\n".join(f"{place}. {line}" for place, line in enumerate(lines, start=1)),
            "count": str(count),
            "name_words": str(options.negative_words),
            "reply": form_of(schema),
        }
        each = options.negative_words * _TOKENS_PER_WORD + _REASON_TOKENS
        tokens = len(items) * count * each + _FRAME_TOKENS
        yield ChatRequest(f"negatives-{number}", template.messages(values), template.name, schema, tokens)


def write_negatives(
    backend: ChatBackend,
    requests: Iterator[ChatRequest],
    corpus: Corpus,
    groups: PairGroups,
    options: TextOptions,
    *,
    count: int = 1,
    show_progress: bool = False,
) -> tuple[NegativeTexts, StageCounts]:
    """Texts of each pair's hard negatives, and what became of the requests.

    A pair without an answer has no text: there is no template for what a user would not want, and a made-up one would
    be noise. A text that is the name of one of the user's training items is dropped and counted.
    What comes back does not depend on the order of the replies.

    Args:
        backend: The model.
        requests: What :func:`negative_requests` makes of ``groups``.
        corpus: The dataset.
        groups: Which pairs share a request.
        options: The pipeline's options.
        count: Negatives per pair, K.
        show_progress: Whether to show a bar.
    """
    counts = StageCounts("hard negatives")
    codes: dict[str, int] = {}
    rows = np.full((len(groups.source), count), -1, dtype=np.int64)

    def read(request: ChatRequest, text: str) -> Answer:
        return read_negatives(text, len(_places(groups, request.key)), count, options.negative_words)

    for key, answer in ask(backend, requests, read, counts, total=len(groups) if show_progress else 0):
        if answer is not None:
            places = _places(groups, key)
            found = [codes.setdefault(name, len(codes)) for name in answer.texts]
            rows[places] = np.array(found).reshape(len(places), count)
    shared = groups.source >= 0
    rows[shared] = rows[groups.source[shared]]
    names = sorted(codes)
    rank = np.empty(len(codes) + 1, dtype=np.int64)
    rank[[codes[name] for name in names]] = np.arange(len(names))
    rank[-1] = -1
    rows = rank[rows]
    own = _own_items(rows, names, corpus)
    answered = int((rows >= 0).any(axis=1).sum())
    rows[own] = -1
    texts = NegativeTexts(names, rows)
    told = int((groups.source >= 0).sum())
    counts.rows += [
        ("training pairs", f"{len(rows):,}"),
        ("pairs without text", f"{len(rows) - told:,}"),
        ("pairs without an answer", f"{told - answered:,}"),
        ("texts that the user has", f"{int(own.sum()):,}"),
        ("coverage", f"{texts.coverage:.2%}"),
        ("distinct negatives", f"{len(names):,}"),
    ]
    counts.log()
    return texts, counts


def _places(groups: PairGroups, key: str) -> NDArray[np.int64]:
    number = number_of(key)
    return groups.asked[groups.starts[number] : groups.starts[number + 1]]


def _own_items(rows: NDArray[np.int64], names: Sequence[str], corpus: Corpus) -> NDArray[np.bool_]:
    """Which texts name a training item of the pair's user, whatever their case, shape ``(P, K)``."""
    code_of: dict[str, int] = {}
    item_codes = np.array([code_of.setdefault(name.casefold(), len(code_of)) for name in corpus.names], dtype=np.int64)
    name_codes = np.array([code_of.get(name.casefold(), -1) for name in names] + [-1], dtype=np.int64)
    codes = name_codes[rows]  # (P, K)
    had = np.unique(corpus.pair_users * len(code_of) + item_codes[corpus.pair_items])
    keys = corpus.pair_users[:, None] * len(code_of) + codes
    return (codes >= 0) & np.isin(keys, had)
