"""One image through a finished run: prediction with evidence, maps, and a recorded case rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from medproto.data import read_image
from medproto.errors import ImageReadError
from medproto.explain import GradCam, cells_to_stored, explain, heat_maps
from medproto.records import Explanation, Placement, Prediction
from medproto.transforms import preprocessing

from .doubt import Doubt
from .runs import RunFolder

__all__ = ["ExplainedCase", "RebuiltCase", "explain_case", "load_case", "rebuild_case"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class ExplainedCase:
    """One explained image.

    Args:
        explanation: of the image.
        tensor: ``[1, *S]``, the network's input.
        placement: where the stored image lies in it.
    """

    explanation: Explanation
    tensor: Tensor
    placement: Placement


@dataclass(frozen=True)
class RebuiltCase:
    """A recorded case, computed again from model and image, with its pictures.

    Args:
        image: ``[rows, cols]`` in [0, 1], stored geometry.
        explanation: computed now.
        heat_maps: similarity maps ``[rows, cols]`` of the largest contributions, by prototype.
        grad_cam: ``[rows, cols]``, >= 0, for the logit of the predicted class.
        largest_difference: between the recorded and the rebuilt logits; ``None`` for a case that
            is not recorded.
    """

    image: Pixels
    explanation: Explanation
    heat_maps: dict[int, Pixels]
    grad_cam: Pixels
    largest_difference: float | None


def load_case(run: RunFolder, path: Path) -> MetaTensor:
    """Read an image as the run's network wants it: ``[1, *S]`` with reference and placement.

    Raises:
        ImageReadError: if the file cannot be read.
    """
    steps = dict(run.card.preprocessing)
    steps["spatial_size"] = tuple(steps["spatial_size"])
    try:
        image: MetaTensor = preprocessing(**steps)({"image": str(path)})["image"]
    except RuntimeError as error:  # MONAI wraps the reader's error, which is the one to show
        if isinstance(error.__cause__, ImageReadError):
            raise error.__cause__ from error
        raise
    return image


def explain_case(run: RunFolder, path: Path, *, faithfulness: int = 5) -> ExplainedCase:
    """Predict one image file and account for the logits.

    Raises:
        ImageReadError: if the image cannot be read.
        ModelFileError: if the run is unfinished or altered.
    """
    image = load_case(run, path)
    placement = image.meta["placement"]
    tensor = image.as_tensor().contiguous()
    explanation = explain(
        run.network,
        tensor,
        reference=image.meta["reference"],
        placement=placement,
        classes=run.card.classes,
        sources=run.sources,
        model_digest=run.card.model_digest,
        faithfulness=faithfulness,
    )
    if run.doubt is not None:
        explanation = replace(
            explanation, prediction=_judged(explanation, run.doubt, run.card.classes)
        )
    return ExplainedCase(explanation, tensor, placement)


def _judged(explanation: Explanation, doubt: Doubt, classes: tuple[str, ...]) -> Prediction:
    scores = np.array([[evidence.similarity for evidence in explanation.evidence]])
    judged = doubt.judge(np.array([explanation.prediction.logits]), scores)
    unusual = judged.out_of_distribution
    return replace(
        explanation.prediction,
        probabilities=tuple(judged.probabilities[0].tolist()),
        calibrated=doubt.calibrated,
        prediction_set=None
        if judged.sets is None
        else tuple(name for name, member in zip(classes, judged.sets[0], strict=True) if member),
        abstained=None if judged.abstained is None else bool(judged.abstained[0]),
        out_of_distribution=None if unusual is None else bool(unusual[0]),
    )


def picture_case(
    run: RunFolder, path: Path, *, shown: int = 10, recorded_logits: list[float] | None = None
) -> RebuiltCase:
    """Explain one image file and draw its maps for the ``shown`` largest contributions."""
    case = explain_case(run, path)
    prediction = case.explanation.prediction
    k = prediction.shown_logit
    ordered = sorted(case.explanation.evidence, key=lambda e: -abs(e.contributions[k]))
    maps = heat_maps(
        run.network, case.tensor, [e.prototype for e in ordered[:shown]], case.placement
    )
    cam = GradCam(run.network).attribute(case.tensor, k)
    difference = None
    if recorded_logits is not None:
        difference = float(np.abs(np.subtract(recorded_logits, prediction.logits)).max())
    return RebuiltCase(
        image=read_image(path, voi=run.card.preprocessing["voi"]).pixels,
        explanation=case.explanation,
        heat_maps=maps,
        grad_cam=cells_to_stored(cam, run.network.feature_grid, case.placement),
        largest_difference=difference,
    )


def rebuild_case(run: Path, record_payload: Mapping[str, Any], row: int) -> RebuiltCase:
    """Compute a recorded prediction again from the run's model and the image of a cohort row.

    Args:
        run: the run folder.
        record_payload: payload of the record.
        row: position in the run's cohort snapshot of the image with the recorded digest.

    Raises:
        ImageReadError: if the image is gone.
        ModelFileError: if the model is not the one of the record, or was altered.
        ValueError: if the image's pixels are not the recorded ones.
    """
    folder = RunFolder(run)
    if folder.card.model_digest != record_payload["model_digest"]:
        raise ValueError("the record must be of this run's model, it names another model digest.")
    case = picture_case(
        folder, folder.cohort.image_path(row), recorded_logits=list(record_payload["logits"])
    )
    if (
        case.explanation.prediction.reference.pixel_digest
        != record_payload["image"]["pixel_digest"]
    ):
        raise ValueError("the image's pixels are not those of the record; the file was changed.")
    return case
