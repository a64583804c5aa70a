"""Synthetic frontal chest radiographs: anatomy as sums of smooth densities, of no patient.

Symbols: ``n`` side of the square image in pixels. Coordinates ``(y, x)`` run from 0 to 1 from the
upper left corner; the patient faces the viewer, so the heart lies toward larger ``x``. Densities
are in arbitrary units, larger = more attenuation = brighter.

The aim is a picture that a network has to *look* at: shape of the body, size of the lungs, heart,
ribs, vessels and exposure vary more from patient to patient than a finding adds, so that coarse
brightness does not tell the classes apart. It is no model of physics or disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.optimize import brentq
from scipy.special import expit

__all__ = ["Anatomy", "Pose", "Scene", "draw_scene"]

Plane = NDArray[np.float64]
FloatOrPlane = TypeVar("FloatOrPlane", float, Plane)
LUNG_DEPTH = 0.40
"""How much darker aerated lung is than the chest wall in front of and behind it."""
BACK_REACH, FRONT_REACH, CLAVICLE_REACH = 0.07, 0.12, 0.09
"""Distance from a bone's middle line beyond which nothing of it is drawn."""
SIDE_REACH = 0.08
"""Distance beyond the midline at which a lung and its diaphragm have faded out."""
HEART_Y, HEART_X, HEART_SLANT = 0.645, 0.55, 0.45
"""Middle of the heart, and how far its axis leans to the patient's left on the way down."""
LUNG_SQUARENESS = 2.4
"""Exponent of the lungs' superellipse; 2 is an ellipse."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What stays the same in all images of a synthetic patient; lengths as shares of the image."""

    lung_width: float
    lung_height: float
    lung_center: float
    lung_gap: float
    diaphragm: float
    heart_width: float
    heart_height: float
    shoulder: float
    rib_start: float
    rib_step: float
    rib_slope: float
    thickness: float
    vessel_seed: int
    texture_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """Draw a patient."""
        return cls(
            lung_width=rng.uniform(0.145, 0.185),
            lung_height=rng.uniform(0.32, 0.38),
            lung_center=rng.uniform(0.495, 0.535),
            lung_gap=rng.uniform(0.175, 0.205),
            diaphragm=rng.uniform(0.70, 0.80),
            heart_width=rng.uniform(0.115, 0.165),
            heart_height=rng.uniform(0.13, 0.17),
            shoulder=rng.uniform(0.07, 0.11),
            rib_start=rng.uniform(0.10, 0.16),
            rib_step=rng.uniform(0.070, 0.084),
            rib_slope=rng.uniform(0.06, 0.13),
            thickness=rng.uniform(0.85, 1.15),
            vessel_seed=int(rng.integers(2**31)),
            texture_seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True, slots=True)
