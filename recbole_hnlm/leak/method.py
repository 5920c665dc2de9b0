"""A method under the leak check: what trains it, and what it hands to evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recbole.utils import get_trainer

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.leak.trace import Trace, state_digests, traced
from recbole_hnlm.models import HardNegativeMixin, hnlm
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.training.watching import watching


@dataclass
class Trained:
    """A method after its training.

    Attributes:
        model: The model, with RecBole's ``full_sort_predict`` or ``predict``.
        train_data: The loader it was trained from, or None where the check should not ask for further steps.
        valid_data: The loader that the method would hand to ``Trainer.evaluate`` for validation, or None.
        test_data: The same for the test.
        trace: What the training did, step by step, where it was looked on.
    """

    model: Any
    train_data: Any = None
    valid_data: Any = None
    test_data: Any = None
    trace: Trace = field(default_factory=Trace)


TrainFunction = Callable[[HNLMConfig], Trained]
"""Trains a method on the data that a configuration names, for ``config["epochs"]`` epochs, without selection."""


def train_as_configured(config: HNLMConfig) -> Trained:
    """Train what ``run_recbole_hnlm`` would train, without validation."""
    model_class = config.model_class
    if config.run is None or issubclass(model_class, HardNegativeMixin):
        config.model_class = traced(model_class)
    else:
        config.model_class = hnlm(traced(model_class))  # between the two the trace sees what the base's loss is given
    train_data, valid_data, test_data = prepare(config)
    model, trace = build_model(config, train_data), Trace()
    model.__dict__["leak_trace"] = trace
    trace.start = state_digests(model)
    trainer = watching(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.fit(train_data, None, saved=False, show_progress=config["show_progress"])
    trainer.tensorboard.close()
    model.__dict__["leak_trace"] = Trace()  # later steps are no training
    return Trained(model, train_data, valid_data, test_data, trace)
