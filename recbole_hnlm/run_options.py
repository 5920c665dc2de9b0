"""What one run does: which sampler with which options, and whether text takes part. Parsed from the flat
configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recbole_hnlm.chat_run import ChatRun, chat_keys, parse_chat, useless_keys
from recbole_hnlm.hybrid_options import HybridRun
from recbole_hnlm.hybrid_run import hybrid_keys, parse_hybrid, useless_hybrid_keys
from recbole_hnlm.option_parsing import (
    option_keys,
    parse_options,
    reject_misspelled,
    reject_unknown,
    useless_hnlm_keys,
)
from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions, LLMOptions
from recbole_hnlm.samplers import SAMPLERS, NegativeSampler, sampler_class

SAMPLER_PREFIX = "neg_sampler_"
RECBOLE_SAMPLER = "recbole"
"""RecBole's own drawing by ``train_neg_sample_args``, unchanged; text may still be mixed in."""
TEXT_SAMPLER = "hnlm"
NO_SAMPLER = "none"


@dataclass(frozen=True)
class CommonSamplerOptions:
    """Options of every sampler. Keys carry the prefix ``neg_sampler_``."""

    num: int = 1
    """Negatives per pair, ``K``."""
    seed: int | None = None
    """Seed of the draws; ``None`` takes RecBole's ``seed``."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"neg_sampler_num={self.num} must be at least 1")


@dataclass(frozen=True)
class GeneralOptions:
    """Options that have nothing to do with negatives. Keys carry no prefix."""

    fast_propagation: bool | None = None
    """Whether graph models multiply over CSR, equal to 1e-6 and up to three times faster. ``None`` = yes, except where
    RecBole's own sampler draws: such a run is the bare model's to the last bit."""
    adam: Literal["fused", "rows", "plain"] | None = None
    """How ``learner: adam`` updates. ``fused`` = torch's fused kernel and one gradient a row for lookup models, equal
    to rounding; ``rows`` = rows that a step did not read are left alone, another optimizer, for very large tables of
    lookup models; ``plain`` = as RecBole. ``None`` = fused, except where RecBole's own sampler draws."""
    torch_threads: int | None = None
    """Threads of torch in this process; ``None`` leaves them. Small models are fastest with one."""

    def __post_init__(self) -> None:
        if self.torch_threads is not None and self.torch_threads < 1:
            raise ValueError(f"torch_threads={self.torch_threads} must be at least 1")


@dataclass(frozen=True)
class RunOptions:
    """Everything the wrapper needs to know of the configuration.

    Attributes:
        sampler: Name of the rule, for logs and tables.
        sampler_type: Its class, or None where RecBole's own sampler draws.
        sampler_options: The rule's own options.
        negatives: Negatives per pair, ``K``.
        seed: Seed of the draws.
        hnlm: Options of the text part, or None where text takes no part.
        llm: Options of the offline part.
        general: Options that have nothing to do with negatives.
        chat: Options of the chat model of the offline part, or None where it asks none.
        hybrid: Options of the model that the offline part tunes, or None where it tunes none.
    """

    sampler: str
    sampler_type: type[NegativeSampler] | None
    sampler_options: Any
    negatives: int
    seed: int
    hnlm: HNLMOptions | None
    llm: LLMOptions
    general: GeneralOptions
    chat: ChatRun | None = None
    hybrid: HybridRun | None = None

    @property
    def fast_propagation(self) -> bool:
        """Whether sparse products run over CSR in this run."""
        chosen = self.general.fast_propagation
        return self.sampler_type is not None if chosen is None else chosen

    @property
    def joint_loss(self) -> bool:
        """Whether several negatives of a pair enter one term of the loss."""
        weighs = self.sampler_type is not None and self.sampler_type.weighs
        return self.negatives > 1 or weighs or (self.hnlm is not None and self.hnlm.brings_extra)

    @property
    def adam(self) -> str:
        """How Adam updates in this run."""
        return self.general.adam or ("plain" if self.sampler_type is None else "fused")


def base_sampler_of(values: Mapping[str, Any]) -> Any:
    """The sampler that draws catalogue items: ``neg_sampler`` itself, or ``hnlm_base_sampler`` under ``hnlm``."""
    sampler = values.get(SAMPLER_KEY)
    if sampler == TEXT_SAMPLER:
        return values.get("hnlm_base_sampler", HNLMOptions.base_sampler)
    return sampler


