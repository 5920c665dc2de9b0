"""What every run may say, whatever its sampler, and which options go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions, LLMOptions
from recbole_hnlm.options.comparator import COMPARATOR_PREFIX, COMPARATORS
from recbole_hnlm.options.general import CommonSamplerOptions
from recbole_hnlm.options.guard import GuardOptions
from recbole_hnlm.options.loss import OWN_LOSS, RANKING_KEY, RANKING_LOSS_OPTIONS, RankingRun, ranking_keys
from recbole_hnlm.options.parsing import option_keys, reject_misspelled, reject_unknown
from recbole_hnlm.run_options.chat import chat_keys, useless_keys
from recbole_hnlm.run_options.hybrid import hybrid_keys, useless_hybrid_keys
from recbole_hnlm.samplers import SAMPLERS, NegativeSampler, sampler_class

SAMPLER_PREFIX = "neg_sampler_"
BASE_SAMPLER_KEY = "hnlm_base_sampler"
RECBOLE_SAMPLER = "recbole"
"""RecBole's own drawing by ``train_neg_sample_args``, unchanged; text may still be mixed in."""
TEXT_SAMPLER = "hnlm"
NO_SAMPLER = "none"
NAMES_BESIDE = (TEXT_SAMPLER, RECBOLE_SAMPLER, NO_SAMPLER)
"""What ``neg_sampler`` may name beside samplers."""
WRAPPED_KEYS = ("fast_propagation", "adam")
"""Keys without prefix that only a wrapped model obeys."""
PLAIN_KEYS = ("torch_threads", "masked_filename")
"""Keys without prefix that every run obeys."""


@dataclass(frozen=True)
class Choices:
    """What a run has chosen by name; keys of other choices have no effect in it.

    Attributes:
        sampler: ``neg_sampler``.
        rule: Who draws catalogue items, by name or class.
        backend: ``llm_backend``.
        negatives: ``llm_negatives``.
        loss: ``ranking_loss``.
        comparator: Method that runs in place of ours, or None.
    """

    sampler: Any
    rule: Any
    backend: str
    negatives: str
    loss: Any
    comparator: str | None


def checked_rule(rule: Any) -> Any:
    """``rule`` itself, refused where it draws no catalogue items."""
    if rule in (TEXT_SAMPLER, NO_SAMPLER):
        raise ValueError(f"hnlm_base_sampler={rule!r} draws no catalogue items; choose one of {sorted(SAMPLERS)}")
    return rule


def check_keys(
    given: Iterable[str],
    recbole_keys: Iterable[str],
    chosen: Choices,
    rule_type: type[NegativeSampler] | None,
) -> None:
    """Refuse keys without effect.

    Args:
        given: Keys that the user wrote.
        recbole_keys: Keys that RecBole itself knows.
        chosen: The run's choices by name.
        rule_type: Class of the rule, or None where RecBole draws.
    """
    given, sampler, rule, loss = tuple(given), chosen.sampler, chosen.rule, chosen.loss
    common = option_keys(CommonSamplerOptions, SAMPLER_PREFIX) + option_keys(GuardOptions, SAMPLER_PREFIX)
    own = option_keys(rule_type.Options, SAMPLER_PREFIX) if rule_type else ()
    hnlm, llm = option_keys(HNLMOptions, HNLMOptions.PREFIX), option_keys(LLMOptions, LLMOptions.PREFIX)
    unasked = {
        **useless_keys(chosen.backend, chosen.negatives, chosen.comparator == "llmrec"),
        **useless_hybrid_keys(chosen.negatives),
    }
    llm = tuple(key for key in (*llm, *sorted(chat_keys(chosen.backend) | hybrid_keys())) if key not in unasked)
    elsewhere: dict[str, str] = dict(unasked)
    for name in SAMPLERS:
        for key in option_keys(sampler_class(name).Options, SAMPLER_PREFIX):
            elsewhere.setdefault(key, f"it belongs to neg_sampler={name}, this run uses {rule}")
    for name, options in COMPARATORS.items():
        for key in option_keys(options, COMPARATOR_PREFIX):
            reason = f"it belongs to hnlm_comparator={name}"
            elsewhere.setdefault(key, f"{reason}, this run has {chosen.comparator}" if chosen.comparator else reason)
    known = {SAMPLER_KEY, *PLAIN_KEYS}
    if chosen.comparator is not None and chosen.comparator in COMPARATORS:
        known |= {*option_keys(COMPARATORS[chosen.comparator], COMPARATOR_PREFIX)}
    ranking, useless_ranking = ranking_keys(loss)
    elsewhere.update(useless_ranking)
    if sampler is not None and sampler != NO_SAMPLER:
        known |= {*WRAPPED_KEYS, *ranking}
    else:
        alone = (*WRAPPED_KEYS, *(() if loss == OWN_LOSS else ranking))
        elsewhere.update(dict.fromkeys(alone, "RecBole trains this model by itself"))
        known |= {RANKING_KEY} if loss == OWN_LOSS else set()
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


