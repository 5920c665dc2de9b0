"""What a training run did, step by step, as digests that two runs can be compared by.

Shapes: ``M`` rows of a batch.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recbole.utils import InputType
from torch import Tensor

from recbole_hnlm.samplers import Negatives

_LOGS = ("log", "log_tensorboard")
_CHECKPOINTS = "saved"
"""RecBole's folders of logs and of checkpoints (``.pth``), which hold times."""


def digest(value: Any) -> str:
    """Digest of a tensor, or of a nest of tensors and plain values."""
    hashed = hashlib.blake2b(digest_size=16)
    _add(hashed, value)
    return hashed.hexdigest()


def _add(hashed: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.to_dense() if value.layout is not torch.strided else value
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.contiguous().view(torch.uint8).numpy() if value.dim() else value.numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            hashed.update(str(key).encode())
            _add(hashed, value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _add(hashed, entry)
    elif value is None or isinstance(value, (str, int, float, bool)):
        hashed.update(repr(value).encode())
    else:
        hashed.update(pickle.dumps(value))


@dataclass
class Trace:
    """Digests of one training run.

    Attributes:
        start: Of each entry of the state dictionary before training.
        pairs: Of every step's positive pairs.
        negatives: Of every step's negatives: ids, synthetic rows, weights.
        losses: Every step's loss.
    """

    start: dict[str, str] = field(default_factory=dict)
    pairs: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


def state_digests(model: torch.nn.Module) -> dict[str, str]:
    """Digest of each entry of a model's state dictionary."""
    return {name: digest(value) for name, value in model.state_dict().items()}


def file_digests(folder: Path, besides: set[Path]) -> dict[str, str]:
    """Digest of each file below a folder that a method has made; RecBole's logs and checkpoints are left out."""
    made: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        of_recbole = name.parts[0] in _LOGS or (name.parts[0] == _CHECKPOINTS and name.suffix == ".pth")
        if path.is_file() and path not in besides and not of_recbole:
            made[name.as_posix()] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return made


def _sides(model: Any, interaction: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Positive pairs and the rest of a batch; of pointwise models the rows labelled 0 are the rest."""
    columns = interaction.interaction
    ids = [columns[field] for field in (model.USER_ID, getattr(model, "ITEM_ID", None)) if field in columns]
    if getattr(model, "input_type", None) is InputType.POINTWISE and getattr(model, "LABEL", None) in columns:
        positive = columns[model.LABEL] > 0
        return [ids_of[positive] for ids_of in ids], [ids_of[~positive] for ids_of in ids]
    negatives = getattr(model, "NEG_ITEM_ID", None)
    return ids, [columns[negatives]] if negatives in columns else []


def traced(model_class: type) -> type:
    """A subclass of a model that enters every training step in ``leak_trace``, an entry of its ``__dict__``."""
    original: Any = getattr(model_class, "calculate_loss")  # noqa: B009 - a type has no calculate_loss for mypy

    @functools.wraps(original)  # what a loss reads is looked up in its code
    def calculate_loss(self: Any, interaction: Any) -> Any:
        trace: Trace = self.__dict__["leak_trace"]
        pairs, negatives = _sides(self, interaction)
        step: Negatives | None = self.__dict__.get("_step_negatives")
        trace.pairs.append(digest(pairs))
        chosen = [step.ids, step.rows, step.weights, step.importance] if step is not None else negatives
        trace.negatives.append(digest(chosen))
        loss = original(self, interaction)
        trace.losses.append(digest(loss))
        return loss

    namespace = {"calculate_loss": calculate_loss, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), namespace)
