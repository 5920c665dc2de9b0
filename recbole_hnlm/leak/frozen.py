"""What evaluation does with a trained model: metrics, and the items that are masked.

Shapes: ``U`` users of a split.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import torch
from recbole.utils import ModelType, get_trainer

from recbole_hnlm.leak.poison import Pairs
from recbole_hnlm.leak.trace import digest

_STEPS = 20


class Judge:
    """Evaluates models on the true held-out data, by RecBole's trainer and loaders that no method has touched.

    Args:
        config: Settings of the true world.
        loaders: Train, valid and test loaders as RecBole makes them.
    """

    def __init__(self, config: Any, loaders: tuple[Any, Any, Any]) -> None:
        self.config = config
        self.loaders = loaders

    def metrics(self, model: Any, held_out: tuple[Any, ...] | None = None) -> dict[str, float]:
        """Validation and test metrics of a frozen model, on the judge's loaders or on others."""
        trainer = self._trainer(model)
        found = {}
        for part, loader in zip(("valid", "test"), held_out or self.loaders[1:], strict=True):
            if loader is not None:
                result = trainer.evaluate(loader, load_best_model=False, show_progress=False)
                found.update({f"{part} {name}": float(value) for name, value in result.items()})
        trainer.tensorboard.close()
        return found

    def scores(self, model: Any) -> list[str]:
        """Digest of each test batch's scores as they are ranked."""
        trainer = self._trainer(model)
        trainer.evaluate(self.loaders[2], load_best_model=False, show_progress=False)  # sets what a batch needs
        with torch.no_grad():
            found = [digest(trainer._full_sort_batch_eval(batch)[1]) for batch in self.loaders[2]]
        trainer.tensorboard.close()
        return found

    def _trainer(self, model: Any) -> Any:
        trainer = get_trainer(self.config["MODEL_TYPE"], self.config["model"])(self.config, model)
        trainer.eval_collector.data_collect(self.loaders[0])
        return trainer

    def metrics_after_steps(self, model: Any, train_data: Any) -> dict[str, float] | None:
        """Metrics after the method has gone through further training steps that change no weight.

        Sampling, false-negative steps and caches run as in training; None where there are no such steps.
        """
        if train_data is None or self.config["MODEL_TYPE"] is ModelType.TRADITIONAL:
            return None
        state = copy.deepcopy(model.state_dict())
        plain = [(module, {name: value.clone() for name, value in vars(module).items() if torch.is_tensor(value)})
                 for module in model.modules()]  # fmt: skip
        model.train()
        for batch in islice(train_data, _STEPS):
            model.calculate_loss(batch.to(self.config["device"]))
        model.load_state_dict(state)
        for module, values in plain:
            vars(module).update(values)
        return self.metrics(model)

    def metrics_without_head(self, model: Any) -> dict[str, float] | None:
        """Metrics without the sampler, the text and all else that the wrapper has added; None for a plain model."""
        head = getattr(model, "hnlm", None)
        if head is None:
            return None
        model.hnlm = None
        try:
            return self.metrics(model)
        finally:
            model.hnlm = head


def mask_fault(loader: Any, seen: Pairs, positives: Pairs) -> str | None:
    """Where a full-ranking loader masks, or asks for, other items than RecBole would.

    Args:
        loader: The loader that a method evaluates with.
        seen: What may be masked: training pairs, and validation pairs in the test.
        positives: The split's own pairs, which are never masked.

    Returns:
        The first user in whom they differ, in words, or None.
    """
    users = sorted(set(positives.users.tolist()))
    if sorted(loader.uid_list.tolist()) != users:
        return f"{len(loader.uid_list)} users are evaluated, the split has {len(users)}"
    wanted, history = _by_user(positives), _by_user(seen)
    for user in users:
        asked = set(loader.uid2positive_item[user].tolist())
        masked = set(loader.uid2history_item[user].tolist())
        allowed = history.get(user, set()) - wanted[user]
        for what, found, expected in (("asked for", asked, wanted[user]), ("masked", masked, allowed)):
            if found != expected:
                return (
                    f"user {user}: {len(found - expected)} items too many are {what}, {len(expected - found)} too few"
                )
    return None


def _by_user(pairs: Pairs) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
        found.setdefault(user, set()).add(item)
    return found
