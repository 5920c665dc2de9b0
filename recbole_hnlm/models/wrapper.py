"""The wrapper ``hnlm(ModelClass)``: any RecBole general model, trained on hard negatives (HNLMRec, arXiv 2504.04726).

The base's own ``calculate_loss`` runs unchanged; what it looks up under the negatives' ids is exchanged for one step.
Shapes: ``B`` pairs of a batch, ``K`` negatives per pair, ``M = B K`` rows, ``D`` width of an item row.
"""

from __future__ import annotations

import copyreg
from typing import Any, cast

import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor

from recbole_hnlm.models.abilities import refuse_unfit
from recbole_hnlm.models.adjacency import vectorised_methods
from recbole_hnlm.models.attaching import attach_parts, has_row_gradients, hook_losses, interactions_of, refuse_clashes
from recbole_hnlm.models.batches import CANDIDATES, VECTOR_ROWS, exchanged_batch, made_rows_told, pairs_of, take_column
from recbole_hnlm.models.comparators.base import CommittingMixin
from recbole_hnlm.models.features import side_features
from recbole_hnlm.models.head import HardNegativeHead
from recbole_hnlm.models.item_space import LookupSpace, StepRows, build_item_space
from recbole_hnlm.models.node_contrast import contrast_methods
from recbole_hnlm.models.propagation import Propagator
from recbole_hnlm.models.ranking_term import ranking_methods, sums_over_pairs
from recbole_hnlm.models.support import refuse_unsupported
from recbole_hnlm.models.text_negatives import negatives_with_text
from recbole_hnlm.models.view import LookupView, TableView, hop_tables
from recbole_hnlm.run_options import RunOptions, parse_run
from recbole_hnlm.samplers import Negatives

_WRAPPED: dict[type, type] = {}
_STEPS_IN_VAIN = 32


def run_of(config: Any) -> RunOptions | None:
    """The options that a RecBole configuration holds for this package."""
    values = config.final_config_dict
    return parse_run(values, given=(), recbole_keys=())


