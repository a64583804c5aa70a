"""The blocks of figures that ``medproto evaluate --json`` prints.

Symbols: ``N`` cases, ``K`` classes. Every figure with an interval is ``{"value", "low", "high"}``,
each a number or ``None``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medproto.metrics.base import CaseMetric, Metric, bootstrap
from medproto.metrics.classification import (
    auroc,
    average_precision,
    balanced_accuracy,
    confusion,
    expected_calibration_error,
    sensitivity,
    specificity,
)
from medproto.metrics.localization import (
    box_area_share,
    chance_by_area,
    constant_location,
    energy_inside,
    image_center,
    pointing_game,
)
from medproto.records import PixelBox

__all__ = ["summarize_classification", "summarize_localization", "summarize_subgroups"]

Groups = Sequence[object] | NDArray[Any]

_MISSING = "(missing)"
_EMPTY = frozenset({"", "nan", "<NA>", "NaT"})  # as tables print a value that is not there


def summarize_classification(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Groups,
    classes: Sequence[str],
    *,
    threshold: float | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, Any]:
    """Discrimination, calibration, confusion and subgroups of one classifier on one split.

    Args:
        probabilities: ``[N, K]``, each row summing to 1 (within 1e-3).
        labels: ``[N]`` classes, zero-based.
        groups: ``[N]`` patient or group of each case.
        classes: ``[K]`` names.
        threshold: for the probability of the second of two classes, chosen on validation cases
            with :func:`operating_point`. ``None``, or more classes: no operating point.
        columns: per column ``[N]`` values (site, sex, …) whose subgroups are reported; ``None`` and
            NaN count as the value ``"(missing)"``.
        seed: of the bootstrap.
        rounds: of the bootstrap.

    Returns:
        ``n``, ``groups``, ``classes``, ``auroc``, ``balanced_accuracy``, ``average_precision``,
        ``ece``, ``operating_point`` (``threshold``, ``sensitivity``, ``specificity``, or ``None``),
        ``confusion`` (of the most probable class) and ``subgroups``
        (``{column: {value: {"n", "groups", "auroc"}}}``).

    Raises:
        ValueError: if the shapes disagree, or the rows are no probabilities.
    """
    chances = _distributions(probabilities, len(classes))
    targets = np.asarray(labels)

    def measured(measure: Metric, **options: Any) -> dict[str, float | None]:
        result = bootstrap(
            measure, chances, targets, groups=groups, seed=seed, rounds=rounds, **options
        )
        return result.to_dict()

    point: dict[str, Any] | None = None
    if threshold is not None and len(classes) == 2:
        point = {
            "threshold": float(threshold),
            "sensitivity": measured(sensitivity, threshold=threshold),
            "specificity": measured(specificity, threshold=threshold),
        }
    return {
        "n": len(chances),
        "groups": len(set(groups)),
        "classes": list(classes),
        "auroc": measured(auroc),
        "balanced_accuracy": measured(balanced_accuracy),
        "average_precision": measured(average_precision),
        "ece": measured(expected_calibration_error),
        "operating_point": point,
        "confusion": confusion(chances.argmax(axis=1), targets, classes=classes),
        "subgroups": summarize_subgroups(
            chances, targets, groups, columns or {}, measure=auroc, seed=seed, rounds=rounds
        ),
    }


def summarize_subgroups(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Groups,
    columns: Mapping[str, Sequence[object]],
    *,
    measure: Metric,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the ranking figure in each subgroup.

    Args:
        probabilities: ``[N, ...]``, as ``measure`` takes them, as are ``labels``.
        groups: ``[N]`` patient or group of each case.
        columns: as of :func:`summarize_classification`.
        measure: an area under the ROC curve.
        seed: of the bootstrap.
        rounds: of the bootstrap.

    Returns:
        ``{column: {value: {"n", "groups", "auroc"}}}``.

    Raises:
        ValueError: if a column has another length.
    """
    chances, targets = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    return {
        name: _subgroups(measure, chances, targets, groups, values, seed=seed, rounds=rounds)
        for name, values in columns.items()
    }


