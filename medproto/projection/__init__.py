"""Projection of prototypes onto training patches, the patches nearest to them, and pruning."""

from .nearest import PatchHit, nearest_patches
from .project import PatchChoice, ProjectionResult, PrototypeMatch, project_prototypes
from .pruning import PruningDecision, pruning_decision
from .search import Candidate, NearestPatches

__all__ = [
    "Candidate",
    "NearestPatches",
    "PatchChoice",
    "PatchHit",
    "ProjectionResult",
    "PrototypeMatch",
    "PruningDecision",
    "nearest_patches",
    "project_prototypes",
    "pruning_decision",
]