def parse_run(values: Mapping[str, Any], given: Iterable[str], recbole_keys: Iterable[str]) -> RunOptions | None:
    """Parse and check every option of ours.

    Args:
        values: The merged flat configuration.
        given: Keys that the user wrote; only these can be wrong or useless.
        recbole_keys: Keys that RecBole itself knows.

    Returns:
        The run's options, or None under ``neg_sampler: none`` or without the key.

    Raises:
        ValueError: On unknown, misspelled or useless keys and impossible combinations.
        TypeError: On values of the wrong type.
    """
    sampler = values.get(SAMPLER_KEY)
    given = tuple(given)
    general = parse_options(GeneralOptions, "", values)
    active = sampler is not None and sampler != NO_SAMPLER
    rule = base_sampler_of(values)
    with_text = sampler == TEXT_SAMPLER
    rule_type = None if not active or rule == RECBOLE_SAMPLER else sampler_class(_checked_rule(rule))
    llm = parse_options(LLMOptions, LLMOptions.PREFIX, values)
    _check_keys(given, recbole_keys, (sampler, rule, llm.backend, llm.negatives), rule_type)
    if not active:
        return None
    common = parse_options(CommonSamplerOptions, SAMPLER_PREFIX, values)
    rule_options = parse_options(rule_type.Options, SAMPLER_PREFIX, values) if rule_type else None
    hnlm = parse_options(HNLMOptions, HNLMOptions.PREFIX, values) if with_text else None
    _check_combination(common, rule_type, hnlm)
    if general.adam in ("fused", "rows"):
        _check_adam(general.adam, values)
    if hnlm is not None:
        reject_unknown(given, (), useless_hnlm_keys(hnlm))
    label = rule if isinstance(rule, str) else rule.__name__
    seed = common.seed if common.seed is not None else int(values.get("seed") or 0)
    name = f"hnlm({label})" if with_text else label
    chat = parse_chat(values, llm.backend) if with_text else None
    hybrid = parse_hybrid(values, llm) if with_text else None
    if hybrid is not None and rule == "semantic" and not hybrid.options.grounded_items:
        raise ValueError("semantic draws what vectors were grounded to; set llm_grounded_items=1 or more")
    return RunOptions(name, rule_type, rule_options, common.num, seed, hnlm, llm, general, chat, hybrid)


def _checked_rule(rule: Any) -> Any:
    if rule in (TEXT_SAMPLER, NO_SAMPLER):
        raise ValueError(f"hnlm_base_sampler={rule!r} draws no catalogue items; choose one of {sorted(SAMPLERS)}")
    return rule


def _check_keys(
    given: Iterable[str],
    recbole_keys: Iterable[str],
    names: tuple[Any, Any, str, str],
    rule_type: type[NegativeSampler] | None,
) -> None:
    """Refuse keys without effect; ``names`` are the sampler, its rule, ``llm_backend`` and ``llm_negatives``."""
    given, (sampler, rule, backend, names_by) = tuple(given), names
    common = option_keys(CommonSamplerOptions, SAMPLER_PREFIX)
    own = option_keys(rule_type.Options, SAMPLER_PREFIX) if rule_type else ()
    hnlm, llm = option_keys(HNLMOptions, HNLMOptions.PREFIX), option_keys(LLMOptions, LLMOptions.PREFIX)
    unasked = {**useless_keys(backend), **useless_hybrid_keys(names_by)}
    llm = tuple(key for key in (*llm, *sorted(chat_keys(backend) | hybrid_keys())) if key not in unasked)
    elsewhere: dict[str, str] = dict(unasked)
    for name in SAMPLERS:
        for key in option_keys(sampler_class(name).Options, SAMPLER_PREFIX):
            elsewhere.setdefault(key, f"it belongs to neg_sampler={name}, this run uses {rule}")
    known = {SAMPLER_KEY, "torch_threads"}
    if sampler is not None and sampler != NO_SAMPLER:
        known |= {"fast_propagation", "adam"}
    else:
        elsewhere.update(dict.fromkeys(("fast_propagation", "adam"), "RecBole trains this model by itself"))
    if rule_type is not None:
        known |= {*common, *own}
    else:
        elsewhere.update(dict.fromkeys(common, f"neg_sampler={sampler} draws nothing with it"))
    if sampler == TEXT_SAMPLER:
        known |= {*hnlm, *llm}
    else:
        reason = f"it belongs to neg_sampler={TEXT_SAMPLER}, this run uses {sampler}"
        elsewhere.update(dict.fromkeys((*hnlm, *llm), reason))
    for key in known:
        elsewhere.pop(key, None)
    reject_unknown(given, known, elsewhere)
    reject_misspelled(given, recbole_keys, (*known, *elsewhere))


def _check_combination(
    common: CommonSamplerOptions, rule_type: type[NegativeSampler] | None, hnlm: HNLMOptions | None
) -> None:
    if rule_type is None:
        return
    if rule_type.weighs and common.num > 1:
        raise ValueError(
            f"neg_sampler_num={common.num} with {rule_type.__name__}, which weighs all its candidates; "
            "set neg_sampler_candidates instead"
        )
    if common.num > 1 and hnlm is not None and hnlm.brings_extra:
        raise ValueError(f"hnlm_use=extra adds to one negative a pair, neg_sampler_num is {common.num}; remove one")
    if rule_type.weighs and hnlm is not None and hnlm.alpha > 0:
        raise ValueError(f"{rule_type.__name__} weighs many negatives, text mixes with one; use dns or hnlm_alpha: 0")


def _check_adam(adam: str, values: Mapping[str, Any]) -> None:
    learner = str(values.get("learner", "adam")).lower()
    if learner not in (("adam", "adamw") if adam == "fused" else ("adam",)):
        raise ValueError(f"adam={adam} has no effect with {learner=}; remove one of them")
    if adam == "rows":
        useless = [key for key in ("weight_decay", "clip_grad_norm") if values.get(key)]
        if useless:
            raise ValueError(f"adam=rows cannot do {' and '.join(useless)}, which read all rows; set adam=fused")


def describe_options(run: RunOptions) -> dict[str, Any]:
    """Flat ``key: value`` of what a run uses, for result dictionaries and tables."""
    described: dict[str, Any] = {SAMPLER_KEY: run.sampler, "neg_sampler_num": run.negatives}
    for prefix, options in ((SAMPLER_PREFIX, run.sampler_options), (HNLMOptions.PREFIX, run.hnlm)):
        if options is not None:
            described.update({prefix + key: value for key, value in dataclasses.asdict(options).items()})
    return described