def summarize_localization(
    centers: Sequence[ArrayLike],
    masks: Sequence[Any],
    groups: Sequence[object],
    *,
    train_masks: Iterable[Any],
    heats: Sequence[Any] | None = None,
    boxes: Sequence[PixelBox] | None = None,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, Any] | None:
    """Place of the evidence on the images that have a mask, beside its controls.

    Args:
        centers: ``N`` positions of the evidence in stored pixels, ``[axes]`` each.
        masks: ``N`` boolean arrays; ``None`` or an empty mask leaves the image out.
        groups: ``N`` patients or groups.
        train_masks: boolean arrays for the constant position; empty ones and ``None`` are left out.
        heats: ``N`` heat maps ``>= 0`` on the stored grid; ``None`` if there are none.
        boxes: ``N`` boxes of the evidence in stored pixels; ``None`` if there are none.
        seed: of the bootstrap.
        rounds: of the bootstrap.

    Returns:
        ``None`` without any mask; else ``n``, ``groups``, ``pointing_game``, ``energy_inside``,
        ``box_area`` and the controls ``constant_location`` (with ``position``, relative),
        ``image_center`` and ``area`` (share of the mask). What cannot be computed is ``None``.

    Raises:
        ValueError: if the numbers or shapes disagree.
    """
    if not len(centers) == len(masks) == len(groups):
        raise ValueError(
            "centers, masks and groups must be equally many, "
            f"got {len(centers)}, {len(masks)} and {len(groups)}."
        )
    kept = [i for i, mask in enumerate(masks) if _marked(mask)]
    if not kept:
        return None
    regions = [masks[i] for i in kept]
    patients = [groups[i] for i in kept]

    def measured(measure: CaseMetric, *arrays: Any, **options: Any) -> dict[str, Any]:
        result = bootstrap(measure, *arrays, groups=patients, seed=seed, rounds=rounds, **options)
        return dict(result.to_dict())

    fitted = [mask for mask in train_masks if _marked(mask)]
    constant: dict[str, Any] | None = None
    if fitted:
        position = constant_location(fitted)
        constant = measured(pointing_game, position, regions, relative=True)
        constant["position"] = list(position)
    middle = image_center(regions[0].ndim)
    energy = None if heats is None else measured(energy_inside, [heats[i] for i in kept], regions)
    area: dict[str, Any] | None = None
    if boxes is not None:
        area = measured(box_area_share, [boxes[i] for i in kept], [r.shape for r in regions])
    return {
        "n": len(kept),
        "groups": len(set(patients)),
        "pointing_game": measured(pointing_game, np.array([centers[i] for i in kept]), regions),
        "constant_location": constant,
        "image_center": measured(pointing_game, middle, regions, relative=True),
        "energy_inside": energy,
        "area": measured(chance_by_area, regions),
        "box_area": area,
    }


def _marked(mask: Any) -> bool:
    return mask is not None and bool(np.any(mask))


def _distributions(probabilities: ArrayLike, count: int) -> NDArray[np.float64]:
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.ndim != 2 or chances.shape[1] != count:
        raise ValueError(
            f"probabilities must have shape [cases, {count}], got {list(chances.shape)}."
        )
    if (chances < 0).any() or not np.allclose(chances.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError(
            "probabilities must be >= 0 and sum to 1 in each row. Pass the softmax of logits."
        )
    return chances


def _subgroups(
    measure: Metric,
    chances: NDArray[np.float64],
    targets: NDArray[Any],
    groups: Groups,
    values: Sequence[object],
    *,
    seed: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    if len(values) != len(chances):
        raise ValueError(f"a column must have {len(chances)} values, got {len(values)}.")
    names = np.array([_name(value) for value in values], dtype=object)
    patients = np.array(list(groups), dtype=object)
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        result = bootstrap(
            measure, chances[rows], targets[rows], groups=patients[rows], seed=seed, rounds=rounds
        )
        found[name] = {"n": result.n, "groups": result.groups, "auroc": result.to_dict()}
    return found


def _name(value: object) -> str:
    text = "" if value is None else str(value)
    return _MISSING if text in _EMPTY else text
