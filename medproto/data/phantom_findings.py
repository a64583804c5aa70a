"""Planted findings of the synthetic radiographs, with exact masks.

A finding changes the density inside its mask and nowhere else; blur and noise come later and are
the same with and without it.

An effusion is fluid in place of air: it fills the lowest part of one lung up to a meniscus, highest
at the chest wall, and hides the vessels there. Its height is what its grade says:

- grade 0: none
- grade 1: 4 to 6 % of the image's height, the blunted angle beside the diaphragm
- grade 2: 11 to 15 %, the diaphragm covered
- grade 3: 22 to 30 %, the lower third of the lung or more

The heights of two grades never meet, so that every grade can be read from the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .phantom_anatomy import Scene

__all__ = ["EFFUSION_HEIGHT", "FINDINGS", "plant"]

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]

FINDINGS = ("nodule", "reticular", "effusion")
"""``nodule``: one round, dense spot. ``reticular``: a patch of fine net-like lines. ``effusion``:
fluid at the bottom of one lung."""

NODULE_RADIUS = (0.036, 0.062)
NODULE_DENSITY = (0.22, 0.30)
PATCH_RADIUS = (0.07, 0.11)
PATCH_DENSITY = 0.12
EFFUSION_HEIGHT = {1: (0.04, 0.06), 2: (0.11, 0.15), 3: (0.22, 0.30)}
"""Height at the chest wall above the lung's lowest point, as a share of the image, by grade."""
MENISCUS_EDGE = 0.02
"""Height over which fluid gives way to air."""


def plant(
    kind: str, scene: Scene, rng: np.random.Generator, *, grade: int | None = None
) -> tuple[Plane, Mask]:
    """Return the added density ``[n, n]`` and the mask of one finding inside ``scene.lungs``.

    Args:
        kind: one of :data:`FINDINGS`.
        scene: where the finding goes. An effusion also fills the lung's soft edge.
        grade: 1, 2 or 3, of an effusion only; ``None`` takes any.

    Raises:
        ValueError: if ``kind`` or ``grade`` is unknown.
    """
    if kind not in FINDINGS:
        raise ValueError(f"a finding must be one of {', '.join(FINDINGS)}, got {kind!r}.")
    if grade is not None and (kind != "effusion" or grade not in EFFUSION_HEIGHT):
        raise ValueError(f"grade must be 1, 2 or 3 of an effusion, got {grade} of a {kind}.")
    if kind == "effusion":
        return _effusion(scene, rng, grade)
    lungs, n = scene.lungs, len(scene.lungs)
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


def _effusion(scene: Scene, rng: np.random.Generator, grade: int | None) -> tuple[Plane, Mask]:
    """Fill the bottom of one lung: what air, vessels and texture add there is taken away."""
    n = len(scene.lungs)
    side = scene.right if rng.random() < 0.5 else ~scene.right
    grade = int(rng.integers(1, 4)) if grade is None else grade
    height = n * rng.uniform(*EFFUSION_HEIGHT[grade])
    rows, cols = np.nonzero(scene.lungs & side)
    wall, inner = (cols.min(), cols.max()) if side is scene.right else (cols.max(), cols.min())
    # 0 at the chest wall, 1 at the other side of the lung.
    across = np.clip((np.arange(n) - wall) / (inner - wall), 0, 1)
    surface = rows.max() - height * (0.62 + 0.38 * np.exp(-across / 0.12) + 0.08 * across**2)
    filled = _ramp((np.arange(n)[:, None] - surface) / (MENISCUS_EDGE * n) + 0.5)
    # Behind heart and diaphragm hardly any air is seen, so fluid in its place shows nothing.
    seen = _ramp((scene.air - 0.02) / 0.08) * _ramp((0.95 - scene.heart) / 0.15)
    share = filled * seen * side
    pools, count = ndimage.label(share > 0)
    if count > 1:  # a corner beyond the heart
        share = share * (pools == 1 + int(np.argmax(np.bincount(pools.ravel())[1:])))
    return -share * scene.aerated, share > 0


def _ramp(value: Plane) -> Plane:
    """Smooth step: 0 up to ``value`` 0 and 1 from 1 on, exactly."""
    t = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)


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
