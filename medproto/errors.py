"""Exceptions of the library.

    MedProtoError                     the world's fault: a file, a table, a model
    ├── ImageReadError (ValueError)   an image cannot be decoded or holds unusable pixels
    ├── CohortError (ValueError)      a cohort table, its labels or its splits are unusable
    ├── ModelFileError (ValueError)   a model file or run folder is missing, foreign or altered
    ├── ProjectionError (RuntimeError) a projected prototype does not reproduce its source patch
    ├── CompletenessError (RuntimeError) contributions and bias do not sum to the logit
    └── ExportError (RuntimeError)    an exported file is missing, altered, stale or not equal

A caller's mistake (a wrong argument) is a plain ``ValueError`` or ``TypeError``. Messages say what
must be, what came and the next step; they never carry a patient's name, a UID or a date.
"""

__all__ = [
    "CohortError",
    "CompletenessError",
    "ExportError",
    "ImageReadError",
    "MedProtoError",
    "ModelFileError",
    "ProjectionError",
]


class MedProtoError(Exception):
    """Root of the errors whose cause lies outside the caller's code."""


class ImageReadError(MedProtoError, ValueError):
    """An image file cannot be decoded, or its pixels are unusable."""


class CohortError(MedProtoError, ValueError):
    """A cohort table is unusable as a whole; see ``medproto cohort check`` for single rows."""


class ModelFileError(MedProtoError, ValueError):
    """A run folder or model file is missing, incomplete, of a foreign format or altered."""


class ProjectionError(MedProtoError, RuntimeError):
    """A projected prototype does not score the bound on its own source patch."""


class CompletenessError(MedProtoError, RuntimeError):
    """The contributions and the bias do not sum to the logit within the tolerance."""


class ExportError(MedProtoError, RuntimeError):
    """A network cannot be exported, or an exported file is not equal to it."""
