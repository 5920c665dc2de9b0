"""Graph models that RecBole 1.2.1 lacks, in RecBole's own form, found by name as RecBole's are."""

from recbole_hnlm.graph_models.simgcl import SimGCL
from recbole_hnlm.graph_models.xsimgcl import XSimGCL

GRAPH_MODELS: dict[str, type] = {"SimGCL": SimGCL, "XSimGCL": XSimGCL}
"""Classes by the names that ``--model`` takes; defaults are in ``properties/model``."""

__all__ = ["GRAPH_MODELS", "SimGCL", "XSimGCL"]
