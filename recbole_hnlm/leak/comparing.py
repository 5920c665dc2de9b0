"""Two runs, or two evaluations, compared thing by thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.leak.frozen import mask_fault
from recbole_hnlm.leak.method import Trained
from recbole_hnlm.leak.poison import Pairs
from recbole_hnlm.leak.report import Finding


@dataclass(frozen=True)
class Run:
    """One training in one world.

    Attributes:
        config: Its settings.
        trained: What came of it.
        files: Digests of the files it made.
        weights: Digests of the weights it ended with; None for a model without any.
    """

    config: HNLMConfig
    trained: Trained
    files: dict[str, str]
    weights: dict[str, str] | None


def compare_masks(own: Sequence[Any], splits: Sequence[Pairs]) -> list[Finding]:
    """What a method's validation and test loaders mask, beside what RecBole would.

    Args:
        own: The two loaders; None where the method hands over none.
        splits: Pairs of train, valid and test.
    """
    train, valid, test = splits
    both = Pairs(np.concatenate([train.users, valid.users]), np.concatenate([train.items, valid.items]))
    found = []
    for name, loader, seen, positives in (("validation", own[0], train, valid), ("test", own[1], both, test)):
        compared = f"items masked in {name}"
        if loader is None or not hasattr(loader, "uid2history_item"):
            found.append(Finding(compared, None, "the method hands over no loader of full ranking"))
        else:
            fault = mask_fault(loader, seen, positives)
            found.append(Finding(compared, fault is None, fault or ""))
    return found


def differing_files(first: Run, second: Run) -> list[str]:
    """Names of the files that differ between two runs, or that only one of them has made."""
    names = sorted({**first.files, **second.files})
    return [name for name in names if first.files.get(name) != second.files.get(name)]


def compare_training(true: Run, other: Run, besides: Sequence[str] = ()) -> list[Finding]:
    """What two trainings have in common, in the order in which it comes to be.

    Args:
        true: One of them.
        other: The other one.
        besides: Names of files that are not compared.
    """
    first, second = true.trained.trace, other.trained.trace
    files = ({name: made for name, made in run.files.items() if name not in besides} for run in (true, other))
    return [
        same("files made", *(made or None for made in files)),
        same("weights before training", first.start or None, second.start or None),
        same("training pairs, step by step", first.pairs or None, second.pairs or None),
        same("negatives, step by step", first.negatives or None, second.negatives or None),
        same("loss, step by step", first.losses or None, second.losses or None),
        same("weights after training", true.weights, other.weights),
    ]


def same(compared: str, first: Any, second: Any) -> Finding:
    """Whether two lists or mappings are equal, and where they first differ."""
    if first is None and second is None:  # an autoencoder has no negatives, a plain model no sampler
        return Finding(compared, None, "nothing of the kind")
    if first is None or second is None:
        return Finding(compared, False, "only one of the runs has any")
    if isinstance(first, Mapping):
        names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
        if not names:
            return Finding(compared, True)
        values = first.get(names[0]), second.get(names[0])
        numbers = f" ({values[0]} and {values[1]})" if all(isinstance(value, float) for value in values) else ""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return Finding(compared, False, f"{names[0]}{numbers}{more}")
    steps = [step for step, (one, two) in enumerate(zip(first, second, strict=False), start=1) if one != two]
    if steps:
        return Finding(compared, False, f"number {steps[0]} of {len(first)}")
    equal = len(first) == len(second)
    return Finding(compared, equal, "" if equal else f"{len(first)} and {len(second)} in number")
