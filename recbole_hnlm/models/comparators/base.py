"""What a comparator is to the wrapper: rows that stand for the model's own in a step, and a term of its loss.

Shapes: ``U`` users, ``I`` items, ``N = U + I``, ``M`` rows handed to the model, ``D`` width of a row, ``S`` text width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import EmbeddingView


@dataclass(frozen=True)
class Surroundings:
    """What a comparator is built from.

    Attributes:
        text: Text vectors of the run.
        row_width: Width of a final item row.
        users: The model's user embeddings.
        items: Its item embeddings.
        top_items: Best items of the reference model for each user, best first, shape ``(U, T)``, 0 where a user has
            no more; None where not asked.
        picks: Each user's like and dislike by a chat model, 0 for none, shape ``(U, 2)``; None where none is asked.
    """

    text: TextVectors
    row_width: int
    users: list[nn.Embedding]
    items: list[nn.Embedding]
    top_items: Tensor | None = None
    picks: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """One training step as a comparator sees it.

    Attributes:
        users: User ids, shape ``(M,)``.
        positives: Positive items, likewise.
        negatives: Negative items, likewise.
        view: The model's final embeddings.
        generator: Source of the step's draws, on the training device.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    view: EmbeddingView
    generator: torch.Generator


class Comparator(nn.Module):
    """One published method. A subclass overrides what it takes part in."""

    exchanges = False
    """Whether a step reads other rows than the model's own."""
    commits = False
    """Whether these rows are also the model's outside of training."""

    def step_rows(self, users: Tensor, items: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows that the model reads in this step, in the shapes of its own.

        Args:
            users: The model's user rows, shape ``(U, D)``.
            items: Its item rows, shape ``(I, D)``.
            generator: Source of randomness.
        """
        return users, items

    def loss(self, step: Step) -> Tensor | None:
        """A weighted term that joins the model's loss, or None."""
        return None


class MergingComparator(Comparator):
    """One whose rows are made of own rows and text, in training and afterwards.

    The model's embeddings hold the made rows, so that dropping ``hnlm.`` from a checkpoint gives a plain model of the
    same scores; the own rows, which are trained, are parameters here.
    """

    exchanges = True
    commits = True

    def __init__(self, around: Surroundings) -> None:
        super().__init__()
        self.text = around.text
        users, items = around.users[0].weight, around.items[0].weight
        self.user_rows = nn.Parameter(users.detach().clone())
        self.item_rows = nn.Parameter(items.detach().clone())
        users.requires_grad_(False)
        items.requires_grad_(False)

    def merged(self) -> tuple[Tensor, Tensor]:
        """User and item rows as the model reads them, ``(U, D)`` and ``(I, D)``."""
        raise NotImplementedError

    def step_rows(self, users: Tensor, items: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The merged rows, with their gradients."""
        return self.merged()


@contextmanager
def read_instead(modules: list[nn.Embedding], tables: tuple[Tensor, ...]) -> Iterator[None]:
    """While it is entered, everybody who reads ``module.weight`` gets the table; parameters and their names stay."""
    try:
        for module, table in zip(modules, tables, strict=True):
            module.__dict__["weight"] = table
        yield
    finally:
        for module in modules:
            module.__dict__.pop("weight", None)


class CommittingMixin:
    """Writes a comparator's merged rows into the model's embeddings before anybody outside of a step reads them."""

    hnlm: Any

    def commit_rows(self) -> None:
        """Bring the embeddings up to date; does nothing for other models."""
        head = getattr(self, "hnlm", None)
        comparator = head.comparator if head is not None else None
        if comparator is None or not comparator.commits:
            return
        space = self.__dict__["_space"]
        with torch.no_grad():
            users, items = comparator.merged()
            space.users[0].weight.copy_(users)
            space.items[0].weight.copy_(items)

    def train(self, mode: bool = True) -> Any:
        """As the base's; evaluation begins with it."""
        result = super().train(mode)  # type: ignore[misc]
        self.commit_rows()
        return result

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's, of rows that are up to date."""
        self.commit_rows()
        return super().state_dict(*args, **kwargs)  # type: ignore[misc]


def two_layers(width: int, hidden: int, out: int, activation: nn.Module) -> nn.Sequential:
    """An MLP with one hidden layer and Xavier's weights."""
    layers = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, out))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return layers
