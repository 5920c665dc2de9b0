"""Where a RecBole model keeps its item rows, and how synthetic rows take their place for one training step.

Three kinds: graph models return tables from ``forward``; lookup models read ``nn.Embedding`` modules; the rest keep
items where nothing can be exchanged. Shapes: ``M`` negative rows of a step, ``D`` summed width of the model's item
rows.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_hnlm.models.features import SideFeatures
from recbole_hnlm.models.probing import ranks_by_tables, scores_by_inner_product
from recbole_hnlm.models.row_gradients import GradientTable

_NO_EMBEDDING = 'reads items by id, not from a trained nn.Embedding with a row an item and "item" in its name'
_NO_TABLES = "does not rank by inner products of a table of users and one of items that its forward() returns"
_TABLE_TYPES = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})


def embeddings_of(model: nn.Module, kind: str, rows: int) -> list[nn.Embedding]:
    """The model's trained embedding modules of ``kind`` ("user" or "item") with one row per id, in order of definition:
    those whose names begin with it, or, where none does, have it as a part between underscores. Biases are none.
    """
    named: list[tuple[str, nn.Embedding]] = []
    for name, module in model.named_modules():
        trained = isinstance(module, nn.Embedding) and module.num_embeddings == rows and module.weight.requires_grad
        last = name.rpartition(".")[2]
        if trained and "neigh" not in last:  # NNCF's neighbour tables hold the other side's ids
            named.append((last, module))
    found = [module for name, module in named if name.startswith(kind)]
    found = found or [module for name, module in named if kind in name.split("_")]
    return [module for module in found if module.embedding_dim > 1] or found


def main_forward_args(model: nn.Module, base: type) -> tuple[Any, ...] | None:
    """Arguments of the model's main propagation, or None where ``forward`` cannot be one.

    LightGCN and its kin propagate without arguments; SGL names the graph, and only the pass over ``train_graph`` ranks.
    """
    if base.forward is nn.Module.forward:  # type: ignore[attr-defined]
        return None
    parameters = list(inspect.signature(base.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in _TABLE_TYPES]
    if not needed:
        return ()
    if needed == ["graph"] and hasattr(model, "train_graph"):
        return (model.train_graph,)
    return None


class StepRows:
    """What one training step has put in place of the negatives.

    Args:
        ids: Catalogue ids of the negatives, shape ``(M,)``.
        rows: Synthetic rows, shape ``(M, D)``, or None where the catalogue's own rows are used.
        items: The item tensor of the step's batch that carries the negatives.
        offset: Position of the first negative in ``items``.
    """

    def __init__(self, ids: Tensor, rows: Tensor | None, items: Tensor, offset: int) -> None:
        self.ids = ids
        self.rows = rows
        self.items = items
        self.offset = offset
        self.consumed = rows is None

    def positions(self, looked_up: Tensor) -> Tensor | None:
        """For a view of the batch's item tensor the position of each element in it; None for any other tensor."""
        storage = self.items.untyped_storage().data_ptr()
        if looked_up.untyped_storage().data_ptr() != storage or looked_up.numel() != self.items.numel():
            return None
        order = torch.arange(self.items.numel(), device=looked_up.device)
        offset = looked_up.storage_offset() - self.items.storage_offset()
        return order.as_strided(looked_up.shape, looked_up.stride(), offset)


class ItemSpace:
    """How one model instance reads items; the base class serves models that allow nothing but catalogue ids.

    Args:
        model: The model.
        features: What its batches hold beside ids.
        lacks: What keeps synthetic rows and text out of it, for messages.
    """

    kind = "ids"
    is_table = False
    inner = False
    """Whether the scores are inner products of the rows of one user and one item embedding."""

    def __init__(self, model: nn.Module, features: SideFeatures, lacks: str = _NO_EMBEDDING) -> None:
        self.model = model
        self.features = features
        self.lacks = lacks
        self.items = embeddings_of(model, "item", model.n_items)  # type: ignore[arg-type]
        self.users = embeddings_of(model, "user", model.n_users)  # type: ignore[arg-type]

    @property
    def exchangeable(self) -> bool:
        """Whether synthetic rows can stand in for items."""
        return False

    @property
    def has_user_rows(self) -> bool:
        """Whether users have rows whose inner products with items' rows are the scores."""
        return self.is_table or self.inner

    def negative_ids(self, step_ids: Tensor, synthetic: bool) -> Tensor:
        """Ids to hand to the model for the step's negatives, shape ``(M,)``."""
        return step_ids

    def use_row_gradients(self, kept: bool) -> None:
        """Let lookups give gradients for the rows that they read, in place of whole tables.

        Args:
            kept: Whether the optimizer gets them as they are, a sparse tensor; else a table, made once a step.

        Raises:
            ValueError: If they are to be kept and this kind of model has gradients for all rows anyway.
        """
        if kept:
            raise ValueError(
                f"adam: rows needs a model that looks rows up; {type(self.model).__name__} computes all rows in every "
                "step; set adam: fused"
            )


