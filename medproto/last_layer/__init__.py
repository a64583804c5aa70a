"""The last layer, solved to a certified optimum instead of trained."""

from medproto.last_layer.floors import score_floors
from medproto.last_layer.heads import solve_head, solve_last_layer
from medproto.last_layer.logistic import LogisticProblem
from medproto.last_layer.objective import LastLayerProblem
from medproto.last_layer.softmax import SoftmaxProblem
from medproto.last_layer.solver import LastLayerSolution
from medproto.last_layer.source_scores import replace_source_scores
from medproto.last_layer.zero_weights import zero_weight_prototypes

__all__ = [
    "LastLayerProblem",
    "LastLayerSolution",
    "LogisticProblem",
    "SoftmaxProblem",
    "replace_source_scores",
    "score_floors",
    "solve_head",
    "solve_last_layer",
    "zero_weight_prototypes",
]
