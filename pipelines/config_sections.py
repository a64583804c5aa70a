"""Sections of a run's configuration: what can be set, its range and its default.

The defaults are those of the preset ``clinical``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from medproto.data.gray import read_policy
from medproto.records import HeadKind

__all__ = ["DataConfig", "LastLayerConfig", "ModelConfig", "Section", "TrainingConfig"]


def _policy(voi: str) -> str:
    read_policy(voi)
    return voi


Count = Annotated[int, Field(ge=1, le=1000)]
CountOrNone = Annotated[int, Field(ge=0, le=1000)]
Side = Annotated[int, Field(ge=1)]
ImageSide = Annotated[int, Field(ge=16, le=2048)]


class Section(BaseModel):
    """A group of keys; unknown ones and infinite values are refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What is read and how it reaches the network.

    Args:
        classes: names to use, in order; the first is the reference ("negative") class. ``None``
            takes all, sorted, names of absence (normal, negative, ...) first. For the ordinal head
            all grades, the lowest first.
        channels: columns ``image_path_…`` whose images, in the geometry of a row's ``image``, are
            further channels of it, as the sequences of an MRI examination.
        label_columns: columns of 1, 0 and -1 or empty (uncertain), one a finding, instead of the
            column ``label``: an image may show several.
        image_size: side of the square network input in pixels; ``None`` takes 192, or the longest
            stored side where all training images are smaller. Of volumes the side of a cube, or
            three sides (toward the back, toward the left, upward); ``None`` takes a cube of 64.
        voi: gray range: ``voi`` (window or LUT of the file), ``full-range``, ``percentile`` (of the
            values of each image) or ``window:CENTER,WIDTH`` (in Hounsfield units of a CT).
        mode: ``letterbox`` keeps the aspect ratio, ``stretch`` fills the square, ``spacing``
            resamples to ``spacing_mm`` and takes the middle of each image.
        spacing_mm: millimetres between pixels of the network's input, for ``spacing`` alone.
        crop: ``body`` crops to the part of each image that shows the patient, ``lungs`` to the
            lungs of a chest image.
        blacken_outside: make everything else black: letters, rulers, the text of the scanner.
        augment: small random shifts, turns and changes of contrast in training.
        skip_bad: leave rows out whose image, mask or box cannot be used, and list them in
            ``left_out.csv`` of the run; without it such a cohort is refused.
        repeats: how often an epoch goes over the images, each time with another random change.
        patches: path of a table of forbidden and kept patches, see docs/annotations.md.
        patches_digest: ``sha256:<hex>`` of that file; filled in by the training.
    """

    classes: tuple[str, ...] | None = None
    channels: tuple[str, ...] = ()
    label_columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    image_size: ImageSide | tuple[ImageSide, ImageSide, ImageSide] | None = None
    voi: Annotated[str, AfterValidator(_policy)] = "voi"
    mode: Literal["letterbox", "stretch", "spacing"] = "letterbox"
    spacing_mm: float | None = Field(default=None, gt=0, le=100)
    crop: Literal["none", "body", "lungs"] = "none"
    blacken_outside: bool = False
    augment: bool = True
    skip_bad: bool = False
    repeats: int = Field(default=1, ge=1, le=1000)
    patches: str | None = Field(default=None, min_length=1)
    patches_digest: str | None = None

    @property
    def spatial_size(self) -> tuple[int, ...]:
        """Return ``*S`` of the network's input: two sides, or three of volumes; once resolved."""
        size = self.image_size or 0
        return (size, size) if isinstance(size, int) else size


class ModelConfig(Section):
    """Arguments of :class:`medproto.networks.ProtoPNet`, and the start of the prototypes.

    Args:
        backbone: ``None`` takes ``efficientnet_lite0``, and ``resnet18`` for volumes.
        stage: block stage of the backbone; ``None`` leaves it to the data: the deepest with at
            least 7 cells along an axis for Lite0 (of 2 to 5) and where ``backbone`` is left open,
            else the last.
        weights: of the backbone: ``package`` (ImageNet, with a dependency; Lite0 only), the path of
            a file, or ``None`` for a random start; ``None`` where ``backbone`` is a person's own,
            and in place of ``package`` for volumes and for other than 1 or 3 channels.
        head: what the logits mean, see :mod:`medproto.networks.heads`; ``multilabel`` goes with
            ``data.label_columns``, and with nothing else.
        margin: outer feature cells along each axis that no prototype looks at; ``None`` takes 1
            where 5 cells or more are left along each axis.
        initialization: ``kmeans`` on the patches that speak most for a class, or ``uniform``.
    """

    backbone: str | None = Field(default=None, min_length=1)
    stage: int | None = Field(default=None, ge=1)
    weights: str | None = Field(default="package", min_length=1)
    head: HeadKind = "multiclass"
    prototypes_per_class: Count | tuple[CountOrNone, ...] = 10
    add_on: Literal["none", "regular", "bottleneck"] = "none"
    prototype_channels: int = Field(default=128, ge=1)
    prototype_size: Side | tuple[Side, ...] = 1
    similarity: Literal["cosine", "log", "linear", "focal"] = "cosine"
    similarity_scale: float | None = Field(default=None, gt=0)
    top_k: int = Field(default=1, ge=1)
    margin: int | None = Field(default=None, ge=0)
    initialization: Literal["kmeans", "uniform"] = "kmeans"


