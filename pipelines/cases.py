"""One image through a finished run: prediction with evidence, maps, and a recorded case rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from medproto.data import ImageSource, readers
from medproto.errors import ImageReadError
from medproto.explain import CellMap, GradCam, explain, heat_maps
from medproto.records import Explanation, Placement, Prediction
from medproto.transforms import preprocessing

from .doubt import Doubt, Judgement
from .inference import pooled_similarities
from .runs import RunFolder

__all__ = [
    "ExplainedCase",
    "RebuiltCase",
    "explain_case",
    "judge_prediction",
    "load_case",
    "rebuild_case",
]

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class ExplainedCase:
    """One explained image.

    Args:
        explanation: of the image.
        tensor: ``[C, *S]``, the network's input.
        placement: where the stored image lies in it.
        similarities: ``[P]`` pooled similarities, not counted from the floor.
    """

    explanation: Explanation
    tensor: Tensor
    placement: Placement
    similarities: tuple[float, ...]


@dataclass(frozen=True)
class RebuiltCase:
    """A recorded case, computed again from model and image, with its pictures.

    Args:
        image: ``[*S]`` in [0, 1], stored geometry.
        explanation: computed now.
        heat_maps: similarity maps of the largest contributions, by prototype.
        grad_cams: >= 0, by logit.
        largest_difference: between the recorded and the rebuilt logits; ``None`` for a case that
            is not recorded.
    """

    image: Pixels
    explanation: Explanation
    heat_maps: dict[int, CellMap]
    grad_cams: dict[int, CellMap]
    largest_difference: float | None


def load_case(run: RunFolder, source: ImageSource) -> MetaTensor:
    """Read an image as the run's network wants it: ``[C, *S]`` with reference and placement.

    Raises:
        ImageReadError: if the file cannot be read, or there are not as many channels as it takes.
    """
    steps = dict(run.card.preprocessing)
    steps["spatial_size"] = tuple(steps["spatial_size"])
    try:
        image: MetaTensor = preprocessing(**steps, read=readers().image)({"image": source})["image"]
    except RuntimeError as error:  # MONAI wraps the reader's error, which is the one to show
        if isinstance(error.__cause__, ImageReadError):
            raise error.__cause__ from error
        cause = type(error.__cause__ or error).__name__
        raise ImageReadError(
            f"the image could not be prepared for the network ({cause}), which the check of a "
            "file should have foreseen; please report it."
        ) from error
    wanted = run.network.arguments["in_channels"]
    if len(image) != wanted:
        columns = ", ".join(("image", *run.config.data.channels))
        raise ImageReadError(
            f"the network takes {wanted} images of a subject as channels ({columns}), got "
            f"{len(image)}; name the others with --channel, or all in a cohort table."
        )
    return image


def explain_case(run: RunFolder, source: ImageSource, *, faithfulness: int = 5) -> ExplainedCase:
    """Predict one image file and account for the logits.

    Raises:
        ImageReadError: if the image cannot be read.
        ModelFileError: if the run is unfinished or altered.
    """
    image = load_case(run, source)
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
    similarities = tuple(pooled_similarities(run.network, tensor[None])[0].tolist())
    if run.doubt is not None:
        judged = judge_prediction(explanation.prediction, similarities, run.doubt)
        explanation = replace(explanation, prediction=judged)
    return ExplainedCase(explanation, tensor, placement, similarities)


def judge_prediction(
    prediction: Prediction, similarities: Sequence[float], doubt: Doubt
) -> Prediction:
    """Return the prediction with calibrated probabilities and what speaks against it.

    Args:
        similarities: ``[P]``, pooled, not counted from the floor.
    """
    judged = doubt.judge(np.array([prediction.logits]), np.array([similarities]))
    unusual = judged.out_of_distribution
    return replace(
        prediction,
        probabilities=tuple(judged.probabilities[0].tolist()),
        calibrated=doubt.calibrated,
        out_of_distribution=None if unusual is None else bool(unusual[0]),
        **_sets(prediction, judged),
    )


def _sets(prediction: Prediction, judged: Judgement) -> dict[str, Any]:
    """Return the fields of a prediction that tell its set of classes, or of each finding."""
    if judged.sets is None or judged.abstained is None:
        return {"prediction_set": None, "abstained": None, "undecided": None}
    members, unsure = judged.sets[0], judged.abstained[0]
    if prediction.head != "multilabel":
        return {
            "prediction_set": _chosen(prediction.classes, members),
            "abstained": bool(unsure),
            "undecided": None,
        }
    return {
        "prediction_set": _chosen(prediction.classes, members[:, 1]),  # (absent, present)
        "abstained": bool(unsure.any()),
        "undecided": _chosen(prediction.classes, unsure),
    }


def _chosen(names: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, chosen, strict=True) if taken)


def picture_case(
    run: RunFolder,
    source: ImageSource,
    *,
    shown: int = 10,
    logits: Sequence[int] | None = None,
    recorded_logits: list[float] | None = None,
) -> RebuiltCase:
    """Explain one image file and draw its maps for the ``shown`` largest contributions.

    Args:
        logits: positions of the logits whose contributions are drawn; ``None`` for those that the
            prediction shows, of each finding that is present.

    Raises:
        ValueError: if the network has no such logit.
    """
    case = explain_case(run, source)
    prediction = case.explanation.prediction
    drawn = prediction.shown_logits if logits is None else tuple(logits)
    if not all(0 <= k < len(prediction.logits) for k in drawn):
        raise ValueError(f"logits must be below {len(prediction.logits)}, got {list(drawn)}.")
    prototypes: dict[int, None] = {}
    for k in drawn:
        ordered = sorted(case.explanation.evidence, key=lambda e: -abs(e.contributions[k]))
        prototypes |= dict.fromkeys(e.prototype for e in ordered[:shown])
    method, grid = GradCam(run.network), run.network.feature_grid
    difference = None
    if recorded_logits is not None:
        difference = float(np.abs(np.subtract(recorded_logits, prediction.logits)).max())
    return RebuiltCase(
        image=readers().image(source, voi=run.card.preprocessing["voi"]).channels[0],
        explanation=case.explanation,
        heat_maps=heat_maps(run.network, case.tensor, list(prototypes), case.placement),
        grad_cams={
            k: CellMap(method.attribute(case.tensor, k), grid, case.placement) for k in drawn
        },
        largest_difference=difference,
    )


def rebuild_case(
    run: Path, record_payload: Mapping[str, Any], row: int, logit: int | None = None
) -> RebuiltCase:
    """Compute a recorded prediction again from the run's model and the image of a cohort row.

    Args:
        run: the run folder.
        record_payload: payload of the record.
        row: position in the run's cohort snapshot of the image with the recorded digest.
        logit: position of the logit whose maps are drawn; ``None`` as of :func:`picture_case`.

    Raises:
        ImageReadError: if the image is gone.
        ModelFileError: if the model is not the one of the record, or was altered.
        ValueError: if the image's pixels are not the recorded ones, or there is no such logit.
    """
    folder = RunFolder(run)
    if folder.card.model_digest != record_payload["model_digest"]:
        raise ValueError("the record must be of this run's model, it names another model digest.")
    case = picture_case(
        folder,
        folder.cohort.image_source(row),
        logits=None if logit is None else [logit],
        recorded_logits=list(record_payload["logits"]),
    )
    if (
        case.explanation.prediction.reference.pixel_digest
        != record_payload["image"]["pixel_digest"]
    ):
        raise ValueError("the image's pixels are not those of the record; the file was changed.")
    return case
