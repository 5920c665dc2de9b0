"""README's table of models, made by training each of RecBole's general models for a step.

``UPDATE_README=1 python -m pytest tests/test_readme.py`` writes the table instead of comparing it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import settings, write_dataset

from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.graph_models import GRAPH_MODELS
from recbole_hnlm.models import refusal
from recbole_hnlm.quick_start import build_model, prepare

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"
SAMPLERS: dict[str, dict[str, Any]] = {
    "by id": {"neg_sampler": "dns", "neg_sampler_candidates": 4},
    "mixgcf": {"neg_sampler": "mixgcf", "neg_sampler_candidates": 4},
    "dins": {"neg_sampler": "dins", "neg_sampler_candidates": 4},
    "softmax": {"neg_sampler": "softmax", "neg_sampler_candidates": 4},
    "text": {"hnlm_alpha": 0.3, "neg_sampler": "hnlm", "neg_sampler_candidates": 4, "llm_teacher_epochs": 1,
             "hnlm_min_coverage": 0.1},
}  # fmt: skip


def general_models() -> list[type]:
    """Ours, and RecBole's general models, read from its folder so that none is forgotten."""
    import recbole.model.general_recommender as package

    found = list(GRAPH_MODELS.values())
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        own = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
        found += [cls for cls in own if hasattr(cls, "calculate_loss") and hasattr(cls, "input_type")]
    return sorted(found, key=lambda cls: cls.__name__.lower())


def trains(folder: Path, name: str, values: dict[str, Any]) -> bool:
    """Whether a step of training on the sampler gives a finite loss; False where the model refuses the sampler by name."""
    if values["neg_sampler"] == "hnlm":
        values = {**values, "hnlm_artefact_dir": str(folder / "art"), "llm_cache_dir": str(folder / "cache")}
    config = HNLMConfig(name, "tiny", config_dict=settings(folder, name, **values))
    loaders = prepare(config)
    try:
        model = build_model(config, loaders[0])
    except ValueError as error:
        assert name in str(error), error
        return False
    model.train()
    if hasattr(model, "e_step"):
        model.e_step()
    losses = model.calculate_loss(next(iter(loaders[0])))
    loss = sum(losses) if isinstance(losses, tuple) else losses
    loss.backward()
    assert torch.isfinite(loss), (name, values)
    return True


def test_table_of_models_says_what_trains(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_dataset(tmp_path_factory.mktemp("readme"))
    lines = ["| model | " + " | ".join(SAMPLERS) + " | |", "|---|" + "---|" * (len(SAMPLERS) + 1)]
    refused = []
    for model in general_models():
        reason = refusal(model)
        if reason is not None:
            refused.append((model.__name__, reason.removeprefix(model.__name__ + " ")))
            continue
        marks = [("yes" if trains(folder, model.__name__, values) else "refused") for values in SAMPLERS.values()]
        kind = "pointwise" if model.input_type.name == "POINTWISE" else "pairwise"  # type: ignore[attr-defined]
        lines.append(f"| {model.__name__} | " + " | ".join(marks) + f" | {kind} |")
    assert len(lines) == 20 and len(refused) == 17, (lines, refused)
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused:
        by_reason.setdefault(reason, []).append(name)
    lines += ["", "Refused by name, run them with `neg_sampler: none`:", ""]
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    table = "\n".join(lines)
    text = README.read_text(encoding="utf-8")
    block = re.compile(re.escape(BEGIN) + r"\n(.*?)\n" + re.escape(END), re.DOTALL)
    if os.environ.get("UPDATE_README"):
        README.write_text(block.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text), encoding="utf-8")
        return
    found = block.search(text)
    assert found is not None and found.group(1) == table, "run UPDATE_README=1 python -m pytest tests/test_readme.py"
