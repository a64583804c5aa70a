"""The sum behind a logit, in the order in which it is shown.

Every page and figure that shows evidence uses this one order and this one remainder, so that the
same case reads the same on paper and on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ScoreSum", "score_sum"]


@dataclass(frozen=True, slots=True)
class ScoreSum:
    """A logit taken apart: shown contributions, all others together, and the bias.

    Args:
        shown: positions of the contributions that are shown one by one, largest absolute value
            first: evidence against the class stands where its size puts it, not at the end.
        others: number of the contributions that are not shown.
        others_sum: their sum.
        bias: of the class.
        total: sum of all contributions and the bias.
        logit: as the network computed it.
        bias_leads: the bias is larger than all contributions together, for and against: the class
            is told by what the image lacks, which has no place in it.
    """

    shown: tuple[int, ...]
    others: int
    others_sum: float
    bias: float
    total: float
    logit: float
    bias_leads: bool

    @property
    def difference(self) -> float:
        """Absolute difference of sum and logit: rounding of float32 arithmetic, nothing else."""
        return abs(self.total - self.logit)


def score_sum(contributions: Sequence[float], bias: float, logit: float, *, shown: int) -> ScoreSum:
    """Take a logit apart.

    Args:
        contributions: of all prototypes to one class.
        shown: number to show one by one, at least 1.

    Raises:
        ValueError: if ``shown`` is less than 1.
    """
    if shown < 1:
        raise ValueError(f"shown must be at least 1, got {shown}.")
    order = sorted(range(len(contributions)), key=lambda i: -abs(contributions[i]))
    rest = [contributions[i] for i in order[shown:]]
    return ScoreSum(
        shown=tuple(order[:shown]),
        others=len(rest),
        others_sum=math.fsum(rest),
        bias=bias,
        total=math.fsum([*contributions, bias]),
        logit=logit,
        bias_leads=abs(bias) > math.fsum(map(abs, contributions)),
    )
