"""What the text pipeline would take, told before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recbole_hnlm.llm.chat import ChatBackend, Estimate
from recbole_hnlm.llm.grouping import PairGroups, count_calls, group_pairs, tellable_pairs
from recbole_hnlm.llm.judging import JudgedUser, judge_requests
from recbole_hnlm.llm.negative_stage import Profiles, negative_requests
from recbole_hnlm.llm.picking import PickingUser, pick_requests
from recbole_hnlm.llm.profile_stages import item_profile_requests, ranks_of_told_items, user_profile_requests
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

    Profiles that are not written yet are stood in for by as many words as they may have, so tokens are about the most
    that there can be. Of a run that was cut short the cache is seen for item profiles alone, as prompts made of
    stand-ins are not in it. Clusters are stood in for by pairs spread over the data. Repairs are not counted.

    Args:
        run: What would be done.
        backend: The model that would be asked.
        also: What else would be asked; nothing by default.
    """
    also = also or AlsoAsked()
    stages: dict[str, Estimate] = {}
    if also.texts:
        items = _profiles_of_items(run)
        stages["item profiles"], stages["user profiles"] = _of_profiles(run, backend, items)
        users = [_words(f"user{rank}", run.text.user_words) for rank in range(len(run.corpus.users))]
        written, groups = Profiles(users, items), _stand_in_groups(run)
        requests = negative_requests(run.prompts(), run.corpus, written, groups, run.text, run.negatives_per_pair)
        stages["hard negatives"] = backend.estimate(requests)
    for other in also.pooled:
        stages[f"items of {other.dataset}"], stages[f"users of {other.dataset}"] = _of_profiles(
            other, backend, _profiles_of_items(other)
        )
    if also.picks:
        stages["likes, dislikes"] = backend.estimate(pick_requests(also.picks))
    if also.judged:
        stages["judge"] = backend.estimate(judge_requests(also.judged))
    return DryRun(stages, count_calls(run.corpus, run.text), run.text.pair_grouping)


def _of_profiles(run: TextRun, backend: ChatBackend, written: Sequence[str]) -> tuple[Estimate, Estimate]:
    prompts = run.prompts()
    items = backend.estimate(item_profile_requests(prompts, run.corpus, run.text))
    return items, backend.estimate(user_profile_requests(prompts, run.corpus, written, run.text))


def _profiles_of_items(run: TextRun) -> list[str]:
    profiles = [""] * len(run.corpus.items)
    for rank in ranks_of_told_items(run.prompts(), run.corpus, run.text):
        profiles[rank] = _words(f"item{rank}", run.text.item_words)
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
