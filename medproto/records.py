"""Frozen records that cross package borders. No torch, no pydicom: numbers, names and digests.

Symbols: ``*S`` spatial axes in array order, ``(rows, columns)`` for a radiograph and
``(rows, columns, slices)`` for a volume; ``P`` prototypes; ``K`` classes.

Coordinates: pixel *indices* are zero-based and name the pixel's centre; *positions* are continuous
and measured from the outer corner of the first pixel: pixel ``i`` covers ``[i, i + 1)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medproto.coordinates import CellGrid, PixelBox, Placement

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
class ImageReference:
    """What is known of a decoded image, without any identity.

    Args:
        pixel_digest: ``sha256:<hex>`` over shape, dtype and the stored pixels (before any LUT).
        shape: stored ``*S``.
        modality: DICOM Modality, or the file format in capitals for plain images (``"PNG"``).
        bits_stored: significant bits of a stored pixel.
        spacing_mm: distance of pixel centres along each axis, ``None`` when the file has none.
        spacing_kind: the attribute that it is from: ``"PixelSpacing"``, ``"ImagerPixelSpacing"``
            (detector plane, not the patient), ``"EstimatedRadiographicMagnificationFactor"`` (the
            detector's, divided by that factor), ``"NominalScannedPixelSpacing"``,
            ``"SequenceOfUltrasoundRegions"``, ``"affine"`` (volumes), or ``"none"``.
        inverted: a MONOCHROME1 image, turned once so that larger means brighter.
        voi: how the gray range was chosen: ``"window"`` or ``"lut"`` of the file,
            ``"explicit-window"``, ``"percentile"`` or ``"full-range"``.
        window: ``(center, width)`` in modality units, if the range was one.
        synthetic: the file says that it does not come from a patient.
        presentation_intent: DICOM PresentationIntentType, ``"FOR PRESENTATION"`` (the maker's gray
            scale has been applied) or ``"FOR PROCESSING"``; empty where the file does not say.
        padded: stored pixels with the padding value of the file, shown black.
        frame: zero-based frame that was taken from a file of several.
        affine: three rows of ``n + 1`` numbers, for ``n`` axes: from stored indices to millimetres
            in the patient, DICOM's axes (to the left, to the back, to the head). ``None`` where
            the file has no patient coordinates.
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
    presentation_intent: str = ""
    padded: int = 0
    frame: int | None = None
    affine: tuple[tuple[float, ...], ...] | None = None

    def to_patient(self, position: Sequence[float]) -> tuple[float, ...]:
        """Return the point in the patient, in mm, of a position in stored pixels.

        Raises:
            ValueError: if the file has no patient coordinates, or the number of axes differs.
        """
        if self.affine is None:
            raise ValueError("the image must have patient coordinates, its file has none.")
        if len(position) != len(self.shape):
            raise ValueError(f"position must have {len(self.shape)} values, got {list(position)}.")
        index = [value - 0.5 for value in position]
        return tuple(
            sum(step * i for step, i in zip(row[:-1], index, strict=True)) + row[-1]
            for row in self.affine
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
