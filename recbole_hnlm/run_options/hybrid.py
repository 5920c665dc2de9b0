"""How one run tunes and asks hybrid prompts. Parsed from the flat configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.hybrid import (
    OF_THE_RUN,
    BaseSettings,
    FineTuneSettings,
    GenerateSettings,
    HybridOptions,
    HybridRun,
)
from recbole_hnlm.options.parsing import option_keys, parse_options

_PREFIXES: dict[type, str] = {
    HybridOptions: "llm_",
    BaseSettings: "llm_",
    FineTuneSettings: "llm_tune_",
    GenerateSettings: "llm_generate_",
}
_SHOWN = ("tensorboard", *OF_THE_RUN)
ENCODER_KEYS = ("llm_encoder", "llm_encoder_batch_size", "llm_encoder_backend", "llm_encoder_precision")


def hybrid_keys() -> set[str]:
    """Configuration keys of hybrid prompts."""
    keys = {key for options, prefix in _PREFIXES.items() for key in option_keys(options, prefix)}
    return keys - {prefix + name for prefix in _PREFIXES.values() for name in OF_THE_RUN}


def parse_hybrid(values: Mapping[str, Any], llm: LLMOptions) -> HybridRun | None:
    """The options of hybrid prompts, or None where the run has none.

    Raises:
        ValueError: If a value is wrong.
        TypeError: If a value does not have its type.
    """
    if llm.names_by != "hybrid":
        return None
    mine = {key: values[key] for key in hybrid_keys() if key in values}
    of_the_run = {"llm_tune_seed": llm.seed}
    if "llm_transfer" in mine and not mine.get("llm_adapter"):
        raise ValueError("llm_transfer has no effect without llm_adapter, whose soft tokens it fits; remove it")
    return HybridRun(
        parse_options(HybridOptions, "llm_", mine),
        parse_options(BaseSettings, "llm_", mine),
        parse_options(FineTuneSettings, "llm_tune_", {**mine, **of_the_run}),
        parse_options(GenerateSettings, "llm_generate_", mine),
    )


def useless_hybrid_keys(negatives: str) -> dict[str, str]:
    """Keys without effect beside ``llm_negatives``, mapped to the reason."""
    if negatives == "hybrid":
        return dict.fromkeys(ENCODER_KEYS, "llm_negatives=hybrid encodes texts by its own model, llm_base")
    reason = f"it belongs to llm_negatives=hybrid, this run has {negatives}"
    return dict.fromkeys(hybrid_keys(), reason)


def hybrid_settings(hybrid: HybridRun, adapter: str | None, prompt: str | None = None) -> dict[str, Any]:
    """What of a run's options decides the vectors, for the manifest.

    Args:
        hybrid: The options.
        adapter: Digest of the adapter that they name, or None where one is tuned.
        prompt: Digest of a wording of the user's own, or None.
    """
    tune = dataclasses.asdict(hybrid.tune)
    settings = {
        **{key: value for key, value in dataclasses.asdict(hybrid.base).items() if key not in OF_THE_RUN},
        **{f"tune_{key}": value for key, value in tune.items() if key not in _SHOWN or key == "seed"},
        "adapter": adapter,
        "transfer": hybrid.options.transfer if adapter else None,
        **({"tune_datasets": sorted(hybrid.options.tune_datasets)} if hybrid.options.tune_datasets else {}),
        **({"prompt": prompt} if prompt else {}),
        **({"grounded_items": hybrid.options.grounded_items} if hybrid.options.grounded_items else {}),
    }
    known: dict[str, Any] = json.loads(json.dumps(settings))
    return known