class HardNegativeMixin(CommittingMixin):
    """Adds sampling, mixing and alignment to the general model that follows it in the method resolution order."""

    hnlm_base: type
    """The wrapped class."""
    _space: Any = None
    _propagator: Any = None
    _step_rows: StepRows | None = None
    _step_tables: Any = None
    _step_negatives: Negatives | None = None
    _steps_in_vain = 0

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        run = run_of(config)
        self.hnlm: HardNegativeHead | None = None
        if run is not None:
            refuse_unsupported(self.hnlm_base, run.sampler)
            self._attach(config, dataset, run)

    def _attach(self, config: Any, dataset: Any, run: RunOptions) -> None:
        device, model = torch.device(config["device"]), cast(Any, self)
        interactions = interactions_of(dataset, device)
        model.to(device)
        self._pairwise = self.hnlm_base.input_type is InputType.PAIRWISE  # type: ignore[attr-defined]
        features = side_features(config, dataset, self.hnlm_base)
        self._space = build_item_space(model, self.hnlm_base, features)
        self._propagator = Propagator(model, self.hnlm_base, run)
        self._sums_over_pairs = sums_over_pairs(self.hnlm_base)
        self._label = config["LABEL_FIELD"]
        refuse_unfit(model, self.hnlm_base, self._space, run)
        refuse_clashes(config, run)
        if has_row_gradients(config, run):
            self._space.use_row_gradients(kept=run.adam == "rows")
        self.hnlm = HardNegativeHead(run, interactions, device, rank=config["group_rank"] or 0)
        attach_parts(model, config, dataset, run)
        self.hnlm.to(device)
        hook_losses(model, run)

    def row_width(self) -> int:
        """``D``; graph models propagate once to tell."""
        if isinstance(self._space, LookupSpace):
            return sum(self._space.widths)
        device = next(cast(Any, self).parameters()).device
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return int(self._propagate(self._space.main_args())[0][1].shape[1])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's forward; the main propagation of a training step is computed once and carries the synthetic
        rows.
        """
        if self._space is None or not self._space.is_table:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        main, step = self._space.main_args(), self._step_rows
        if kwargs:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        if len(args) != len(main) or any(ours is not theirs for ours, theirs in zip(main, args, strict=True)):
            return self._propagate(args)[0]
        tables = self._step_tables
        self._step_tables = None
        if tables is None:
            tables, _ = self._propagate(main)
        if step is None or step.rows is None:
            return tables
        step.consumed = True
        return (tables[0], torch.cat([tables[1], step.rows]), *tables[2:])

    def _propagate(self, args: tuple[Any, ...], record: bool = False) -> tuple[Any, list[Tensor]]:
        """What the base's ``forward(*args)`` returns, and the tables of its hops where asked for."""
        result: tuple[Any, list[Tensor]] = self._propagator.run(super().forward, args, record)  # type: ignore[misc]
        return result

    def calculate_loss(self, interaction: Interaction) -> Any:
        """The base's loss on this step's negatives, plus the alignment."""
        if self.hnlm is None:
            return super().calculate_loss(interaction)  # type: ignore[misc]
        with self.hnlm.rows_of_step(self._space):
            return self._loss_of_step(self.hnlm, interaction)

    def _loss_of_step(self, head: HardNegativeHead, interaction: Interaction) -> Any:
        candidates, rows = take_column(interaction, CANDIDATES), take_column(interaction, VECTOR_ROWS)
        users, positives, given = pairs_of(self, interaction)
        if rows is not None:
            rows = rows.repeat(users.numel() // rows.shape[0], 1)
        view: Any = None
        try:
            if head.needs_view or not self._space.is_table:  # one propagation serves the whole step
                view, self._step_tables = self._view(head, head.needs_hops)
            negatives = Negatives(given.unsqueeze(1)) if given is not None else None
            if negatives is None:
                negatives = head.draw(users, positives, view, candidates)
            negatives = negatives_with_text(head, negatives, users, positives, view, rows)
            batch, step = exchanged_batch(self, interaction, negatives)
            self._step_rows, self._step_negatives = step, negatives
            if head.ranking is not None:
                head.ranking.prepare(users, positives, view)
            with made_rows_told(self, step):
                loss = super().calculate_loss(batch)  # type: ignore[misc]
        finally:
            self._step_rows = self._step_tables = self._step_negatives = None
            if head.ranking is not None:
                head.ranking.end()
        self._check_consumed(step)
        head.check_losses(self.hnlm_base.__name__)
        _observe(head, negatives.weights, step, (users, positives), view)
        times = users.numel() if self._sums_over_pairs else 1
        return _joined(head, loss, head.extra_losses(users, positives, negatives.ids, view, rows), times)

    def hnlm_view(self) -> Any:
        """The model's embeddings of this moment as samplers see them; graph models propagate here.

        Raises:
            ValueError: If the model has no sampler of ours.
        """
        if self.hnlm is None:
            raise ValueError(f"{self.hnlm_base.__name__} runs without neg_sampler, so it has no view; set one")
        self.commit_rows()
        view, _ = self._view(self.hnlm, with_hops=self.hnlm.needs_hops)
        return view

    def _view(self, head: HardNegativeHead, with_hops: bool) -> tuple[Any, Any]:
        """A view, and the tables it was made of where the model propagates."""
        if not self._space.is_table:
            return LookupView(self, self._space), None  # type: ignore[arg-type]
        tables, recorded = self._propagate(self._space.main_args(), record=with_hops)
        return TableView(tables[0], tables[1], hop_tables(recorded, tables[0], tables[1]) if with_hops else []), tables

    def _check_consumed(self, step: StepRows) -> None:
        """Refuse to go on with a model in which synthetic rows never arrive; LINE skips them in half of its steps."""
        self._steps_in_vain = 0 if step.consumed else self._steps_in_vain + 1
        if self._steps_in_vain >= _STEPS_IN_VAIN:
            raise RuntimeError(
                f"{self.hnlm_base.__name__} did not look its negatives up where synthetic rows could be put in "
                f"{_STEPS_IN_VAIN} steps; use an id-only sampler such as dns with hnlm_alpha: 0 and report this model"
            )


def _observe(
    head: HardNegativeHead, weights: Tensor | None, step: StepRows, pairs: tuple[Tensor, Tensor], view: Any
) -> None:
    """Record the step's negatives; of weighted ones every candidate counts with its weight."""
    users, positives = pairs
    if weights is not None:
        times = weights.shape[1]
        users, positives, weights = users.repeat(times), positives.repeat(times), weights.T.reshape(-1)
    count = users.numel()  # an extra negative comes after the catalogue's
    rows_of_ids = None if step.rows is None else step.rows[:count]
    head.statistics.observe(users, positives, step.ids[:count], rows_of_ids, view, weights)


def _joined(head: HardNegativeHead, loss: Any, extra: dict[str, Tensor], times: int) -> Any:
    """The base's loss, in the form it has, with the extra terms in it so many times; all are logged."""
    terms = loss if isinstance(loss, tuple) else (loss,)
    head.statistics.add("rank_loss", torch.stack([term.detach().reshape(()) for term in terms]).sum())
    for name, term in extra.items():
        head.statistics.add(name, term)
        term = term if times == 1 else times * term
        loss = (loss[0] + term, *loss[1:]) if isinstance(loss, tuple) else loss + term
    return loss  # NCL drops its last term while it warms up, so ours join the first


def hnlm(model_class: type) -> type:
    """A subclass of a RecBole general model that trains on hard negatives.

    Name, ``type``, ``input_type`` and parameter names stay those of the base, so RecBole's config lookup, trainer
    choice and checkpoints go on working; our parameters live under ``hnlm.``. Without ``neg_sampler`` in its
    configuration the class behaves as the base does.

    Args:
        model_class: A model class, not an instance.

    Returns:
        The wrapped class; the same one for the same base.

    Raises:
        TypeError: If it is no class or already wrapped.
        ValueError: If it trains without sampled negatives.
    """
    if not isinstance(model_class, type):
        raise TypeError(f"hnlm() takes a model class, got {type(model_class).__name__}; pass the class itself")
    if issubclass(model_class, HardNegativeMixin):
        raise TypeError(f"{model_class.__name__} is wrapped already; pass the plain model class")
    refuse_unsupported(model_class, "hnlm")
    if model_class not in _WRAPPED:
        namespace: dict[str, Any] = {
            "hnlm_base": model_class,
            "__module__": model_class.__module__,
            "__doc__": model_class.__doc__,
        }
        namespace |= vectorised_methods(model_class) | contrast_methods(model_class) | ranking_methods(model_class)
        made_by: Any = _Wrapped if type(model_class) is type else type(model_class)
        _WRAPPED[model_class] = made_by(model_class.__name__, (HardNegativeMixin, model_class), namespace)
    return _WRAPPED[model_class]


class _Wrapped(type):
    """The kind of wrapped classes, which pickle as a call of :func:`hnlm`: under their name stands their base."""


def _reduced(wrapped: Any) -> Any:
    return hnlm, (wrapped.hnlm_base,)


copyreg.pickle(_Wrapped, _reduced)
