"""What a model can take: text, synthetic rows, weights. Asked before anything expensive is done for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recbole.model.loss import BPRLoss
from torch import nn

from recbole_hnlm.models.features import side_features
from recbole_hnlm.models.item_space import ItemSpace, build_item_space
from recbole_hnlm.models.ranking_term import has_ranking_loss
from recbole_hnlm.options.comparator import RLMRecConOptions, RLMRecGenOptions
from recbole_hnlm.run_options import RunOptions


def refuse_unfit(model: nn.Module, base: type, space: ItemSpace, run: RunOptions) -> None:
    """Raise where a run asks a model for what it cannot take.

    Args:
        model: The model, freshly constructed.
        base: The unwrapped class.
        space: Where it reads items.
        run: The run's options.

    Raises:
        ValueError: Naming the model, the reason and the remedy.
    """
    name, rule, text = base.__name__, run.sampler_type, run.hnlm
    has_user_rows = space.has_user_rows
    has_bpr_loss = any(isinstance(module, BPRLoss) for module in model.modules())
    if text is not None and text.reads_text and not space.exchangeable:
        raise ValueError(
            f"{name} {space.lacks}, so no text can enter it; "
            f"use an id-only sampler such as neg_sampler: {text.base_sampler}"
        )
    if text is not None and text.pair_alignment_weight > 0 and not has_user_rows:
        raise ValueError(f"{name} has no user rows of the items' width for Eq. 9; use hnlm_preset: anchored without it")
    if text is not None and text.alpha > 0 and text.use == "compete" and not has_user_rows:
        raise ValueError(f"{name} has no user rows of the items' width to score a vector with; use hnlm_use: mix")
    if text is not None and text.brings_extra and not has_bpr_loss:
        raise ValueError(f"the loss of {name} takes one negative a pair, hnlm_use=extra brings two; use hnlm_use: mix")
    if run.comparator is not None:
        _refuse_comparator(name, space, has_user_rows, run)
    if run.ranking is not None and not (has_user_rows and has_ranking_loss(model)):
        lacks = "no BPRLoss that it could take the place of" if has_user_rows else "no user rows of the items' width"
        raise ValueError(
            f"ranking_loss={run.ranking.name} cannot train {name}, which has {lacks}; set ranking_loss: base"
        )
    if run.adam == "rows" and space.kind != "lookup":
        space.use_row_gradients(kept=True)  # which refuses
    if rule is None:
        return
    if rule.synthesizes and not space.exchangeable:
        raise ValueError(f"{name} {space.lacks}; {run.sampler} makes rows: use dns")
    if rule.reads_user_rows(run.sampler_options) and not has_user_rows:
        raise ValueError(f"{run.sampler} needs scores that are inner products, those of {name} are not; use mixgcf")
    if rule.weighs and not has_bpr_loss:
        raise ValueError(f"{run.sampler} weighs negatives, which the loss of {name} cannot take; use dns_mn")


def _refuse_comparator(name: str, space: ItemSpace, has_user_rows: bool, run: RunOptions) -> None:
    """Raise where a model cannot take the run's comparator; RLMRec-Con fits all that take text."""
    if isinstance(run.comparator, RLMRecConOptions):
        return
    assert run.hnlm is not None
    method = run.hnlm.comparator
    widths = {module.embedding_dim for module in (*space.users, *space.items)}
    if len(space.users) != 1 or len(space.items) != 1 or len(widths) != 1 or not has_user_rows:
        raise ValueError(
            f"{method} needs one user and one item embedding of one width and scores by inner product, {name} has "
            "others; use hnlm_comparator: rlmrec_con"
        )
    if isinstance(run.comparator, RLMRecGenOptions) and not space.is_table:
        raise ValueError(
            f"{name} does not propagate, so nothing could tell a masked row's text; use hnlm_comparator: rlmrec_con"
        )
    if run.merges and run.adam == "rows":
        raise ValueError(f"adam: rows needs rows that are looked up, {method} makes all of them; set adam: fused")


def construct(model_class: type, config: Any, dataset: Any) -> Any:
    """A model on its device.

    Raises:
        ValueError: If it cannot be made without a width, which RecBole sets for its own models alone.
    """
    try:
        return model_class(config, dataset).to(config["device"])
    except TypeError as error:
        if config["embedding_size"] is not None:
            raise
        name = config["model"]
        raise ValueError(
            f"{name} cannot be made, and embedding_size is not set, for which RecBole has no default with a model that "
            f"is not its own; set it, and whatever else {name} reads ({str(error).splitlines()[0]})"
        ) from error


def fitness(config: Any, dataset: Any) -> Callable[[RunOptions], None]:
    """Construct the plain model once; what comes back is :func:`refuse_unfit` of it, for runs with its settings."""
    base = getattr(config.model_class, "hnlm_base", config.model_class)
    model = construct(base, config, dataset)
    space = build_item_space(model, base, side_features(config, dataset, base))
    return lambda run: refuse_unfit(model, base, space, run)


def check_model(config: Any, dataset: Any, run: RunOptions) -> None:
    """Construct the plain model once and throw it away, to refuse an unfit one before artefacts are built for it."""
    fitness(config, dataset)(run)
