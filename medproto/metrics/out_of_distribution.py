"""A flag for images that resemble the prototypes less than images of the cohort do.

Symbols: ``N`` images, ``P`` prototypes. A similarity is the pooled one, ``[N, P]``, that the last
layer weighs: one number a prototype and image.

The *novelty* of an image is the mean over the prototypes of ``min(z, 0) ** 2``, where ``z`` is the
similarity minus its mean over training images, in their standard deviations: how far the image
falls short of the usual likeness. The largest similarity alone misses more (an inverted image still
has some cell like some prototype); ``benchmarks/doubt.py`` compares them.

The threshold is the conformal quantile [1] of validation images, so that of new patients
exchangeable with the validation patients at most the stated share is flagged, whatever the
network. How many strange images are caught is not promised. A flag says "unlike the cohort", not
"wrong"; no flag does not say "right".

References:
    [1] Bates, Candes, Lei, Romano, Sesia, "Testing for Outliers with Conformal p-values", Annals of
        Statistics 51, 2023. https://arxiv.org/abs/2104.08279
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.conformal import conformal_quantile

__all__ = ["OutOfDistribution"]

_LEAST_SPREAD = 1e-3  # of the largest: rounding must not rule where a similarity never changes

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutOfDistribution:
    """The flag, ready for new images. Made by :meth:`fit`.

    Args:
        means: ``[P]`` usual similarity.
        deviations: ``[P]`` their standard deviations, above 0.
        threshold: novelty above it is flagged; infinite where the validation images are too few,
            then nothing is.
        false_alarm: share of exchangeable images flagged at most, 0 to 1.
        cases: validation images.
        groups: validation groups.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    threshold: float
    false_alarm: float
    cases: int
    groups: int

    @classmethod
    def fit(
        cls,
        similarities: ArrayLike,
        *,
        reference: ArrayLike,
        false_alarm: float = 0.05,
        groups: Sequence[object] | NDArray[Any] | None = None,
    ) -> Self:
        """Choose the threshold on validation images.

        Args:
            similarities: ``[N, P]`` of validation images, which must not be among ``reference``.
            reference: ``[M, P]`` of training images, ``M >= 2``.
            false_alarm: as above, strictly between 0 and 1. With fewer than
                ``1 / false_alarm - 1`` groups nothing is ever flagged.
            groups: ``[N]`` patient of each image; ``None``: each image is its own. See
                :mod:`medproto.metrics.conformal` for what the rate means with groups.

        Raises:
            ValueError: if the shapes disagree, a similarity is not finite, or no similarity of the
                reference ever changes.
        """
        usual = _checked("reference", reference, None)
        if len(usual) < 2:
            raise ValueError(f"reference must hold at least 2 images, got {len(usual)}.")
        deviations = usual.std(axis=0, ddof=1)
        if not deviations.max() > 0:
            raise ValueError(
                "reference must hold similarities that differ between images, got constant ones. "
                "Pass those of different training images, from a trained network."
            )
        deviations = np.maximum(deviations, _LEAST_SPREAD * deviations.max())
        validation = _checked("similarities", similarities, usual.shape[1])
        novelty = _shortfall(validation, usual.mean(axis=0), deviations)
        return cls(
            tuple(usual.mean(axis=0).tolist()),
            tuple(deviations.tolist()),
            conformal_quantile(novelty, false_alarm, groups=groups),
            float(false_alarm),
            len(validation),
            len(validation) if groups is None else len(set(groups)),
        )

    def novelty(self, similarities: ArrayLike) -> Floats:
        """Return the novelty ``[N]``, ``>= 0``, of images with similarities ``[N, P]``.

        Raises:
            ValueError: if the shape disagrees with the fit or a similarity is not finite.
        """
        values = _checked("similarities", similarities, len(self.means))
        return _shortfall(values, np.asarray(self.means), np.asarray(self.deviations))

    def flag(self, similarities: ArrayLike) -> NDArray[np.bool_]:
        """Return ``[N]``: is the novelty above the threshold?

        Raises:
            ValueError: as :meth:`novelty`.
        """
        return np.asarray(self.novelty(similarities) > self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with ``None`` for an infinite threshold."""
        return {
            "means": list(self.means),
            "deviations": list(self.deviations),
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "false_alarm": self.false_alarm,
            "cases": self.cases,
            "groups": self.groups,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Undo :meth:`to_dict`."""
        threshold = fields["threshold"]
        return cls(
            tuple(fields["means"]),
            tuple(fields["deviations"]),
            math.inf if threshold is None else threshold,
            fields["false_alarm"],
            fields["cases"],
            fields["groups"],
        )


def _shortfall(values: Floats, means: Floats, deviations: Floats) -> Floats:
    return np.asarray((np.minimum((values - means) / deviations, 0.0) ** 2).mean(axis=1))


def _checked(name: str, similarities: ArrayLike, prototypes: int | None) -> Floats:
    values = np.asarray(similarities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1 or prototypes not in (None, values.shape[1]):
        wanted = "prototypes >= 1" if prototypes is None else prototypes
        raise ValueError(f"{name} must have shape [images, {wanted}], got {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return values