class TrainingConfig(Section):
    """Phases 1a to 1c of the ``single`` schedule, or the cycles of the ``repeated`` one.

    ``single``: features, warm, joint, one projection, the last layer solved; AdamW with a cosine
    decay over each segment, and each keeps its best epoch by validation. ``repeated``, as
    published: warm, then joint, projection and passes over the last layer again and again; Adam,
    its rates in steps. See :mod:`pipelines.schedule`.

    Args:
        steps_per_epoch: optimizer steps of an epoch; ``None`` takes what ``data.repeats`` passes
            over the images need.
        features_epochs: of the backbone as a plain classifier, before there are prototypes.
        warm_epochs: of prototypes and add-on layers with the backbone frozen.
        joint_epochs: of everything but the last layer; ``single`` only.
        epochs: warm and joint ones together, counted from 0; ``repeated`` only, as are the next.
        projection_start: first epoch that may be followed by a projection.
        projection_every: a projection follows the epochs that this divides.
        last_layer_passes: epochs of the last layer alone after each projection.
        learning_rate_backbone: while it learns as a plain classifier.
        learning_rate_head: of add-on layers, prototypes and the plain classifier's last layer.
        learning_rate_joint: of the backbone in the joint epochs.
        learning_rate_last_layer: in the passes of the last layer.
        weight_decay: of all but prototypes and last layer.
        cluster: coefficient of the cluster cost.
        separation: coefficient of the separation cost.
        orthogonality: coefficient of the likeness of prototypes within a class.
        fine_annotation: coefficient of the similarity outside the masks, in warm and joint epochs.
        peak_in_masks: coefficient of the lead that the largest similarity outside the mask has over
            the largest inside, plus 1, in warm and joint epochs.
        patches_in_masks: take prototypes, at their start and in projection, from patches whose
            centres lie in the mask, where their image has one, and count the cluster cost there.
        forbid: coefficient of the similarity to forbidden patches, in joint epochs.
        keep: coefficient of the similarity to kept patches, in joint epochs.
        class_weights: weight the cross-entropy by inverse class frequency.
        precision: of the backbone in training by gradient; ``bfloat16`` is autocast. Prototypes,
            last layer and loss stay in float32, projection, validation and prediction as a whole.
        projection: patch a prototype takes: the ``nearest``, or the near one whose scores are most
            like its own, ``function-preserving``; ``single`` only, ``repeated`` takes the nearest.
        patience: stop a segment after so many epochs without a better validation score; ``single``
            only.
    """

    schedule: Literal["single", "repeated"] = "single"
    batch_size: int = Field(default=16, ge=2)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    features_epochs: int = Field(default=6, ge=0)
    warm_epochs: int = Field(default=1, ge=0)
    joint_epochs: int = Field(default=6, ge=1)
    epochs: int = Field(default=31, ge=1)
    projection_start: int = Field(default=10, ge=0)
    projection_every: int = Field(default=10, ge=1)
    last_layer_passes: int = Field(default=20, ge=0)
    learning_rate_backbone: float = Field(default=3e-4, gt=0, le=10)
    learning_rate_head: float = Field(default=3e-3, gt=0, le=10)
    learning_rate_joint: float = Field(default=3e-4, gt=0, le=10)
    learning_rate_last_layer: float = Field(default=1e-4, gt=0, le=10)
    weight_decay: float = Field(default=1e-3, ge=0)
    cluster: float = Field(default=0.2, ge=0)
    separation: float = Field(default=0.05, ge=0)
    orthogonality: float = Field(default=0.0, ge=0)
    fine_annotation: float = Field(default=0.0, ge=0)
    peak_in_masks: float = Field(default=0.0, ge=0)
    patches_in_masks: bool = False
    forbid: float = Field(default=0.0, ge=0)
    keep: float = Field(default=0.0, ge=0)
    class_weights: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    projection: Literal["nearest", "function-preserving"] = "function-preserving"
    patience: int = Field(default=5, ge=1)

    def projection_epochs(self) -> list[int]:
        """Return the epochs, counted from 0, that a projection follows in ``repeated``."""
        first, every = self.projection_start, self.projection_every
        return [epoch for epoch in range(first, self.epochs) if epoch % every == 0]


class LastLayerConfig(Section):
    """Phase 3: coefficients of the convex problem, see :mod:`medproto.last_layer`.

    Args:
        l1: of weights to other classes than a prototype's own; in ``repeated`` too.
        ridge: of all weights; without effect in ``repeated``.
        floor: a prototype's score counts from this quantile of its scores in the training images
            that lack its class, and less is 0; ``None`` takes the similarity as it is, as does
            ``repeated``.
    """

    l1: float = Field(default=1e-3, ge=0)
    ridge: float = Field(default=0.1, gt=0)
    floor: float | None = Field(default=0.1, ge=0, lt=1)
