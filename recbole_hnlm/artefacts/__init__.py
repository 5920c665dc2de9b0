"""The files between the offline part and training: written here, checked here, read here."""

from recbole_hnlm.artefacts.atomic import AtomicTable, read_atomic
from recbole_hnlm.artefacts.describe import describe
from recbole_hnlm.artefacts.errors import ArtefactError, MissingArtefactError
from recbole_hnlm.artefacts.exchange import export_text, import_text
from recbole_hnlm.artefacts.manifest import Manifest, Provenance, read_manifest
from recbole_hnlm.artefacts.pairs import hash_pairs, hash_pairs_of_ids
from recbole_hnlm.artefacts.reader import ArtefactReader, BoundArtefact
from recbole_hnlm.artefacts.user_text import add_user_text
from recbole_hnlm.artefacts.writer import TEXT_ROWS_LIMIT, ArtefactContents, write_artefact

__all__ = [
    "TEXT_ROWS_LIMIT",
    "ArtefactContents",
    "ArtefactError",
    "ArtefactReader",
    "AtomicTable",
    "BoundArtefact",
    "Manifest",
    "MissingArtefactError",
    "Provenance",
    "add_user_text",
    "describe",
    "export_text",
    "hash_pairs",
    "hash_pairs_of_ids",
    "import_text",
    "read_atomic",
    "read_manifest",
    "write_artefact",
]
