"""Base models of hybrid prompts: found, loaded in their precision, and given LoRA matrices."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_hnlm.llm import weights
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder
from recbole_hnlm.llm.hybrid.prompts import PromptTemplate, Tokens, room_for_profiles
from recbole_hnlm.llm.sharding import local_device
from recbole_hnlm.options.hybrid import BaseSettings, FineTuneSettings

logger = logging.getLogger(__name__)
_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Base:
    """A loaded base model.

    Attributes:
        model: What reads prompts; without projectors and without LoRA at first.
        tokens: Its tokenizer.
        lengths: Most tokens of a prompt and of an item's text, within what the model can read.
        revision: Checksum or commit of its weights.
    """

    model: HybridEncoder
    tokens: Tokens
    lengths: tuple[int, int]
    revision: str


def load_base(settings: BaseSettings) -> Base:
    """Load the base model that ``settings`` name.

    Raises:
        ImportError: If a package is not installed.
        FileNotFoundError: If the model is neither a directory nor packaged, cached or on the hub.
        ValueError: If the prompts are longer than it can read, or it is an encoder-decoder model.
    """
    settings = on_this_machine(settings)
    config = check_base(settings)
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    source, revision = locate(settings.base)
    local = _is_local(revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = AutoModel.from_pretrained(
            source, config=_without_dropout(config), local_files_only=local, **_loading(settings)
        )
    except OSError as error:
        raise _not_loaded(settings, error) from error
    if settings.quantization == "none":
        model.to(settings.device)
    else:
        _keep_unpacked(model)
    is_decoder = config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    model.requires_grad_(False)
    encoder = HybridEncoder(model, is_decoder, settings.precision).eval()
    revision = revision or str(getattr(config, "_commit_hash", None) or "unknown")
    logger.info(
        "base model %s (%s), %s of width %d, %s%s on %s",
        *(settings.base, revision, "a decoder" if is_decoder else "an encoder", encoder.width, settings.precision),
        *("" if settings.quantization == "none" else f", {settings.quantization}", settings.device),
    )
    return Base(encoder, Tokens(tokenizer), (settings.prompt_tokens, settings.label_tokens), revision)


def check_base(settings: BaseSettings) -> Any:
    """Look for the base model and the packages it takes, without its weights; returns its configuration.

    Raises:
        ImportError: If a package is not installed.
        FileNotFoundError: If the model is neither a directory nor packaged, cached or on the hub.
        ValueError: If the prompts are longer than it can read, or it is an encoder-decoder model.
    """
    _require("transformers", "pip install recbole_hnlm")
    _require("peft", "pip install peft")
    if settings.quantization != "none":
        _require("bitsandbytes", "pip install bitsandbytes, or set llm_quantization=none")
    from transformers import AutoConfig

    source, revision = locate(settings.base)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=_is_local(revision))
    except OSError as error:
        raise _not_loaded(settings, error) from error
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"llm_base={settings.base!r} is an encoder-decoder model; use a decoder or an encoder")
    longest = getattr(config, "max_position_embeddings", None)
    wanted = max(settings.prompt_tokens, settings.label_tokens)
    if longest is not None and wanted > longest:
        raise ValueError(f"llm_prompt_tokens={wanted} exceeds the {longest} tokens {settings.base} reads; lower it")
    return config


def _is_local(revision: str) -> bool:
    """Whether to leave the hub alone; where it does not answer, transformers would try for minutes."""
    return bool(revision) or not weights.is_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


def _not_loaded(settings: BaseSettings, error: OSError) -> FileNotFoundError:
    return FileNotFoundError(
        f"base model {settings.base!r} could not be loaded ({error}); check llm_base, or give the path of a folder"
    )


def check_wording(settings: BaseSettings, template: PromptTemplate) -> None:
    """Refuse prompts that are too short for their own wording, and tokenizers without a closing token.

    Raises:
        ValueError: Naming the option.
    """
    from transformers import AutoTokenizer

    source, revision = locate(settings.base)
    tokens = Tokens(AutoTokenizer.from_pretrained(source, local_files_only=_is_local(revision)))
    room_for_profiles(tokens, template, settings.prompt_tokens)


def on_this_machine(settings: BaseSettings) -> BaseSettings:
    """The settings with this process's device of a group, and a precision that the device is good at."""
    device, precision = local_device(settings.device), settings.precision
    if precision == "auto":
        precision = "bfloat16" if not device.startswith("cpu") or _has_bfloat16() else "float32"
    return replace(settings, device=device, precision=precision)


def _has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in instructions of its own."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def locate(name: str) -> tuple[str, str]:
    """Where a base model is loaded from, and the checksum of its folder; the checksum is empty for the hub."""
    directory = Path(name) if Path(name).is_dir() else None
    if directory is None and name in weights.PACKAGED:
        directory = weights.packaged_weights()
    if directory is None:
        return name, ""
    weights.check_weights(directory)
    return str(directory), weights.fingerprint(directory)


def attention_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers in attention blocks, whatever the family calls them.

    Raises:
        ValueError: If there is none.
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(word in name.lower() for word in _ATTENTION)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer in an attention block; use another llm_base")
    return found


def prepare_training(model: HybridEncoder, precision: str) -> None:
    """Give attention a backward that is fast, before a base is tuned.

    torch's fused attention in bfloat16 was measured six times as slow backward on a CPU as plain products.
    """
    inner = model.base.get_base_model() if hasattr(model.base, "get_base_model") else model.base
    if model.device.type == "cpu" and precision == "bfloat16" and hasattr(inner, "set_attn_implementation"):
        inner.set_attn_implementation("eager")


def _without_dropout(config: Any) -> Any:
    """The configuration with every dropout of the base's own at 0: LoRA's is the only one that tuning uses."""
    for name, value in config.to_dict().items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            config.update({name: 0.0})
    return config


def add_lora(model: HybridEncoder, settings: FineTuneSettings) -> None:
    """Put LoRA matrices on the attention of the base; they alone of it are trained."""
    _require("peft", "pip install peft")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=attention_layers(model.base),
    )
    model.base = get_peft_model(model.base, config)


def read_lora(model: HybridEncoder, directory: Path) -> None:
    """Put the LoRA matrices in ``directory`` on the base.

    Raises:
        ValueError: If they do not fit it.
    """
    _require("peft", "pip install peft")
    from peft import PeftModel

    try:
        model.base = PeftModel.from_pretrained(model.base, str(directory))
    except (RuntimeError, KeyError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(f"the adapter in {directory} does not fit the base model ({error}); tune it anew") from error


def _loading(settings: BaseSettings) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for a precision and a quantisation."""
    dtype = getattr(torch, settings.precision)
    if settings.quantization == "none":
        return {"dtype": dtype}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"dtype": dtype, "quantization_config": config, "device_map": {"": settings.device}}


def _keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from packing weights for the CPU at the first evaluation.

    Packed weights have no backward pass, and are not unpacked for training: after a validation the gradients would be
    wrong without a word (seen with bitsandbytes 0.50).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _require(package: str, remedy: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"hybrid prompts need {package}, which is not installed; {remedy}")
