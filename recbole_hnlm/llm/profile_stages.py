"""Profiles that a language model writes: of items first, then of users out of them (HNLMRec, arXiv 2504.04726)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from recbole_hnlm.llm.asking import ask, number_of
from recbole_hnlm.llm.chat import ChatBackend, ChatRequest
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.prompts import PromptSet, PromptTemplate
from recbole_hnlm.llm.replies import PROFILE_SCHEMA, Answer, form_of, read_profile
from recbole_hnlm.llm.reviews import latest_reviews
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.llm.words import cut_words
from recbole_hnlm.options.text import TextOptions

_TOKENS_PER_WORD = 2
_REASONING_TOKENS = 200
NONE = "(none)"


def item_profile_requests(prompts: PromptSet, corpus: Corpus, options: TextOptions) -> Iterator[ChatRequest]:
    """A request for each item of which there is any text, in the order of ranks, made one at a time."""
    pair_reviews = latest_reviews(
        corpus.pair_items.tolist(), corpus.reviews, len(corpus.items), options.reviews, options.review_words
    )
    for rank, own in enumerate(pair_reviews):
        listed = [cut_words(text, options.review_words * options.reviews) for text in corpus.item_reviews[rank]]
        reviews = [*(text for _, text in own), *(text for text in listed if text)]
        if not (corpus.names[rank] or corpus.attributes[rank] or reviews):
            continue
        values = {
            "title": corpus.names[rank] or NONE,
            "attributes": bullets(corpus.attributes[rank]),
            "reviews": bullets(reviews),
        }
        yield _profile_request(f"item-{rank}", prompts.item_profile, values, options.item_words)


def ranks_of_told_items(prompts: PromptSet, corpus: Corpus, options: TextOptions) -> list[int]:
    """Ranks of the items that :func:`item_profile_requests` asks for, in their order."""
    return [number_of(request.key) for request in item_profile_requests(prompts, corpus, options)]


def user_profile_requests(
    prompts: PromptSet, corpus: Corpus, item_profiles: Sequence[str], options: TextOptions
) -> Iterator[ChatRequest]:
    """A request for each user of whose training items any has text, in the order of ranks.

    Args:
        prompts: The prompts.
        corpus: The dataset.
        item_profiles: Profile of each item; the template ones do for an estimate.
        options: The pipeline's options.
    """
    n_users = len(corpus.users)
    histories = corpus.history.of_users(n_users) if corpus.history.length else [[] for _ in range(n_users)]
    reviews = latest_reviews(corpus.pair_users.tolist(), corpus.reviews, n_users, options.reviews, options.review_words)
    for rank, items in enumerate(histories):
        lines = [item_line(corpus.names[item], item_profiles[item], options.history_words) for item in items]
        written = [f"{corpus.names[corpus.pair_items[place]] or NONE}: {text}" for place, text in reviews[rank]]
        lines = [line for line in lines if line]
        if not (lines or written):
            continue
        values = {
            "items": bullets(lines),
            "attributes": bullets(corpus.user_attributes[rank]),
            "reviews": bullets(written),
        }
        yield _profile_request(f"user-{rank}", prompts.user_profile, values, options.user_words)


def write_item_profiles(
    backend: ChatBackend, prompts: PromptSet, corpus: Corpus, options: TextOptions, *, show_progress: bool = False
) -> tuple[list[str], StageCounts]:
    """Profile of each item, and what became of the requests.

    Where the model gives none the template profile stands in, counted; items without any text have ``""``.

    Args:
        backend: The model.
        prompts: The prompts.
        corpus: The dataset.
        options: The pipeline's options.
        show_progress: Whether to show a bar.
    """
    requests = item_profile_requests(prompts, corpus, options)
    counts = StageCounts("item profiles")
    total = len(corpus.items) if show_progress else 0
    return _write(backend, requests, corpus.item_templates, options.item_words, counts, total), counts


def write_user_profiles(
    backend: ChatBackend,
    prompts: PromptSet,
    corpus: Corpus,
    item_profiles: Sequence[str],
    options: TextOptions,
    *,
    show_progress: bool = False,
) -> tuple[list[str], StageCounts]:
    """Profile of each user; as :func:`write_item_profiles`, with the items' profiles for an input."""
    requests = user_profile_requests(prompts, corpus, item_profiles, options)
    counts = StageCounts("user profiles")
    total = len(corpus.users) if show_progress else 0
    return _write(backend, requests, corpus.user_templates, options.user_words, counts, total), counts


def item_line(name: str, profile: str, words: int) -> str:
    """An item among others in a prompt: ``name: profile``, the profile cut to ``words`` words."""
    told = cut_words(profile, words)
    return ": ".join(part for part in (name, told) if part)


def bullets(lines: Sequence[str]) -> str:
    """One line each with a dash, or a word that says there is none; text of strangers never makes a line of its own."""
    return "\n".join(f"- {' '.join(line.split())}" for line in lines) or NONE


def _profile_request(key: str, template: PromptTemplate, values: dict[str, str], words: int) -> ChatRequest:
    messages = template.messages({**values, "words": str(words), "reply": form_of(PROFILE_SCHEMA)})
    return ChatRequest(key, messages, template.name, PROFILE_SCHEMA, words * _TOKENS_PER_WORD + _REASONING_TOKENS)


def _write(
    backend: ChatBackend,
    requests: Iterable[ChatRequest],
    templates: Sequence[str],
    words: int,
    counts: StageCounts,
    total: int,
) -> list[str]:
    profiles = list(templates)

    def read(request: ChatRequest, text: str) -> Answer:
        return read_profile(text, words)

    for key, answer in ask(backend, requests, read, counts, total=total):
        if answer is not None:
            profiles[number_of(key)] = answer.texts[0]
    counts.rows += [
        ("profiles", f"{len(profiles):,}"),
        ("without text", f"{len(profiles) - counts.requests:,}"),
        ("template profiles instead", f"{counts.failed:,}"),
    ]
    counts.log()
    return profiles
