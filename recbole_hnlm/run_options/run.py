"""What one run does: which sampler with which options, and whether text takes part. Parsed from the flat
configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions, LLMOptions
from recbole_hnlm.options.comparator import (
    COMPARATOR_PREFIX,
    COMPARATORS,
    PUBLISHED_SAMPLER,
    WITHOUT_OURS,
    ComparatorOptions,
    LLMRecOptions,
    comparator_of,
    useless_comparator_keys,
)
from recbole_hnlm.options.general import CommonSamplerOptions, GeneralOptions
from recbole_hnlm.options.guard import GuardOptions
from recbole_hnlm.options.hybrid import HybridRun
from recbole_hnlm.options.loss import OWN_LOSS, RANKING_KEY, RANKING_PREFIX, RankingRun, parse_ranking
from recbole_hnlm.options.parsing import UselessOption, parse_options, reject_unknown, useless_hnlm_keys
from recbole_hnlm.run_options.chat import ChatRun, parse_chat
from recbole_hnlm.run_options.checks import (
    BASE_SAMPLER_KEY,
    NAMES_BESIDE,
    NO_SAMPLER,
    RECBOLE_SAMPLER,
    SAMPLER_PREFIX,
    TEXT_SAMPLER,
    Choices,
    check_adam,
    check_combination,
    check_guard,
    check_keys,
    check_nothing_asked,
    check_ranking,
    check_sparing,
    checked_rule,
)
from recbole_hnlm.run_options.hybrid import parse_hybrid
from recbole_hnlm.samplers import NegativeSampler, sampler_class
from recbole_hnlm.samplers.semantic import SemanticOptions


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
        comparator: Options of the published method that runs in place of ours, or None.
        guard: Which candidates are not used.
        ranking: The loss in place of the model's own ranking loss, or None where that stays.
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
    comparator: ComparatorOptions | None = None
    guard: GuardOptions = GuardOptions()
    ranking: RankingRun | None = None

    @property
    def merges(self) -> bool:
        """Whether the rows that the model reads are made of its own and of text."""
        return self.comparator is not None and self.comparator.merges

    @property
    def reads_text(self) -> bool:
        """Whether training needs any artefact at all."""
        return self.hnlm is not None and (self.hnlm.reads_text or self.guard.guard == "text")

    @property
    def starts_from_text(self) -> bool:
        """Whether the model's embeddings begin as text, where it has some."""
        return self.hnlm is not None and self.comparator is None and self.hnlm.reads_text and self.hnlm.init != "random"

    @property
    def fast_propagation(self) -> bool:
        """Whether sparse products run over CSR in this run."""
        chosen = self.general.fast_propagation
        return self.sampler_type is not None if chosen is None else chosen

    @property
    def triples(self) -> LLMRecOptions | None:
        """Options of LLMRec's extra triples, or None where the run reads none."""
        options = self.comparator
        return options if isinstance(options, LLMRecOptions) and options.has_triples else None

    @property
    def joint_loss(self) -> bool:
        """Whether several negatives of a pair enter one term of the loss."""
        return self.negatives > 1 or self.weighs_negatives

    @property
    def weighs_negatives(self) -> bool:
        """Whether negatives carry weights, which only a loss that takes them can heed."""
        by_rule = self.sampler_type is not None and self.sampler_type.weighs
        return by_rule or (self.hnlm is not None and self.hnlm.brings_extra)

    @property
    def adam(self) -> str:
        """How Adam updates in this run."""
        return self.general.adam or ("plain" if self.sampler_type is None else "fused")


def cache_directory(run: RunOptions) -> Path:
    """Where encoded texts, trained teachers, trees and scores are kept between builds."""
    return Path(run.llm.cache_dir) if run.llm.cache_dir is not None else Path("hnlm_cache")


def base_sampler_of(values: Mapping[str, Any]) -> Any:
    """The sampler that draws catalogue items: ``neg_sampler`` itself, or ``hnlm_base_sampler`` under ``hnlm``."""
    sampler = values.get(SAMPLER_KEY)
    if sampler == TEXT_SAMPLER:
        usual = HNLMOptions.base_sampler if comparator_of(values) is None else PUBLISHED_SAMPLER
        return values.get(BASE_SAMPLER_KEY, usual)
    return sampler


