"""Every option of this package: frozen dataclasses with their meaning at the field, a module for each group of keys.

A field ``alpha`` of :class:`HNLMOptions` is the configuration key ``hnlm_alpha``. Unknown keys, wrong types and
values out of range raise before any data is read. Nothing heavy is imported here. A sampler's own options stand beside
its rule, in :mod:`recbole_hnlm.samplers`.
"""

from recbole_hnlm.options.hnlm import HNLMOptions
from recbole_hnlm.options.llm import LLMOptions

SAMPLER_KEY = "neg_sampler"
"""The one key that switches this package on; everything else refines it."""

__all__ = ["SAMPLER_KEY", "HNLMOptions", "LLMOptions"]
