"""Projection: replace each prototype by a real patch of a training image."""

from .project import ProjectionResult, PrototypeMatch, project_prototypes
from .search import Candidate, NearestPatches

__all__ = [
    "Candidate",
    "NearestPatches",
    "ProjectionResult",
    "PrototypeMatch",
    "project_prototypes",
]
