"""The offline part: profiles, encoders and the build of a dataset's artefacts."""

from recbole_hnlm.llm.build import build_artefacts
from recbole_hnlm.llm.encoders import EncoderRun, TextEncoder, build_encoder
from recbole_hnlm.llm.fields import AtomicTable, read_atomic, select_text_fields
from recbole_hnlm.llm.report import BuildReport
from recbole_hnlm.llm.request import BuildRequest

__all__ = [
    "AtomicTable",
    "BuildReport",
    "BuildRequest",
    "EncoderRun",
    "TextEncoder",
    "build_artefacts",
    "build_encoder",
    "read_atomic",
    "select_text_fields",
]
