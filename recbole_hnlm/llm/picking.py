"""A language model that names one like and one dislike of every user among a few candidates (LLMRec, WSDM'24)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_hnlm.llm.asking import ask, number_of
from recbole_hnlm.llm.chat import ChatBackend, ChatRequest
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.labels import labelled, place_of_label, read_labels
from recbole_hnlm.llm.profile_stages import bullets
from recbole_hnlm.llm.prompts import PromptTemplate, single_template
from recbole_hnlm.llm.replies import Answer, check_schema, form_of, read_json
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.llm.words import cut_words

_LABEL = {"type": "string"}
PICK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"like": _LABEL, "dislike": _LABEL},
    "required": ["like", "dislike"],
    "additionalProperties": False,
}
_ANSWER_TOKENS = 40


@dataclass(frozen=True)
class PickingUser:
    """What the model is told of one user, as texts.

    Attributes:
        history: Items that the user has chosen.
        candidates: Items to pick from; fewer than two make no question.
    """

    history: Sequence[str]
    candidates: Sequence[str]

    @property
    def askable(self) -> bool:
        """Whether there is something to tell and something to choose."""
        return bool(self.history) and len(self.candidates) > 1


def told_items(corpus: Corpus, words: int) -> list[str]:
    """Each item as a line of at most ``words`` words, by rank; empty where it has no text."""
    return [cut_words(text, words) for text in corpus.item_templates]


def told_history(corpus: Corpus, lines: Sequence[str]) -> list[list[str]]:
    """Lines of the items that each user has chosen, by rank of the user; items without text are left out."""
    if not corpus.history.length:
        return [[] for _ in corpus.users]
    return [[lines[item] for item in items if lines[item]] for items in corpus.history.of_users(len(corpus.users))]


def stand_ins(corpus: Corpus, words: int, candidates: int) -> list[PickingUser]:
    """Questions of about the length that the true ones will have, before any reference model is trained."""
    lines = told_items(corpus, words)
    some = [line for line in lines if line][:candidates]
    return [PickingUser(history, some) for history in told_history(corpus, lines)]


def pick_template() -> PromptTemplate:
    """The prompt of ``properties/prompts/picks.yaml``; its name is part of the key of every kept answer."""
    return single_template("picks.yaml", "like_and_dislike")


def pick_requests(users: Sequence[PickingUser]) -> Iterator[ChatRequest]:
    """One request for each user who can be asked about, made one at a time."""
    template = pick_template()
    for number, user in enumerate(users):
        if not user.askable:
            continue
        values = {
            "history": bullets(user.history),
            "candidates": labelled(user.candidates),
            "reply": form_of(PICK_SCHEMA),
        }
        yield ChatRequest(f"pick-{number}", template.messages(values), template.name, PICK_SCHEMA, _ANSWER_TOKENS)


def read_pick(text: str, candidates: int) -> Answer:
    """The like's and the dislike's label.

    Raises:
        ReplyError: If the reply has another form, names a label that was not given, or the same one twice.
    """
    value = read_json(text)
    check_schema(value, PICK_SCHEMA)
    return Answer(read_labels([value["like"], value["dislike"]], candidates), 0)


def pick(
    backend: ChatBackend, users: Sequence[PickingUser], *, show_progress: bool = False
) -> tuple[list[tuple[int, int] | None], Mapping[str, Any]]:
    """Places of each user's like and dislike among the candidates, None without a usable answer, and the figures.

    Args:
        backend: The model.
        users: What is told of each.
        show_progress: Whether to show a bar.
    """
    counts = StageCounts("likes and dislikes")
    found: list[tuple[int, int] | None] = [None] * len(users)
    asked = sum(user.askable for user in users)

    def read(request: ChatRequest, text: str) -> Answer:
        return read_pick(text, len(users[number_of(request.key)].candidates))

    for key, answer in ask(backend, pick_requests(users), read, counts, total=asked if show_progress else 0):
        if answer is not None:
            like, dislike = map(place_of_label, answer.texts)
            found[number_of(key)] = like, dislike
    counts.rows += [("users", f"{len(users):,}"), ("users without a question", f"{len(users) - asked:,}")]
    counts.log()
    return found, {"requests": counts.requests, "failed": counts.failed, "lost": counts.lost, "picked": counts.answered}
