"""Planted findings of the synthetic radiographs, with exact masks.

A finding changes the density inside its mask and nowhere else; blur and noise come later and are
the same with and without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["FINDINGS", "plant"]

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]

FINDINGS = ("nodule", "reticular")
"""``nodule``: one round, dense spot. ``reticular``: a patch of fine net-like lines."""

NODULE_RADIUS = (0.036, 0.062)
NODULE_DENSITY = (0.22, 0.30)
PATCH_RADIUS = (0.07, 0.11)
PATCH_DENSITY = 0.12


def plant(kind: str, lungs: Mask, rng: np.random.Generator) -> tuple[Plane, Mask]:
    """Return the added density ``[n, n]`` and the mask of one finding inside ``lungs``.

    Args:
        kind: one of :data:`FINDINGS`.
        lungs: ``[n, n]`` where a finding may lie.

    Raises:
        ValueError: if ``kind`` is unknown.
    """
    if kind not in FINDINGS:
        raise ValueError(f"a finding must be one of {', '.join(FINDINGS)}, got {kind!r}.")
    n = len(lungs)
    radius = n * rng.uniform(*(NODULE_RADIUS if kind == "nodule" else PATCH_RADIUS))
    distance = ndimage.distance_transform_edt(lungs)
    # As far from the lung's border as its own radius, or the deepest place there is.
    rows, cols = np.nonzero(distance >= min(radius, 0.95 * distance.max()))
    chosen = int(rng.integers(len(rows)))
    share = _share(n, (int(rows[chosen]), int(cols[chosen])), radius, rng)
    mask = (share < 1) & lungs
    if kind == "nodule":
        # Path through a ball, flattened: dense inside, a clear but not a hard edge.
        profile = np.clip(1 - share**2, 0, 1) ** 0.35
        return rng.uniform(*NODULE_DENSITY) * profile * mask, mask
    return PATCH_DENSITY * _net(n, rng) * np.clip(1 - share**2, 0, 1) ** 0.25 * mask, mask


def _share(n: int, center: tuple[int, int], radius: float, rng: np.random.Generator) -> Plane:
    """Distance from ``center`` as a share of a bumpy outline's radius there; ``[n, n]``.

    Infinite far outside, where it is not needed.
    """
    reach = int(1.2 * radius) + 1  # the outline bulges by at most 12 %
    rows, cols = (np.s_[max(c - reach, 0) : min(c + reach + 1, n)] for c in center)
    y, x = np.mgrid[rows, cols]
    y, x = y - center[0], x - center[1]
    angle = np.arctan2(y, x)
    bumps = rng.uniform(0, 2 * np.pi, 2)
    outline = 1 + 0.07 * np.sin(2 * angle + bumps[0]) + 0.05 * np.sin(3 * angle + bumps[1])
    share = np.full((n, n), np.inf)
    share[rows, cols] = np.hypot(y, x) / (radius * outline)
    return share


def _net(n: int, rng: np.random.Generator) -> Plane:
    """Fine lines between cells, zero mean: the level lines of smooth noise."""
    scale = n / 512
    noise = ndimage.gaussian_filter(rng.standard_normal((n, n)), 3.2 * scale)
    lines = np.exp(-((noise / noise.std() / 0.35) ** 2))
    return (lines - lines.mean()) * 1.6
