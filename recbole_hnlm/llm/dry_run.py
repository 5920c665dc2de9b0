"""What the text pipeline would take, told before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recbole_hnlm.llm.asking import ask, number_of
from recbole_hnlm.llm.chat import ChatBackend, ChatReply, ChatRequest, Estimate
from recbole_hnlm.llm.grouping import PairGroups, count_calls, group_pairs, tellable_pairs
from recbole_hnlm.llm.judging import JudgedUser, judge_requests
from recbole_hnlm.llm.negative_stage import Profiles, negative_requests
from recbole_hnlm.llm.picking import PickingUser, pick_requests
from recbole_hnlm.llm.profile_stages import item_profile_requests, user_profile_requests
from recbole_hnlm.llm.replies import read_profile
from recbole_hnlm.llm.stage_counts import StageCounts
from recbole_hnlm.llm.text_pipeline import TextRun

_WAYS = ("pair", "user", "cluster")
_SUMMED = ("requests", "cached", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class DryRun:
    """What each stage would take.

    Attributes:
        stages: Estimate of each stage; hard negatives by the way that the options choose.
        calls: Requests of each stage, and of the hard negatives by each way.
        grouping: The way that the options choose.
    """

    stages: Mapping[str, Estimate]
    calls: Mapping[str, int]
    grouping: str

    @property
    def cost(self) -> float | None:
        """Most money of all stages, in US dollars, or None where a price is unknown."""
        costs = [stage.cost for stage in self.stages.values()]
        return None if any(cost is None for cost in costs) else float(sum(cost or 0.0 for cost in costs))

    def _time(self) -> str:
        seconds = [stage.seconds for stage in self.stages.values()]
        mark = "~" * any(stage.assumed for stage in self.stages.values())
        return "?" if any(time is None for time in seconds) else f"{mark}{sum(time or 0.0 for time in seconds):.0f}"

    def table(self) -> str:
        """The figures, a stage a line, then the requests that each way of asking for hard negatives takes."""
        lines = [
            f"  {'stage':<16}{'requests':>12}{'cached':>12}{'tokens in':>14}{'out, at most':>14}{'$':>10}{'s':>10}"
        ]
        for name, stage in self.stages.items():
            cost = "?" if stage.cost is None else f"{stage.cost:.2f}"
            seconds = "?" if stage.seconds is None else f"{'~' * stage.assumed}{stage.seconds:.0f}"
            lines.append(
                f"  {name:<16}{stage.requests:>12,}{stage.cached:>12,}{stage.prompt_tokens:>14,}"
                f"{stage.completion_tokens:>14,}{cost:>10}{seconds:>10}"
            )
        whole = "?" if self.cost is None else f"{self.cost:.2f}"
        sums = [sum(getattr(stage, name) for stage in self.stages.values()) for name in _SUMMED]
        requests, cached, read, written = (f"{count:,}" for count in sums)
        lines.append(f"  {'all':<16}{requests:>12}{cached:>12}{read:>14}{written:>14}{whole:>10}{self._time():>10}")
        ways = ", ".join(
            f"{way} {self.calls[f'negatives_{way}']:,}{' (chosen)' if way == self.grouping else ''}" for way in _WAYS
        )
        none = ", none 0 (chosen)" if self.grouping == "none" else ""
        lines.append(f"  requests for hard negatives by llm_pair_grouping: {ways}{none}")
        if any(stage.assumed for stage in self.stages.values()):
            lines.append(
                "  ~ every answer at its full length and at a speed that was assumed; a first run measures it, "
                "llm_seconds_per_request tells it"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class AlsoAsked:
    """What a run asks beside its own profiles and hard negatives.

    Attributes:
        texts: Whether it asks for those.
        picks: Users of whom a like and a dislike are asked.
        judged: Users whose leading candidates are judged.
        pooled: Other datasets whose profiles are written, to tune on their pairs, too.
    """

    texts: bool = True
    picks: Sequence[PickingUser] = ()
    judged: Sequence[JudgedUser] = ()
    pooled: Sequence[TextRun] = ()


def dry_run(run: TextRun, backend: ChatBackend, also: AlsoAsked | None = None) -> DryRun:
    """Estimate every stage; asks the model nothing and encodes nothing.

    Prompts are made of the profiles that are kept of earlier runs, so that what those have asked is known to cost
    nothing. Profiles that are not written yet are stood in for by as many words as they may have, so tokens are about
    the most that there can be. Clusters are stood in for by pairs spread over the data. Repairs are not counted.

    Args:
        run: What would be done.
        backend: The model that would be asked.
        also: What else would be asked; nothing by default.
    """
    also = also or AlsoAsked()
    stages: dict[str, Estimate] = {}
    if also.texts:
        stages["item profiles"], stages["user profiles"], written = _of_profiles(run, backend)
        groups = _stand_in_groups(run)
        requests = negative_requests(run.prompts(), run.corpus, written, groups, run.text, run.negatives_per_pair)
        stages["hard negatives"] = backend.estimate(requests)
    for other in also.pooled:
        stages[f"items of {other.dataset}"], stages[f"users of {other.dataset}"], _ = _of_profiles(other, backend)
    if also.picks:
        stages["likes, dislikes"] = backend.estimate(pick_requests(also.picks))
    if also.judged:
        stages["judge"] = backend.estimate(judge_requests(also.judged))
    return DryRun(stages, count_calls(run.corpus, run.text), run.text.pair_grouping)


def _of_profiles(run: TextRun, backend: ChatBackend) -> tuple[Estimate, Estimate, Profiles]:
    """The estimates for items and for users, and the profiles that are kept, with stand-ins among them."""
    corpus, options, prompts = run.corpus, run.text, run.prompts()

    def of_items() -> Iterator[ChatRequest]:
        return item_profile_requests(prompts, corpus, options)

    items = _kept_or_stand_in(backend, of_items(), corpus.item_templates, options.item_words)

    def of_users() -> Iterator[ChatRequest]:
        return user_profile_requests(prompts, corpus, items, options)

    users = _kept_or_stand_in(backend, of_users(), corpus.user_templates, options.user_words)
    return backend.estimate(of_items()), backend.estimate(of_users()), Profiles(users, items)


class _Kept:
    """A chat model that is not asked: what is kept of it, and what is not known."""

    least_usable = 0.0
    decoding: Mapping[str, Any] = {}

    def __init__(self, backend: ChatBackend) -> None:
        self.name, self.revision = backend.name, backend.revision
        self.unknown: list[str] = []
        self._backend = backend

    def kept(self, request: ChatRequest) -> ChatReply | None:
        return self._backend.kept(request)

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        for request in requests:
            reply = self.kept(request)
            if reply is None:
                self.unknown.append(request.key)
            yield reply or ChatReply(request.key, None, "was not asked yet")

    def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
        return self._backend.estimate(requests)


def _kept_or_stand_in(
    backend: ChatBackend, requests: Iterable[ChatRequest], templates: Sequence[str], words: int
) -> list[str]:
    """Profiles as a run would have them: kept ones, templates where the model has failed, stand-ins for the others."""
    kept, profiles = _Kept(backend), list(templates)
    for key, answer in ask(kept, requests, lambda _, text: read_profile(text, words), StageCounts("kept")):
        if answer is not None:
            profiles[number_of(key)] = answer.texts[0]
    for key in kept.unknown:
        profiles[number_of(key)] = _words(key.replace("-", "").partition("#")[0], words)
    return profiles


def _words(first: str, count: int) -> str:
    """As many words as a profile may have, like no other's: equal prompts would count as one."""
    return " ".join([first, *["profile"] * (count - 1)])


def _stand_in_groups(run: TextRun) -> PairGroups:
    if run.text.pair_grouping != "cluster":
        return group_pairs(run.corpus, run.text)
    places = tellable_pairs(run.corpus)
    count = min(run.text.pair_clusters, len(places))
    asked = places[np.linspace(0, max(len(places) - 1, 0), count).astype(np.int64)]
    groups = group_pairs(run.corpus, replace(run.text, pair_grouping="pair"))
    return PairGroups(asked, np.arange(count + 1), groups.source)