class LookupSpace(ItemSpace):
    """Items read from ``nn.Embedding`` modules; hooks put the synthetic rows into the lookups of the negatives."""

    kind = "lookup"

    def __init__(self, model: nn.Module, features: SideFeatures) -> None:
        super().__init__(model, features)
        self.widths = [module.embedding_dim for module in self.items]
        self.inner = scores_by_inner_product(model, self.users, self.items, features)
        for slot, module in enumerate(self.items):
            module.register_forward_hook(_SlotHook(model, slot))

    @property
    def exchangeable(self) -> bool:
        """Whether there is an embedding to exchange rows of."""
        return bool(self.items)

    def rows(self, modules: list[nn.Embedding], ids: Tensor) -> Tensor:
        """Rows of several embeddings side by side, ``(...,) -> (..., D)``."""
        found = [nn.functional.embedding(ids, module.weight, sparse=module.sparse) for module in modules]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def use_row_gradients(self, kept: bool) -> None:
        """Several lookups of a step then share one pass over the table, or none where the gradients are kept."""
        for module in (*self.users, *self.items):
            module.sparse = True
            if not kept:
                module.weight.register_post_accumulate_grad_hook(GradientTable())


class _SlotHook:
    """Forward hook of one item embedding; knows its slice of the synthetic rows."""

    def __init__(self, model: Any, slot: int) -> None:
        self.model = model
        self.slot = slot

    def __call__(self, module: nn.Embedding, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        step: StepRows | None = self.model._step_rows
        if step is None or step.rows is None:
            return None
        positions = step.positions(args[0])
        if positions is None:
            return None
        step.consumed = True
        widths: list[int] = self.model._space.widths
        start = sum(widths[: self.slot])
        rows = step.rows[:, start : start + widths[self.slot]]
        if step.offset:  # pointwise: positives come first in the same tensor
            rows = torch.cat([output.new_zeros(step.offset, rows.shape[1]), rows])
            return torch.where((positions >= step.offset).unsqueeze(-1), rows[positions], output)
        return rows[positions]


class TableSpace(ItemSpace):
    """Items read from the table that ``forward`` returns; synthetic rows are appended to it for one step.

    Lookups of the ego embeddings, which models regularise, map an appended row to its catalogue item.
    """

    kind = "table"
    is_table = True

    def __init__(self, model: nn.Module, features: SideFeatures, base: type) -> None:
        super().__init__(model, features)
        self._base = base
        for module in self.items:
            module.register_forward_pre_hook(_CatalogueIds(model))

    @property
    def exchangeable(self) -> bool:
        """Whether lookups of rows before propagation, by ids that are none of the catalogue's, can be caught."""
        return bool(self.items)

    def main_args(self) -> tuple[Any, ...]:
        """Arguments of the main propagation of this moment."""
        args = main_forward_args(self.model, self._base)
        assert args is not None
        return args

    def negative_ids(self, step_ids: Tensor, synthetic: bool) -> Tensor:
        """Virtual ids after the catalogue's where rows are appended."""
        if not synthetic:
            return step_ids
        first = int(self.model.n_items)  # type: ignore[arg-type]
        return torch.arange(first, first + step_ids.numel(), device=step_ids.device)


class _CatalogueIds:
    """Forward pre-hook of an item embedding in a graph model: virtual ids become catalogue ids."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, module: nn.Embedding, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        step: StepRows | None = self.model._step_rows
        if step is None or step.rows is None:
            return None
        ids = args[0]
        virtual = ids - module.num_embeddings
        return (torch.where(virtual >= 0, step.ids[virtual.clamp_min(0)], ids), *args[1:])


def build_item_space(model: nn.Module, base: type, features: SideFeatures) -> ItemSpace:
    """The kind of item space a freshly constructed model has; one that propagates is tried once."""
    tables = embeddings_of(model, "item", model.n_items)  # type: ignore[arg-type]
    args = main_forward_args(model, base) if base.input_type is InputType.PAIRWISE else None  # type: ignore[attr-defined]
    if args is not None:
        tables += embeddings_of(model, "user", model.n_users)  # type: ignore[arg-type]
        if ranks_by_tables(model, base, args, features, tables):
            return TableSpace(model, features, base)
        return ItemSpace(model, features, _NO_TABLES)
    return LookupSpace(model, features) if tables else ItemSpace(model, features)
