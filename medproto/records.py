"""Frozen records that cross package borders. No torch, no pydicom: numbers, names and digests.

Symbols: ``*S`` spatial axes in array order, ``(rows, columns)`` for a radiograph and
``(rows, columns, slices)`` for a volume; ``P`` prototypes; ``K`` classes.

Coordinates: pixel *indices* are zero-based and name the pixel's centre; *positions* are continuous
and measured from the outer corner of the first pixel: pixel ``i`` covers ``[i, i + 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "BoxFaithfulness",
    "CellGrid",
    "Explanation",
    "HeadKind",
    "ImageReference",
    "PixelBox",
    "Placement",
    "Prediction",
    "PrototypeEvidence",
    "PrototypeSource",
]

HeadKind = Literal["multiclass", "binary", "multilabel", "ordinal"]
"""What logits mean, see :mod:`medproto.networks.heads`."""


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Axis-aligned box of pixels: zero-based indices in array order, ``stop`` exclusive.

    Raises:
        ValueError: if the axes disagree, an index is negative or the box is empty.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop) or not self.start:
            raise ValueError(
                f"start and stop must have the same axes, got {self.start}, {self.stop}."
            )
        if any(a < 0 or b <= a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box must satisfy 0 <= start < stop, got {self.start}, {self.stop}.")

    @classmethod
    def from_list(cls, values: Sequence[int]) -> PixelBox:
        """Read ``[row0, col0, row1, col1]``, or ``[*start, *stop]`` for any number of axes.

        Raises:
            ValueError: if the number of values is odd or the box is not valid.
        """
        half, odd = divmod(len(values), 2)
        if odd:
            raise ValueError(f"a box needs an even number of values, got {len(values)}.")
        return cls(tuple(int(v) for v in values[:half]), tuple(int(v) for v in values[half:]))

    def to_list(self) -> list[int]:
        """Return ``[*start, *stop]``, the inverse of :meth:`from_list`."""
        return [*self.start, *self.stop]

    @property
    def center(self) -> tuple[float, ...]:
        """Position of the middle, per axis, in pixels from the outer corner."""
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels inside."""
        return math.prod(b - a for a, b in zip(self.start, self.stop, strict=True))

    def to_mm(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Return ``(*start, *stop)`` in millimetres from the outer corner of the first pixel.

        Args:
            spacing_mm: distance of neighbouring pixel centres along each axis, in array order.

        Raises:
            ValueError: if the number of axes differs.
        """
        if len(spacing_mm) != len(self.start):
            raise ValueError(
                f"spacing_mm must have {len(self.start)} values, got {list(spacing_mm)}."
            )
        ends = (*self.start, *self.stop)
        return tuple(value * step for value, step in zip(ends, (*spacing_mm, *spacing_mm)))


@dataclass(frozen=True, slots=True)
class ImageReference:
    """What is known of a decoded image, without any identity.

    Args:
        pixel_digest: ``sha256:<hex>`` over shape, dtype and the stored pixels (before any LUT).
        shape: stored ``*S``.
        modality: DICOM Modality, or the file format in capitals for plain images (``"PNG"``).
        bits_stored: significant bits of a stored pixel.
        spacing_mm: distance of pixel centres along each axis, ``None`` when the file has none.
        spacing_kind: ``"PixelSpacing"``, ``"ImagerPixelSpacing"`` (detector plane, not the
            patient), ``"NominalScannedPixelSpacing"``, or ``"none"``.
        inverted: a MONOCHROME1 image, turned once so that larger means brighter.
        voi: how the grey range was chosen: ``"window"``, ``"lut"`` or ``"full-range"``.
        window: ``(center, width)`` in modality units when ``voi == "window"``.
        synthetic: the file says that it does not come from a patient.
    """

    pixel_digest: str
    shape: tuple[int, ...]
    modality: str
    bits_stored: int
    spacing_mm: tuple[float, ...] | None = None
    spacing_kind: str = "none"
    inverted: bool = False
    voi: str = "full-range"
    window: tuple[float, float] | None = None
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stored image lies in the network's input: ``network = stored * scale + offset``.

    All values are positions (see the module's head), per axis in array order.
    """

    stored_shape: tuple[int, ...]
    network_shape: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def to_network(self, position: Sequence[float]) -> tuple[float, ...]:
        """Map a position in stored pixels to network pixels."""
        return tuple(p * s + o for p, s, o in zip(position, self.scale, self.offset, strict=True))

    def to_stored(self, position: Sequence[float]) -> tuple[float, ...]:
        """Map a position in network pixels to stored pixels; the inverse of `to_network`."""
        return tuple((p - o) / s for p, s, o in zip(position, self.scale, self.offset, strict=True))

    def box_to_stored(self, start: Sequence[float], stop: Sequence[float]) -> PixelBox:
        """Smallest stored box that covers the network positions, clipped to the image.

        A box that lies wholly in the padding collapses onto the nearest border pixel.
        """
        first, last = self.to_stored(start), self.to_stored(stop)
        shape = self.stored_shape
        low = [min(max(math.floor(v + 1e-6), 0), n - 1) for v, n in zip(first, shape, strict=True)]
        high = [
            min(max(math.ceil(v - 1e-6), a + 1), n)
            for v, a, n in zip(last, low, shape, strict=True)
        ]
        return PixelBox(tuple(low), tuple(high))


@dataclass(frozen=True, slots=True)
class CellGrid:
    """The true place of the feature cells in the network's input.

    Cell ``i`` of an axis is centred at position ``first_center + i * stride`` (network pixels).

    Args:
        shape: number of cells per axis.
        first_center: position of the centre of cell 0, per axis; not always half a stride.
        stride: distance of neighbouring cells, network pixels per axis.
        receptive_field: theoretical side of the field of one cell, network pixels per axis.
    """

    shape: tuple[int, ...]
    first_center: tuple[float, ...]
    stride: tuple[float, ...]
    receptive_field: tuple[float, ...]

    def center(self, cell: Sequence[int]) -> tuple[float, ...]:
        """Position of the centre of ``cell`` (zero-based index per axis)."""
        return tuple(
            f + i * s for i, f, s in zip(cell, self.first_center, self.stride, strict=True)
        )


@dataclass(frozen=True, slots=True)
class PrototypeSource:
    """Where a prototype was taken from: one cell of one training image.

    Args:
        prototype: zero-based index.
        class_index, class_name: class it belongs to, zero-based, and by name.
        row: zero-based row of the run's cohort snapshot.
        group: pseudonymous patient or group of that row.
        pixel_digest: as in :class:`ImageReference`.
        cell: zero-based feature cell.
        box: the shown patch, stored pixels of the source image.
        distance: to the chosen patch, before projection; squared and in feature units.
        similarity: at ``cell`` itself, after projection; the upper bound of the similarity.
        floor: similarity that its scores count from; ``None`` where they are not counted from one.
    """

    prototype: int
    class_index: int
    class_name: str
    row: int
    group: str
    pixel_digest: str
    cell: tuple[int, ...]
    box: PixelBox
    distance: float
    similarity: float
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class BoxFaithfulness:
    """How far the shown box explains a similarity.

    Args:
        similarity: of the unchanged image.
        outside_changed: similarity when everything outside the box is blurred away. Equal to
            ``similarity`` if the box alone explains it.
        inside_changed: similarity when the inside is blurred away. Falls if the box matters.
    """

    similarity: float
    outside_changed: float
    inside_changed: float


@dataclass(frozen=True, slots=True)
class PrototypeEvidence:
    """One line of the sum: a prototype, its similarity and its contribution to every class.

    A similarity is not a probability, and a box is not a delineation of a lesion. Weights and
    contributions are per logit (:attr:`Prediction.logit_names`).

    Args:
        similarity: pooled similarity of the image to the prototype, above its floor if it has one.
        weights: ``[K]`` weights of the last layer.
        contributions: ``[K]`` similarity times weight, in logit units.
        cell: zero-based feature cell of the largest similarity.
        box: stored pixels of the explained image.
        box_mm: the same in millimetres, ``(*start, *stop)``; ``None`` without spacing.
        source: where the prototype came from.
        faithfulness: computed for the largest contributions only, else ``None``.
    """

    prototype: int
    class_index: int
    class_name: str
    similarity: float
    weights: tuple[float, ...]
    contributions: tuple[float, ...]
    cell: tuple[int, ...]
    box: PixelBox
    box_mm: tuple[float, ...] | None
    source: PrototypeSource
    faithfulness: BoxFaithfulness | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of one image.

    Args:
        classes: names of classes, findings or grades.
        logits: ``[K]``.
        probabilities: one a class; those of the plain logits unless ``calibrated``.
        model_digest: ``sha256:<hex>`` of the model's tensors.
        dtype: dtype of the backbone, e.g. ``"float32"``.
        calibrated: a temperature was fitted on validation images.
        head: what the logits mean.
        prediction_set: classes that cannot be ruled out at the stated rate; ``None`` if not judged.
        abstained: the set has not exactly one member; of findings, some are undecided.
        undecided: findings whose presence cannot be told at that rate; ``multilabel`` only.
        out_of_distribution: the similarities are unlike those of the training images.
    """

    reference: ImageReference
    classes: tuple[str, ...]
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    model_digest: str
    dtype: str = "float32"
    calibrated: bool = False
    head: HeadKind = "multiclass"
    prediction_set: tuple[str, ...] | None = None
    abstained: bool | None = None
    undecided: tuple[str, ...] | None = None
    out_of_distribution: bool | None = None

    @property
    def logit_names(self) -> tuple[str, ...]:
        """``[K]``: a class or finding, or "above" a grade."""
        if self.head == "ordinal":
            return tuple(f"above {name}" for name in self.classes[:-1])
        return self.classes

    @property
    def predicted(self) -> int:
        """Index of the most probable class or finding, or of the median grade."""
        if self.head == "ordinal":
            return sum(logit > 0 for logit in self.logits)
        return max(range(len(self.logits)), key=self.logits.__getitem__)

    @property
    def present(self) -> tuple[int, ...]:
        """Indices of the findings with a positive logit, or of the one predicted class."""
        if self.head == "multilabel":
            return tuple(k for k, logit in enumerate(self.logits) if logit > 0)
        return (self.predicted,)

    @property
    def shown_logit(self) -> int:
        """Index of the logit that decided; of thresholds the last one passed, or the first."""
        if self.head == "ordinal":
            return max(self.predicted - 1, 0)
        return 1 if self.head == "binary" else self.predicted

    @property
    def shown_logits(self) -> tuple[int, ...]:
        """Indices of all logits whose sums are shown: of each present finding, else one."""
        return (self.head == "multilabel" and self.present) or (self.shown_logit,)

    @property
    def label(self) -> str:
        """Name of the predicted class; for ``multilabel`` the present findings."""
        return ", ".join(self.classes[k] for k in self.present) or "none of the findings"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A prediction with every prototype's evidence: contributions and bias sum to the logits.

    Args:
        evidence: all ``P`` prototypes, in order of their index.
        bias: ``[K]`` of the last layer.
        completeness_error: largest absolute difference of sum and logit over the classes.
    """

    prediction: Prediction
    evidence: tuple[PrototypeEvidence, ...]
    bias: tuple[float, ...]
    completeness_error: float

    def ranked(self, logit: int) -> tuple[PrototypeEvidence, ...]:
        """Evidence ordered by its contribution to one logit, largest first."""
        return tuple(sorted(self.evidence, key=lambda e: -e.contributions[logit]))
