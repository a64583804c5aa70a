"""A flag for images whose similarities to the prototypes are unlike those of the cohort.

Symbols: ``N`` images, ``P`` prototypes, ``M`` training images. A similarity is the pooled one,
``[N, P]``, that the last layer weighs: one number a prototype and image.

The *novelty* of an image is its squared Mahalanobis distance from the training images [2], over
``P``: about 1 for them. Similarities rise and fall together, so each of an image's may be usual
though no image of the cohort has them side by side; what each falls short of its own mean, or the
largest of them, misses such images. ``M`` is often not much larger than ``P``, so the correlations
are shrunk towards none by as much as their sampling error asks for [3].

A maximum over an image does not say where it was found: an image whose parts are usual but in the
wrong place, a mirrored one, is not novel. ``benchmarks/detection.py`` measures what is caught.

The threshold is the conformal quantile [1] of validation images, so that of new patients
exchangeable with the validation patients at most the stated share is flagged, whatever the
network. How many strange images are caught is not promised. A flag says "unlike the cohort", not
"wrong"; no flag does not say "right".

References:
    [1] Bates, Candes, Lei, Romano, Sesia, "Testing for Outliers with Conformal p-values", Annals of
        Statistics 51, 2023. https://arxiv.org/abs/2104.08279
    [2] Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples",
        NeurIPS 2018 (there of features, by class). https://arxiv.org/abs/1807.03888
    [3] Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
        Journal of Multivariate Analysis 88, 2004.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from medproto.metrics.conformal import conformal_quantile

__all__ = ["OutOfDistribution"]

_LEAST_SPREAD = 1e-3  # of the largest: rounding must not rule where a similarity never changes
_LEAST_SHRINKAGE = 1e-2  # two prototypes that always agree must not make any difference infinite

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutOfDistribution:
    """The flag, ready for new images. Made by :meth:`fit`.

    Args:
        means: ``[P]`` usual similarity.
        deviations: ``[P]`` their standard deviations, above 0.
        precision: ``[P, P]`` inverse of their shrunk correlations, symmetric.
        threshold: novelty above it is flagged; infinite where the validation images are too few,
            then nothing is.
        false_alarm: share of exchangeable images flagged at most, 0 to 1.
        cases: validation images.
        groups: validation groups.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
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
        means = usual.mean(axis=0)
        precision = _precision((usual - means) / deviations)
        validation = _checked("similarities", similarities, usual.shape[1])
        novelty = _distance((validation - means) / deviations, precision)
        return cls(
            tuple(means.tolist()),
            tuple(deviations.tolist()),
            tuple(tuple(row) for row in precision.tolist()),
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
        z = (values - np.asarray(self.means)) / np.asarray(self.deviations)
        return _distance(z, np.asarray(self.precision))

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
            "precision": [list(row) for row in self.precision],
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
            tuple(tuple(row) for row in fields["precision"]),
            math.inf if threshold is None else threshold,
            fields["false_alarm"],
            fields["cases"],
            fields["groups"],
        )


def _precision(z: Floats) -> Floats:
    """Invert the correlations of ``[M, P]`` standardized similarities, shrunk towards none."""
    shrinkage = max(float(ledoit_wolf_shrinkage(z, assume_centered=True)), _LEAST_SHRINKAGE)
    sample = z.T @ z / len(z)
    target = np.eye(len(sample)) * np.trace(sample) / len(sample)
    inverse = np.linalg.inv((1 - shrinkage) * sample + shrinkage * target)
    return np.asarray((inverse + inverse.T) / 2)


def _distance(z: Floats, precision: Floats) -> Floats:
    squared = ((z @ precision) * z).sum(axis=1)
    return np.asarray(np.maximum(squared, 0.0) / z.shape[1])


def _checked(name: str, similarities: ArrayLike, prototypes: int | None) -> Floats:
    values = np.asarray(similarities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1 or prototypes not in (None, values.shape[1]):
        wanted = "prototypes >= 1" if prototypes is None else prototypes
        raise ValueError(f"{name} must have shape [images, {wanted}], got {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return values