def parse_given(
    values: Mapping[str, Any], given: Iterable[str], recbole_keys: Iterable[str], overruled: Collection[str]
) -> tuple[RunOptions | None, list[str]]:
    """As :func:`parse_run`, but ``overruled`` options may be useless; those that are come second."""
    kept, useless = list(given), list[str]()
    while True:
        try:
            return parse_run(values, kept, recbole_keys), useless
        except UselessOption as error:
            if error.key not in overruled:
                raise
            kept.remove(error.key)
            useless.append(error.key)


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
    beside = (RECBOLE_SAMPLER,) if with_text else NAMES_BESIDE
    rule_type = None if not active or rule == RECBOLE_SAMPLER else sampler_class(checked_rule(rule), beside)
    llm = parse_options(LLMOptions, LLMOptions.PREFIX, values)
    compared = comparator_of(values) if with_text else None
    ranking = parse_ranking(values)
    loss = OWN_LOSS if ranking is None else ranking.name
    check_keys(given, recbole_keys, Choices(sampler, rule, llm.backend, llm.negatives, loss, compared), rule_type)
    if not active:
        return None
    common = parse_options(CommonSamplerOptions, SAMPLER_PREFIX, values)
    own = values if compared is None else {**values, **WITHOUT_OURS, "hnlm_base_sampler": rule}
    label = rule if isinstance(rule, str) else rule.__name__
    run = RunOptions(
        sampler=f"{compared or TEXT_SAMPLER}({label})" if with_text else label,
        sampler_type=rule_type,
        sampler_options=parse_options(rule_type.Options, SAMPLER_PREFIX, values) if rule_type else None,
        negatives=common.num,
        seed=common.seed if common.seed is not None else int(values.get("seed") or 0),
        hnlm=parse_options(HNLMOptions, HNLMOptions.PREFIX, own) if with_text else None,
        llm=llm,
        general=general,
        chat=parse_chat(values, llm.backend, compared is not None or llm.names_by == "hybrid") if with_text else None,
        hybrid=parse_hybrid(values, llm) if with_text else None,
        comparator=parse_options(COMPARATORS[compared], COMPARATOR_PREFIX, values) if compared is not None else None,
        guard=parse_options(GuardOptions, SAMPLER_PREFIX, values) if rule_type else GuardOptions(),
        ranking=ranking,
    )
    _check(run, values, given, rule)
    return run


def _check(run: RunOptions, values: Mapping[str, Any], given: tuple[str, ...], rule: Any) -> None:
    """Refuse what does not go together in a run."""
    draws_named = isinstance(run.sampler_options, SemanticOptions)
    check_combination(run.negatives, run.sampler_type, run.hnlm)
    check_guard(run.guard, given, run.sampler_type, run.hnlm is not None)
    if run.ranking is not None:
        check_ranking(run.ranking, run.negatives, rule, run.hnlm, run.guard)
    check_sparing(run.hnlm, run.ranking)
    if run.general.adam in ("fused", "rows"):
        check_adam(run.general.adam, values)
    if run.hnlm is not None:
        reject_unknown(given, (), useless_hnlm_keys(run.hnlm, guarded=run.guard.guard == "text"))
    reject_unknown(given, (), useless_comparator_keys(run.comparator))
    if run.chat is not None and run.llm.names_by == "text" and run.chat.text.pair_grouping == "none":
        check_nothing_asked(run.hnlm, draws_named)
    if run.hybrid is not None and draws_named and not run.hybrid.options.grounded_items:
        raise ValueError("semantic draws what vectors were grounded to; set llm_grounded_items=1 or more")
    if getattr(run.sampler_options, "judge", "rule") == "llm" and run.chat is None:
        raise ValueError(
            "neg_sampler_judge=llm needs a chat model: neg_sampler=hnlm, hnlm_base_sampler=dtl, llm_backend"
        )


def describe_options(run: RunOptions) -> dict[str, Any]:
    """Flat ``key: value`` of what a run uses, for result dictionaries and tables."""
    described: dict[str, Any] = {SAMPLER_KEY: run.sampler, "neg_sampler_num": run.negatives}
    parts = (
        (SAMPLER_PREFIX, run.sampler_options),
        (SAMPLER_PREFIX, run.guard if run.guard.active else None),
        (HNLMOptions.PREFIX, run.hnlm),
        (COMPARATOR_PREFIX, run.comparator),
    )
    for prefix, options in parts:
        if options is not None:
            described.update({prefix + key: value for key, value in dataclasses.asdict(options).items()})
    if run.ranking is not None:
        own = dataclasses.asdict(run.ranking.options)
        described.update({RANKING_KEY: run.ranking.name, **{RANKING_PREFIX + key: own[key] for key in own}})
    return described
