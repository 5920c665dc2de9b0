"""Hybrid prompts with soft tokens: fine-tuning a language model on them, and the vectors it makes of training pairs."""

from recbole_hnlm.llm.hybrid.generation import encode_items, generate
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptTemplate, read_template
from recbole_hnlm.llm.hybrid.report import AdapterReport, GenerateReport
from recbole_hnlm.llm.hybrid.transfer import transfer
from recbole_hnlm.llm.hybrid.tuning import fine_tune
from recbole_hnlm.options.hybrid import BaseSettings, FineTuneSettings, GenerateSettings

__all__ = [
    "AdapterReport",
    "BaseSettings",
    "FineTuneSettings",
    "GenerateReport",
    "GenerateSettings",
    "PairTexts",
    "PromptTemplate",
    "encode_items",
    "fine_tune",
    "generate",
    "read_template",
    "transfer",
]
