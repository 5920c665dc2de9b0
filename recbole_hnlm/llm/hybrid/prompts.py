"""Hybrid prompts: text with two places for collaborative embeddings (HNLMRec, Eq. 11), as token ids.

Training, validation and generation get their prompts here and nowhere else. Fixed text and profiles are tokenised
apart, so that the places of the soft tokens are known and a cut can only ever fall into a profile.

Legend: n sequences, L tokens of the longest, D width of the recommender's embedding.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.prompts import parse_yaml

_SOFT = ("user_token", "item_token")
_PROFILES = ("user_profile", "item_profile")


@dataclass(frozen=True)
class PromptTemplate:
    """The text of a hybrid prompt.

    Attributes:
        version: Name of the wording, e.g. ``hybrid-1``.
        text: The wording, with ``{user_token}``, ``{item_token}``, ``{user_profile}`` and ``{item_profile}`` once each.
    """

    version: str
    text: str

    def __post_init__(self) -> None:
        """Refuse a wording without its placeholders."""
        try:
            found = [field for _, field in self.parts() if field is not None]
        except ValueError as error:
            raise ValueError(f"prompt {self.version} has a stray brace ({error}); double it to mean itself") from error
        if sorted(found) != sorted((*_SOFT, *_PROFILES)):
            raise ValueError(
                f"prompt {self.version} has placeholders {found}; expected {[*_SOFT, *_PROFILES]} once each"
            )

    def parts(self) -> list[tuple[str, str | None]]:
        """Fixed pieces, each with the placeholder that follows it or None at the end."""
        return [(text.strip(), field) for text, field, _, _ in string.Formatter().parse(self.text)]

    @property
    def digest(self) -> str:
        """sha256 of version and wording."""
        return hashlib.sha256(f"{self.version}\n{self.text}".encode()).hexdigest()


def read_template(path: str | Path | None = None) -> PromptTemplate:
    """The template in a YAML file with ``version`` and ``text``; the package's own by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other contents.
    """
    source = Path(path) if path else importlib.resources.files("recbole_hnlm.properties") / "prompts" / "hybrid.yaml"
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}; llm_prompt names a YAML file with the keys version and text")
    found = parse_yaml(source.read_text(encoding="utf-8"), source)
    if not isinstance(found, dict) or set(found) != {"version", "text"}:
        raise ValueError(f"{source} must have the keys version and text, and no others")
    return PromptTemplate(str(found["version"]), str(found["text"]))


@dataclass(frozen=True)
class TokenBatch:
    """Sequences of one batch, padded at the end.

    Attributes:
        ids: Token ids, 0 at soft tokens and padding, shape ``(n, L)``.
        lengths: Tokens of each sequence, shape ``(n,)``.
        source: Dataset whose projector makes the soft tokens; None for plain texts.
        places: Where the user's and the item's soft token stand, shape ``(n, 2)``; None for plain texts.
        vectors: Their collaborative embeddings, shape ``(n, 2, D)``; None for plain texts.
    """

    ids: Tensor
    lengths: Tensor
    source: str | None = None
    places: Tensor | None = None
    vectors: Tensor | None = None

    def to(self, device: Any, non_blocking: bool = False) -> TokenBatch:
        """The same on ``device``."""
        places = None if self.places is None else self.places.to(device, non_blocking=non_blocking)
        vectors = None if self.vectors is None else self.vectors.to(device, non_blocking=non_blocking)
        ids, lengths = (part.to(device, non_blocking=non_blocking) for part in (self.ids, self.lengths))
        return TokenBatch(ids, lengths, self.source, places, vectors)


class Tokens:
    """What is fixed of a tokenizer: its opening and closing tokens, and ids of plain text."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer of transformers'.

        Raises:
            ValueError: If it has no closing token, at which decoders are read.
        """
        self._tokenizer = tokenizer
        first = _first_of(tokenizer.cls_token_id, tokenizer.bos_token_id)
        last = _first_of(tokenizer.sep_token_id, tokenizer.eos_token_id)
        if last is None:
            raise ValueError("the tokenizer has no closing token (sep or eos); set its eos_token")
        self.opening: list[int] = [] if first is None else [first]
        self.closing: list[int] = [last]

    def ids(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """Ids of each text, none for ``""``, without special tokens, cut at ``longest``."""
        distinct = [text for text in dict.fromkeys(texts) if text]
        found: dict[str, list[int]] = {"": []}
        if distinct:
            encoded = self._tokenizer(
                distinct, add_special_tokens=False, truncation=True, max_length=longest, return_attention_mask=False
            )
            found.update(zip(distinct, encoded["input_ids"], strict=True))
        return [found[text] for text in texts]


class PromptBuilder:
    """Makes the prompts of one dataset's pairs, and the sequences of its items' texts."""

    def __init__(self, pairs: PairTexts, template: PromptTemplate, tokens: Tokens, lengths: tuple[int, int]) -> None:
        """Tokenise profiles once.

        Args:
            pairs: The dataset.
            template: The wording.
            tokens: The base model's.
            lengths: Most tokens of a prompt and of an item's text.

        Raises:
            ValueError: If the wording alone fills a prompt.
        """
        self.pairs = pairs
        self._tokens = tokens
        self._fields = [field for _, field in template.parts()]
        self._fixed = tokens.ids([text for text, _ in template.parts()], lengths[0])
        special = len(tokens.opening) + len(tokens.closing)
        self.room = room_for_profiles(tokens, template, lengths[0])
        self._overhead = lengths[0] - self.room
        # One token more than fits, so that it shows whether a profile is cut.
        self._users = tokens.ids(pairs.user_profiles, self.room + 1)
        self._items = tokens.ids(pairs.item_profiles, max(self.room + 1, lengths[1]))
        self._label_room = lengths[1] - special
        self._user_sizes = np.array([len(ids) for ids in self._users], dtype=np.int64)
        self._item_sizes = np.array([len(ids) for ids in self._items], dtype=np.int64)

    def prompts(self, places: NDArray[np.int64], soft_of: NDArray[np.int64] | None = None) -> TokenBatch:
        """Prompts of the training pairs at ``places``, shape ``(n,)``.

        Args:
            places: Which pairs.
            soft_of: Pairs whose soft tokens stand in the prompts instead of their own, shape ``(n,)``; a control.
        """
        user_rooms, item_rooms = self._rooms(places)
        sequences, marks = [], []
        for place, user_room, item_room in zip(places.tolist(), user_rooms.tolist(), item_rooms.tolist(), strict=True):
            user, item = self.pairs.user_of_pair[place], self.pairs.item_of_pair[place]
            texts = {"user_profile": self._users[user][:user_room], "item_profile": self._items[item][:item_room]}
            sequence, mark = [*self._tokens.opening], {}
            for fixed, field in zip(self._fixed, self._fields, strict=True):
                sequence += fixed
                if field in _SOFT:
                    mark[field] = len(sequence)
                    sequence.append(0)
                elif field is not None:
                    sequence += texts[field]
            sequences.append(sequence + self._tokens.closing)
            marks.append([mark[field] for field in _SOFT])
        soft_of = places if soft_of is None else soft_of
        users, items = self.pairs.user_of_pair[soft_of], self.pairs.item_of_pair[soft_of]
        vectors = np.stack([self.pairs.user_vectors[users], self.pairs.item_vectors[items]], axis=1)
        soft = torch.tensor(marks, dtype=torch.long), torch.from_numpy(vectors.astype(np.float32))
        return TokenBatch(*_padded(sequences), self.pairs.name, *soft)

    def items(self, items: NDArray[np.int64]) -> TokenBatch:
        """Texts of items, shape ``(n,)``, for labels and negatives; no soft tokens."""
        room, tokens = self._label_room, self._tokens
        return TokenBatch(*_padded([tokens.opening + self._items[i][:room] + tokens.closing for i in items.tolist()]))

    def item_lengths(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of :meth:`items`."""
        return np.minimum(self._item_sizes[items], self._label_room) + len(self._tokens.opening + self._tokens.closing)

    def lengths(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of :meth:`prompts`, without making them."""
        user_rooms, item_rooms = self._rooms(places)
        return user_rooms + item_rooms + self._overhead

    def truncated(self, places: NDArray[np.int64]) -> float:
        """Share of the pairs at ``places`` of which a profile is cut."""
        sizes = self._user_sizes[self.pairs.user_of_pair[places]] + self._item_sizes[self.pairs.item_of_pair[places]]
        return float((sizes > self.room).mean()) if len(places) else 0.0

    def _rooms(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of either profile: half the room each, and what the shorter one leaves goes to the longer."""
        users = self._user_sizes[self.pairs.user_of_pair[places]]
        items = self._item_sizes[self.pairs.item_of_pair[places]]
        half = self.room // 2
        user_rooms = np.minimum(users, np.maximum(half, self.room - items))
        return user_rooms, np.minimum(items, self.room - user_rooms)


def room_for_profiles(tokens: Tokens, template: PromptTemplate, longest: int) -> int:
    """Tokens that the wording leaves for both profiles in a prompt of ``longest`` tokens.

    Raises:
        ValueError: If there is none.
    """
    fixed = sum(map(len, tokens.ids([text for text, _ in template.parts()], longest)))
    room = longest - len(tokens.opening) - len(tokens.closing) - len(_SOFT) - fixed
    if room < len(_PROFILES):
        raise ValueError(
            f"llm_prompt_tokens={longest} leaves {room} tokens for both profiles beside the wording of "
            f"{template.version}; raise it"
        )
    return room


def _first_of(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)


def _padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.long)
    rows = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    return pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long), lengths
