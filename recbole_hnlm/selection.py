"""Whether validation can choose what a run is judged by, told before anything is paid for."""

from __future__ import annotations

import filecmp
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_WITHOUT_CUT = ("gauc", "auc", "mae", "rmse", "logloss")
"""Metrics of whole rankings, which RecBole tells without ``@``."""


def check_valid_metric(config: Any) -> None:
    """Refuse a run that validates by a metric which it does not compute.

    Raises:
        ValueError: With the metrics that it computes.
    """
    if not 0 < config["eval_step"] <= config["epochs"]:
        return
    metric, _, cut = str(config["valid_metric"]).partition("@")
    computed = metric.lower() in [str(name).lower() for name in config["metrics"]]
    if not computed or (cut or metric.lower() not in _WITHOUT_CUT) and cut not in map(str, config["topk"]):
        raise ValueError(
            f"valid_metric={config['valid_metric']} is not computed: metrics={config['metrics']}, "
            f"topk={config['topk']}; add it to them"
        )


def check_catalogue(config: Any, dataset: Any) -> None:
    """Refuse to rank more items than there are; warn of more candidates a pair than that.

    Raises:
        ValueError: If ``topk`` is more than all items.
    """
    if "full" in config["eval_args"]["mode"].values() and max(config["topk"]) >= dataset.item_num:
        items = dataset.item_num - 1
        raise ValueError(
            f"topk={config['topk']} asks for more than the {items} items of {config['dataset']!r}; lower it"
        )
    run = getattr(config, "run", None)
    asked = None if run is None else getattr(run.sampler_options, "candidates", None)
    if asked is not None and asked >= dataset.item_num and "neg_sampler_candidates" in config.external_config_dict:
        logger.warning("neg_sampler_candidates=%d draws the %d items many times; lower it", asked, dataset.item_num - 1)


def check_held_out(config: Any, held_out: Sequence[Any]) -> None:
    """Refuse to count the held-out positives among the negatives where none are held out.

    Args:
        config: The run's configuration.
        held_out: RecBole's valid and test loaders, None for one that there is not.

    Raises:
        ValueError: If so.
    """
    text = None if (run := getattr(config, "run", None)) is None else run.hnlm
    pairs = sum(len(loader._dataset) for loader in held_out if loader is not None)
    if text is not None and text.log_false_negatives and not pairs:
        raise ValueError("hnlm_log_false_negatives counts held-out positives; the split holds none out; remove it")


def check_parts(config: Any, parts: Sequence[Any]) -> None:
    """Refuse a split of which a part is empty: nothing would stop the training, or nothing be told of it.

    Args:
        config: The run's configuration.
        parts: RecBole's datasets of training, validation and test.

    Raises:
        ValueError: If so.
    """
    sizes = [len(part) for part in parts]
    if 0 in sizes:
        raise ValueError(
            f"eval_args={config['eval_args']} leaves {sizes} pairs of {config['dataset']} for train, valid and test; "
            "all three are needed, so raise the smallest share or filter less"
        )


def _check_held_out_parts(split: Mapping[str, Any]) -> None:
    shares, left_out = split.get("RS") or (1, 1, 1), split.get("LS") or "valid_and_test"
    if 0 in shares or left_out != "valid_and_test":
        raise ValueError(
            f"eval_args: split: {dict(split)} has no validation or no test part, and one chooses, the other "
            "tells; take e.g. RS: [8,1,1] or LS: valid_and_test"
        )


def check_selection(config: Any) -> None:
    """Refuse a run that validation could not choose, or in which the test would.

    Raises:
        ValueError: If it never validates, not by a metric that it computes, or on the pairs of the test.
    """
    if not 0 < config["eval_step"] <= config["epochs"]:
        raise ValueError(
            f"eval_step={config['eval_step']} with epochs={config['epochs']} never validates, and validation is what "
            "chooses; set eval_step between 1 and epochs"
        )
    check_valid_metric(config)
    if not config["benchmark_filename"]:
        _check_held_out_parts(config["eval_args"]["split"])
    parts = config["benchmark_filename"] or []
    held_out = [Path(str(config["data_path"])) / f"{config['dataset']}.{part}.inter" for part in parts[1:]]
    if (
        len(held_out) == 2
        and all(path.is_file() for path in held_out)
        and filecmp.cmp(held_out[0], held_out[1], shallow=False)
    ):
        raise ValueError(
            f"validation and test of benchmark_filename={list(parts)} are the same pairs, so the test would choose; "
            "make a validation part out of training pairs"
        )
