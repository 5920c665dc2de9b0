"""Names of the negative samplers: the one place that a new one is entered.

A new sampler is one file in this folder, one line in :data:`SAMPLERS` and one YAML of defaults in
``properties/sampler``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence

from recbole_hnlm.options.imports import import_class
from recbole_hnlm.samplers.base import NegativeSampler

SAMPLERS: dict[str, str] = {
    "uniform": "recbole_hnlm.samplers.uniform:UniformSampler",
    "popularity": "recbole_hnlm.samplers.popularity:PopularitySampler",
    "dns": "recbole_hnlm.samplers.dns:DynamicSelector",
    "dns_mn": "recbole_hnlm.samplers.dns_mn:TopMSelector",
    "softmax": "recbole_hnlm.samplers.softmax:SoftmaxWeigher",
    "mixgcf": "recbole_hnlm.samplers.mixgcf:MixGCFSynthesizer",
    "ahns": "recbole_hnlm.samplers.ahns:AdaptiveHardnessSelector",
    "dins": "recbole_hnlm.samplers.dins:DimensionMixSynthesizer",
    "dens": "recbole_hnlm.samplers.dens:DisentangledSynthesizer",
    "dtl": "recbole_hnlm.samplers.dtl:DualTreeSynthesizer",
    "semantic": "recbole_hnlm.samplers.semantic:SemanticSampler",
}


def sampler_class(sampler: str | type[NegativeSampler], beside: Sequence[str] = ()) -> type[NegativeSampler]:
    """The class of a sampler given by name, by ``"package.module:Class"``, or as the class itself.

    Args:
        sampler: What the user has written.
        beside: Names that are no samplers but may stand in a sampler's place, for the message.

    Raises:
        ValueError: If the name is unknown (naming the nearest) or the path cannot be imported.
        TypeError: If what is found is no :class:`NegativeSampler`, or its options are no dataclass.
    """
    if isinstance(sampler, str):
        target = SAMPLERS.get(sampler, sampler)
        if not target.partition(":")[2]:
            names = [*beside, *sorted(SAMPLERS)]
            close = difflib.get_close_matches(sampler.lower(), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown neg_sampler {sampler!r}, choose one of {names} or module:Class{hint}")
        found = import_class(target, "neg_sampler")
    else:
        found = sampler
    if not (isinstance(found, type) and issubclass(found, NegativeSampler)):
        raise TypeError(
            f"neg_sampler {sampler!r} should be a NegativeSampler class, its name or module:Class, got {found!r}"
        )
    if not dataclasses.is_dataclass(found.Options):
        raise TypeError(
            f"{found.__name__}.Options should be a dataclass with a field for each option; put @dataclass(frozen=True) "
            "above it"
        )
    return found
