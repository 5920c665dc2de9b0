"""A language model as judge of false negatives: which of a user's leading candidates it takes for liked.

Legend: U users, T candidates of a user.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm.asking import ask, number_of
from recbole_hnlm.llm.chat import ChatBackend, ChatRequest
from recbole_hnlm.llm.labels import labelled, place_of_label, read_labels
from recbole_hnlm.llm.profiles import History
from recbole_hnlm.llm.prompts import PromptTemplate, single_template
from recbole_hnlm.llm.replies import Answer, check_schema, form_of, read_json
from recbole_hnlm.llm.stage_counts import StageCounts

logger = logging.getLogger(__name__)
MOST_JUDGED = 20
"""Candidates of one prompt."""
_MOST_TOLD = 30  # distinct places of a user's history
_TOO_MANY = 0.6  # share of positive verdicts from which they say little
_TOKENS_PER_LABEL = 6
_FRAME_TOKENS = 30


@dataclass(frozen=True)
class JudgedUser:
    """What the model is told of one user: places in the trees, no ids, no titles.

    Attributes:
        history: Places of the user's training items.
        candidates: Places of the candidates, at most :data:`MOST_JUDGED`, the most probable first.
    """

    history: Sequence[str]
    candidates: Sequence[str]


def place_of(collaborative: NDArray[np.int8], semantic: NDArray[np.int8]) -> str:
    """An item's place: its two paths, e.g. ``0.3.1/2.2.0``.

    >>> place_of(np.array([0, 3, -1]), np.array([-1]))
    '0.3/-'
    """
    paths = (".".join(str(child) for child in path if child >= 0) for path in (collaborative, semantic))
    return "/".join(path or "-" for path in paths)


def stand_ins(history: History, users: int) -> list[JudgedUser]:
    """Questions of about the length that the true ones will have, before there are trees."""
    counts = np.minimum(np.bincount(history.user_ranks, minlength=users), _MOST_TOLD)
    places = [f"0.1.2.{number // 10}/0.1.2.{number % 10}" for number in range(_MOST_TOLD)]
    return [  # equal prompts would count as one
        JudgedUser([f"{owner}/0.1.2.3", *places[1:count]], places[:MOST_JUDGED])
        for owner, count in enumerate(counts.tolist())
    ]


def judge_template() -> PromptTemplate:
    """The prompt of ``properties/prompts/judge.yaml``; its name is part of the key of every kept answer."""
    return single_template("judge.yaml", "false_negatives")


def verdict_schema(candidates: int) -> dict[str, Any]:
    """Schema of a verdict on that many candidates."""
    labels = {"type": "array", "items": {"type": "string"}, "minItems": 0, "maxItems": candidates}
    return {"type": "object", "properties": {"liked": labels}, "required": ["liked"], "additionalProperties": False}


def judge_requests(users: Sequence[JudgedUser]) -> Iterator[ChatRequest]:
    """One request for each user who has candidates, made one at a time."""
    template = judge_template()
    for number, user in enumerate(users):
        count = len(user.candidates)
        if not count:
            continue
        told = [f"{place} x{times}" for place, times in Counter(sorted(user.history)).most_common(_MOST_TOLD)]
        schema = verdict_schema(count)
        values = {
            "history": ", ".join(told),
            "candidates": labelled(user.candidates),
            "reply": form_of(schema),
        }
        tokens = count * _TOKENS_PER_LABEL + _FRAME_TOKENS
        yield ChatRequest(f"judge-{number}", template.messages(values), template.name, schema, tokens)


def read_verdict(text: str, candidates: int) -> Answer:
    """The labels in a reply, in its order; a bare list is taken as meant.

    Raises:
        ReplyError: If the reply has another form, names a label twice, or one that was not given.
    """
    value = read_json(text) if text.strip() != "[]" else []
    value = {"liked": value} if isinstance(value, list) else value
    check_schema(value, verdict_schema(candidates))
    return Answer(read_labels(value["liked"], candidates), 0)


def judge(
    backend: ChatBackend, users: Sequence[JudgedUser], *, show_progress: bool = False
) -> tuple[list[list[int] | None], Mapping[str, Any]]:
    """Places of the candidates that the model takes for liked, best first, and the figures of the stage.

    A user without a usable answer has None, and is counted as failed. More than 60 % of positive verdicts say that the
    model cannot tell, which is warned of.

    Args:
        backend: The model.
        users: What is told of each.
        show_progress: Whether to show a bar.
    """
    counts = StageCounts("judge of false negatives")
    found: list[list[int] | None] = [None] * len(users)
    asked = sum(bool(user.candidates) for user in users)

    def candidates_of(key: str) -> int:
        return len(users[number_of(key)].candidates)

    def read(request: ChatRequest, text: str) -> Answer:
        return read_verdict(text, candidates_of(request.key))

    judged = positive = 0
    for key, answer in ask(backend, judge_requests(users), read, counts, total=asked if show_progress else 0):
        if answer is not None:
            found[number_of(key)] = [place_of_label(label) for label in answer.texts]
            judged += candidates_of(key)
            positive += len(answer.texts)
    rate = positive / judged if judged else 0.0
    counts.rows += [("candidates judged", f"{judged:,}"), ("positive verdicts", f"{rate:.1%}")]
    counts.log()
    if rate > _TOO_MANY:
        logger.warning("the judge takes %.0f %% of the candidates for liked, so it hardly tells them apart", 100 * rate)
    asked_for = {"requests": counts.requests, "failed": counts.failed, "lost": counts.lost}
    return found, {**asked_for, "judged": judged, "positive rate": round(rate, 4)}
