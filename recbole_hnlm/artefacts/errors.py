"""The errors of the artefact files, each one sentence that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path


class ArtefactError(ValueError):
    """An artefact that cannot be used: damaged, made for other data, or of a newer format."""


class MissingArtefactError(ArtefactError, FileNotFoundError):
    """A file of the artefact is not there, usually because nothing was built yet."""


def rebuild_remedy(name: str) -> str:
    """The command that makes the artefacts of dataset ``name`` anew, as the end of a sentence."""
    return f"run recbole-hnlm build --dataset={name} --hnlm_rebuild=True with the options that it was built with"


def unusable(path: Path, found: str, name: str) -> ArtefactError:
    """An error of the form ``FILE FOUND; run recbole-hnlm build ...``."""
    return ArtefactError(f"{path} {found}; {rebuild_remedy(name)}")


def missing(path: Path, name: str, what: str = "does not exist") -> MissingArtefactError:
    """As :func:`unusable`, for a file that is absent."""
    return MissingArtefactError(f"{path} {what}; {rebuild_remedy(name)}")
