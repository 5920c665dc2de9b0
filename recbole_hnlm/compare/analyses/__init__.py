"""The analyses that the papers promise, each one file and one command: rows to train, and what is read off them."""

from recbole_hnlm.compare.analyses.base import ANALYSES, Analysis, Entry, analysis_of
from recbole_hnlm.compare.analyses.readings import Reading

__all__ = ["ANALYSES", "Analysis", "Entry", "Reading", "analysis_of"]
