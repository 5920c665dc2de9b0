"""The generic wrapper for RecBole's general models: virtual negatives, projector and alignment."""

from recbole_hnlm.models.support import refusal
from recbole_hnlm.models.wrapper import HardNegativeMixin, hnlm, run_of

__all__ = ["HardNegativeMixin", "hnlm", "refusal", "run_of"]