def check_combination(negatives: int, rule_type: type[NegativeSampler] | None, hnlm: HNLMOptions | None) -> None:
    """Refuse options of a rule and of the text part that exclude each other."""
    if rule_type is None:
        return
    if rule_type.weighs and negatives > 1:
        raise ValueError(
            f"neg_sampler_num={negatives} with {rule_type.__name__}, which weighs all its candidates; "
            "set neg_sampler_candidates instead"
        )
    if negatives > 1 and hnlm is not None and hnlm.brings_extra:
        raise ValueError(f"hnlm_use=extra adds to one negative a pair, neg_sampler_num is {negatives}; remove one")
    if rule_type.weighs and hnlm is not None and hnlm.alpha > 0:
        raise ValueError(f"{rule_type.__name__} weighs many negatives, text mixes with one; use dns or hnlm_alpha: 0")


def check_nothing_asked(hnlm: HNLMOptions | None, draws_named: bool) -> None:
    """Refuse to go without hard negatives where a run reads them, or draws items that were named."""
    if draws_named:
        raise ValueError(
            "llm_pair_grouping=none names no negatives that semantic could draw; use pair, user or cluster"
        )
    if hnlm is not None and hnlm.reads_pair_vectors:
        what = f"hnlm_alpha={hnlm.alpha} mixes them in" if hnlm.alpha > 0 else "Eq. 9 reads them"
        raise ValueError(
            f"llm_pair_grouping=none asks for no hard negatives, but {what}; set hnlm_alpha: 0 and leave Eq. 9 out, or "
            "use pair, user or cluster"
        )


def check_guard(
    guard: GuardOptions, given: Iterable[str], rule_type: type[NegativeSampler] | None, with_text: bool
) -> None:
    """Refuse a guard that has nothing to judge by, or no place in the rule, and knobs of a guard that is off."""
    keys = option_keys(GuardOptions, SAMPLER_PREFIX)
    if not guard.active:
        reject_unknown(given, (), dict.fromkeys(keys[1:], "neg_sampler_guard=none refuses no candidate"))
        return
    assert rule_type is not None
    if rule_type.sample is not NegativeSampler.sample:
        raise ValueError(
            f"{rule_type.__name__} draws and chooses in one, so no guard can come between; set neg_sampler_guard: none"
        )
    if guard.guard == "text" and not with_text:
        raise ValueError(
            "neg_sampler_guard=text reads text vectors, which come with neg_sampler: hnlm; set that, with this sampler "
            "as hnlm_base_sampler, or neg_sampler_guard: score"
        )


def check_adam(adam: str, values: Mapping[str, Any]) -> None:
    """Refuse settings of the optimizer that ``adam`` cannot do."""
    learner = str(values.get("learner", "adam")).lower()
    if learner not in (("adam", "adamw") if adam == "fused" else ("adam",)):
        raise ValueError(f"adam={adam} has no effect with {learner=}; remove one of them")
    if adam == "rows":
        useless = [key for key in ("weight_decay", "clip_grad_norm", "enable_scaler") if values.get(key)]
        if useless:
            raise ValueError(f"adam=rows cannot do {' and '.join(useless)}, which read all rows; set adam=fused")


def check_sparing(hnlm: HNLMOptions | None, ranking: RankingRun | None) -> None:
    """Refuse to spare negatives where no loss of ours ranks any."""
    if hnlm is not None and hnlm.sparing and not (ranking is not None and ranking.options.spares):
        name = OWN_LOSS if ranking is None else ranking.name
        losses = ", ".join(loss for loss, options in RANKING_LOSS_OPTIONS.items() if options.spares)
        raise ValueError(
            f"hnlm_sparing={hnlm.sparing} weighs the negatives of {RANKING_KEY}={losses}, this run has {name}; set "
            "one of them, with hnlm_base_sampler: uniform and hnlm_alpha: 0, or remove hnlm_sparing"
        )


def check_ranking(
    ranking: RankingRun, negatives: int, rule: Any, hnlm: HNLMOptions | None, guard: GuardOptions
) -> None:
    """Refuse negatives that a ranking loss of ours would never rank, and a guard of them."""
    name = f"{RANKING_KEY}={ranking.name}"
    draws = "draws its own negatives" if hasattr(ranking.options, "negatives") else "draws no negatives"
    if rule not in ("uniform", RECBOLE_SAMPLER):
        label = rule if isinstance(rule, str) else rule.__name__
        key = "neg_sampler" if hnlm is None else "hnlm_base_sampler"
        raise ValueError(f"{name} {draws}, so those of {label} would have no effect; set {key}: uniform")
    if negatives > 1:
        raise ValueError(f"{name} {draws}, so neg_sampler_num={negatives} has no effect; remove it")
    if guard.active:
        raise ValueError(f"{name} {draws}, so neg_sampler_guard={guard.guard} guards none that is ranked; remove it")
    if hnlm is not None and hnlm.alpha > 0:
        raise ValueError(f"{name} {draws}, so text mixed into one has no effect; set hnlm_alpha: 0")
