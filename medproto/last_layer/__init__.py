"""The last layer, solved to a certified optimum instead of trained."""

from medproto.last_layer.objective import LastLayerProblem
from medproto.last_layer.solver import LastLayerSolution, solve_last_layer
from medproto.last_layer.source_scores import replace_source_scores

__all__ = [
    "LastLayerProblem",
    "LastLayerSolution",
    "replace_source_scores",
    "solve_last_layer",
]
