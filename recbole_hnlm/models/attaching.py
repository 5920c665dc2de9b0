"""What a run hangs on a model beside the base's own parts: grounded items, gates, text or a comparator, loss hooks."""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.loss import BPRLoss

from recbole_hnlm.models.batches import JointLossHook
from recbole_hnlm.models.comparators import comparator_of_run
from recbole_hnlm.models.dual_tree import attach_dual_trees
from recbole_hnlm.models.grounded import attach_grounded
from recbole_hnlm.models.guarding import TextScore, judge_by
from recbole_hnlm.models.ranking_term import hook_ranking_loss
from recbole_hnlm.models.sparing import NegativeSparing
from recbole_hnlm.models.start import start_from_text
from recbole_hnlm.models.text import read_text
from recbole_hnlm.models.text_head import TextHead
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers import TrainingInteractions


def interactions_of(dataset: Any, device: torch.device | str = "cpu") -> TrainingInteractions:
    """The training pairs of a RecBole split on a device."""
    feat = dataset.inter_feat
    pairs = feat[dataset.uid_field].to(device), feat[dataset.iid_field].to(device)
    return TrainingInteractions(*pairs, n_users=dataset.user_num, n_items=dataset.item_num)


def refuse_clashes(config: Any, run: RunOptions) -> None:
    """Raise where two settings of a run draw or update at once.

    Raises:
        ValueError: Naming both and the remedy.
    """
    pretrained = [key for key in ("use_pretrain", "pretrain_path") if config[key]]
    if pretrained and run.starts_from_text:
        raise ValueError(
            f"{pretrained[0]}={config[pretrained[0]]!r} loads embeddings that a start from text would replace; set "
            f"hnlm_init: random to keep them, or no {pretrained[0]}"
        )
    if run.adam == "rows" and not config["single_spec"]:
        raise ValueError("adam: rows works in one process; several average whole tables, so set adam: fused")
    drawn = config["train_neg_sample_args"]["distribution"]
    if run.sampler_type is not None and drawn != "none":
        raise ValueError(
            f"RecBole's loader draws {drawn} negatives beside neg_sampler={run.sampler}; make the configuration "
            "with recbole_hnlm.HNLMConfig, or call recbole_hnlm.register() before RecBole's Config is imported"
        )


def has_row_gradients(config: Any, run: RunOptions) -> bool:
    """Whether lookups give gradients of the rows read, in place of whole tables."""
    if run.merges:  # made rows have gradients in whole tables
        return False
    on_cpu = torch.device(config["device"]).type == "cpu"
    return run.adam == "rows" or (run.adam == "fused" and on_cpu and bool(config["single_spec"]))


def attach_parts(model: Any, config: Any, dataset: Any, run: RunOptions) -> None:
    """Complete the head of a wrapped model with what the run's rule and text ask for."""
    head, options = model.hnlm, run.hnlm
    attach_grounded(head.sampler, config, dataset, run)
    attach_dual_trees(head.sampler, config, dataset, run)
    if head.has_gates:
        head.build_gates(model.row_width())
    if options is None or not run.reads_text:
        return
    text, space = read_text(config, dataset, options, head.interactions, run.seed), model._space
    judge_by(head.sampler, run, "text", TextScore(text))
    if options.sparing:
        head.ranking.sparing = NegativeSparing(text, options.sparing)
    if run.comparator is not None:
        head.comparator = comparator_of_run(run, text, model.row_width, space, head.interactions)
        model.commit_rows()
    elif options.reads_text:  # else the guard alone does
        if run.starts_from_text and space.items:
            start = options.start_of(propagates=space.is_table)
            start_from_text(space.items, space.users, text, head.interactions, scale=start.scale, hops=start.hops)
        blocks = run.negatives if head.sampler is not None else config["train_neg_sample_args"]["sample_num"]
        head.text_head = TextHead(options, text, model.row_width(), run.seed, int(blocks))


def hook_losses(model: Any, run: RunOptions) -> None:
    """Let several negatives of a pair, or a loss of ours, enter the base's ranking loss."""
    losses = [module for module in model.modules() if isinstance(module, BPRLoss)]
    if run.joint_loss and losses:
        hook = JointLossHook(model)
        for module in losses:
            module.register_forward_hook(hook, with_kwargs=True)
        model.hnlm.joint = hook if run.weighs_negatives else None
    if run.ranking is not None:
        hook_ranking_loss(model)