class Pose:
    """How one image of a patient was taken: shift, scale and turn about the centre."""

    shift_y: float
    shift_x: float
    scale: float
    angle: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pose:
        """Draw a pose: a few percent, a few degrees."""
        return cls(
            rng.uniform(-0.03, 0.02),
            rng.uniform(-0.03, 0.03),
            rng.uniform(0.96, 1.04),
            np.deg2rad(rng.uniform(-2.5, 2.5)),
        )

    def to_body(self, y: Plane, x: Plane) -> tuple[Plane, Plane]:
        """Image coordinates to the patient's own."""
        v, u = (y - 0.5 - self.shift_y) / self.scale, (x - 0.5 - self.shift_x) / self.scale
        c, s = np.cos(self.angle), np.sin(self.angle)
        return 0.5 + c * v - s * u, 0.5 + s * v + c * u

    def to_image(self, y: float, x: float) -> tuple[float, float]:
        """The patient's coordinates to those of the image; the inverse of `to_body`."""
        v, u = y - 0.5, x - 0.5
        c, s = np.cos(self.angle), np.sin(self.angle)
        return (
            0.5 + self.shift_y + self.scale * float(c * v + s * u),
            0.5 + self.shift_x + self.scale * float(-s * v + c * u),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Densities of one image before findings, blur and noise.

    Args:
        density: ``[n, n]``.
        lungs: ``[n, n]`` bool, lung that is not behind heart or diaphragm.
        body: ``[n, n]`` bool.
        air: ``[n, n]`` in [0, 1], the lungs, also behind the heart.
        heart: ``[n, n]`` in [0, 1], the heart's shadow.
        aerated: ``[n, n]``, what air, vessels and texture of the lungs add to ``density``.
        right: ``[n, n]`` bool, the patient's right half.
        landmarks: name -> ``(y, x)`` in [0, 1], image coordinates.
    """

    density: Plane
    lungs: NDArray[np.bool_]
    body: NDArray[np.bool_]
    air: Plane
    heart: Plane
    aerated: Plane
    right: NDArray[np.bool_]
    landmarks: dict[str, tuple[float, float]]


def draw_scene(anatomy: Anatomy, pose: Pose, n: int) -> Scene:
    """Compose the densities of one image of ``n x n`` pixels."""
    grid = (np.arange(n) + 0.5) / n
    y, x = pose.to_body(*np.meshgrid(grid, grid, indexing="ij"))
    body = _body(anatomy, y, x)
    air, heart, domes = _lungs(anatomy, y, x)
    density = body * anatomy.thickness * (0.62 + 0.20 * _cylinder(y, x))
    density -= LUNG_DEPTH * air * (1 - 0.9 * heart)
    below = _step(y - anatomy.diaphragm - 0.08, 0.25)
    density += 0.06 * heart * (1 - domes) + (0.03 * domes + 0.12 * below) * body
    density += _mediastinum(anatomy, y, x) * body
    bones = _ribs(anatomy, y, x) + _clavicles(anatomy, y, x)
    density += bones * body
    density -= _stomach_bubble(anatomy, y, x)
    vessels = _vessels(anatomy, pose, n) * air * (1 - heart)
    density += 0.22 * vessels
    texture = _texture(anatomy.texture_seed, n)
    density += texture * (0.012 + 0.018 * air) * body
    clear = (air > 0.6) & (heart < 0.25)
    aerated = 0.22 * vessels + 0.018 * texture * air * body - LUNG_DEPTH * air * (1 - 0.9 * heart)
    landmarks = _landmarks(anatomy, pose)
    return Scene(density, clear, body > 0.5, air, heart, aerated, x < 0.5, landmarks)


def _step(value: Plane, width: float) -> Plane:
    """Smooth step from 0 to 1 over about ``width``."""
    return expit(value * (4 / width))


def _cylinder(y: Plane, x: Plane) -> Plane:
    return np.sqrt(np.clip(1 - ((x - 0.5) / 0.5) ** 2, 0, 1)) * (0.8 + 0.3 * y)


def _body(anatomy: Anatomy, y: Plane, x: Plane) -> Plane:
    """Neck, shoulders and trunk."""
    neck = 0.10 + 0.34 * _step(y - anatomy.shoulder, 0.10)
    trunk = neck + 0.03 * np.sin(np.pi * np.clip(y, 0, 1))
    return _step(trunk - np.abs(x - 0.5), 0.012)


def _dome(anatomy: Anatomy, x: FloatOrPlane, side: int) -> FloatOrPlane:
    """Height ``y`` of a diaphragm; the right one stands higher."""
    center = 0.5 + side * anatomy.lung_gap
    level = anatomy.diaphragm + (0.02 if side > 0 else 0.0)
    return level + 0.9 * ((x - center) / 0.30) ** 2 * 0.35


def _lungs(anatomy: Anatomy, y: Plane, x: Plane) -> tuple[Plane, Plane, Plane]:
    """Return air of the lungs, the heart's shadow and what lies under the diaphragms."""
    air = np.zeros_like(y)
    domes = np.zeros_like(y)
    for side in (-1, 1):
        near = side * (x - 0.5) > -SIDE_REACH
        x_near, y_near = x[near], y[near]
        u = (x_near - 0.5 - side * anatomy.lung_gap) / anatomy.lung_width
        v = (y_near - anatomy.lung_center) / anatomy.lung_height
        taper = 1 - 0.30 * np.clip(-v, 0, 1) ** 2  # narrower toward the apex
        power = LUNG_SQUARENESS
        radius = (np.abs(u / taper) ** power + np.abs(v) ** power) ** (1 / power)
        above = _step(_dome(anatomy, x_near, side) - y_near, 0.012)
        half = _step(side * (x_near - 0.5), 0.01)
        air[near] += _step(1 - radius, 0.10) * above * half
        domes[near] += (1 - above) * half
    v = y - HEART_Y
    u = x - HEART_X - HEART_SLANT * v
    heart = _step(1 - np.hypot(v / anatomy.heart_height, u / anatomy.heart_width), 0.22)
    return np.clip(air, 0, 1), heart, np.clip(domes, 0, 1)


def _mediastinum(anatomy: Anatomy, y: Plane, x: Plane) -> Plane:
    """Great vessels, aortic knob, windpipe and spine."""
    band = 0.07 * _step(0.05 + 0.05 * y - np.abs(x - 0.505), 0.04)
    knob = 0.12 * _step(0.045 - np.hypot(y - 0.33, x - 0.555), 0.02)
    windpipe = -0.10 * _step(0.016 - np.abs(x - 0.5), 0.012) * _step(0.37 - y, 0.04)
    disc = 0.5 + 0.5 * np.cos(2 * np.pi * y / 0.055)
    spine = 0.07 * _step(0.038 - np.abs(x - 0.5), 0.02) * (0.6 + 0.4 * disc)
    return band + knob + windpipe + spine


def _ribs(anatomy: Anatomy, y: Plane, x: Plane) -> Plane:
    """Posterior ribs fall outward and have bright edges; anterior ribs are faint and rise."""
    out = np.zeros_like(y)
    lateral = np.abs(x - 0.5)
    falling = y - 1.2 * (lateral - 0.12) ** 2 - anatomy.rib_slope * (lateral - 0.12)
    rising = y - 0.16 + 0.55 * (lateral - 0.15)
    seen = _step(lateral - 0.05, 0.02) * _step(0.41 - lateral, 0.03)
    shown = _step(lateral - 0.14, 0.05) * _step(0.40 - lateral, 0.03) * _step(0.62 - y, 0.1)
    for i in range(10):
        start = anatomy.rib_start + i * anatomy.rib_step
        width = 0.017 + 0.0006 * i
        # Bands of a few percent of the image: beyond the reach a rib adds less than 1e-12.
        near = np.abs(falling - start) < BACK_REACH
        back = np.abs(falling[near] - start)
        plate = _step(width - back, 0.006)
        edge = np.exp(-(((back - width) / 0.0035) ** 2))
        out[near] += seen[near] * (0.052 * plate + 0.022 * edge)
        near = np.abs(rising - start) < FRONT_REACH
        front = np.abs(rising[near] - start)
        out[near] += 0.022 * shown[near] * _step(0.022 - front, 0.012)
    return out


def _clavicles(anatomy: Anatomy, y: Plane, x: Plane) -> Plane:
    lateral = np.abs(x - 0.5)
    axis = anatomy.shoulder + 0.085 - 0.22 * (lateral - 0.05) + 0.6 * (lateral - 0.2) ** 2
    off = np.abs(y - axis)
    near = off < CLAVICLE_REACH
    seen = _step(lateral[near] - 0.045, 0.01) * _step(0.36 - lateral[near], 0.03)
    out = np.zeros_like(y)
    out[near] = 0.10 * seen * _step(0.016 - off[near], 0.008)
    return out


def _stomach_bubble(anatomy: Anatomy, y: Plane, x: Plane) -> Plane:
    level = anatomy.diaphragm + 0.085
    return 0.14 * _step(1 - np.hypot((y - level) / 0.045, (x - 0.68) / 0.065), 0.25)


def _vessels(anatomy: Anatomy, pose: Pose, n: int) -> Plane:
    """Trees that branch from the hila outward; ``[n, n]`` in [0, 1]."""
    rng = np.random.default_rng(anatomy.vessel_seed)
    picture = Image.new("L", (2 * n, 2 * n))
    pen = ImageDraw.Draw(picture)

    def grow(y: float, x: float, angle: float, width: float, depth: int) -> None:
        for _ in range(4 + depth):
            step = rng.uniform(0.012, 0.022)
            angle += rng.normal(0, 0.16)
            end = (y + step * np.sin(angle), x + step * np.cos(angle))
            ends = [pose.to_image(y, x), pose.to_image(*end)]
            line = [(2 * n * b, 2 * n * a) for a, b in ends]
            pen.line(line, fill=int(90 + 120 * width), width=max(1, round(width * n / 42)))
            y, x, width = end[0], end[1], width * 0.93
        if depth > 0 and width > 0.08:
            for sign in (-1, 1):
                grow(y, x, angle + sign * rng.uniform(0.25, 0.6), width * 0.75, depth - 1)

    for side in (-1, 1):
        out = 0.0 if side > 0 else np.pi
        for direction in np.linspace(-1.25, 1.25, 7) + rng.normal(0, 0.08, 7):
            hilum = (0.45 + 0.05 * np.sin(direction), 0.5 + side * 0.085)
            grow(*hilum, out + side * direction, rng.uniform(0.45, 0.8), 3)
    lines = np.asarray(picture.resize((n, n), Image.Resampling.BOX), dtype=np.float64) / 255
    return np.clip(ndimage.gaussian_filter(lines, n / 512), 0, 1)


def _texture(seed: int, n: int) -> Plane:
    """Noise with power falling as 1/f^1.6, zero mean and unit variance, ``[n, n]``."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((n, n))) * frequency**-0.8
    noise = np.fft.irfft2(spectrum, s=(n, n))
    return (noise - noise.mean()) / noise.std()


def _landmarks(anatomy: Anatomy, pose: Pose) -> dict[str, tuple[float, float]]:
    """Points of the drawn contours, where air or heart has half of its density."""
    top = anatomy.lung_center - anatomy.lung_height
    # The heart is a slanted ellipse: its widest points lie above and below its middle.
    reach = float(np.hypot(anatomy.heart_width, HEART_SLANT * anatomy.heart_height))
    rise = HEART_SLANT * anatomy.heart_height**2 / reach
    points = {
        "apex_right": (top, 0.5 - anatomy.lung_gap),
        "apex_left": (top, 0.5 + anatomy.lung_gap),
        "costophrenic_right": _costophrenic(anatomy, -1),
        "costophrenic_left": _costophrenic(anatomy, 1),
        "carina": (0.40, 0.5),
        "heart_border_left": (HEART_Y + rise, HEART_X + reach),
        "heart_border_right": (HEART_Y - rise, HEART_X - reach),
    }
    return {name: pose.to_image(*point) for name, point in points.items()}


def _costophrenic(anatomy: Anatomy, side: int) -> tuple[float, float]:
    """Where the outer wall of a lung meets its diaphragm."""

    def wall(share: float) -> tuple[float, float]:
        bulge = (1 - share**LUNG_SQUARENESS) ** (1 / LUNG_SQUARENESS)
        y = anatomy.lung_center + share * anatomy.lung_height
        return y, 0.5 + side * (anatomy.lung_gap + bulge * anatomy.lung_width)

    def above_dome(share: float) -> float:
        y, x = wall(share)
        return _dome(anatomy, x, side) - y

    # Without a crossing the lung ends on its own, above the diaphragm: its lowest point then.
    return wall(1.0 if above_dome(1.0) > 0 else float(brentq(above_dome, 0.0, 1.0)))
