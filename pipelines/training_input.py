"""What a training starts from: a cohort without problems, a complete configuration, a device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from medproto.data import Cohort, CohortReport, FilesRead, Problem, check_cohort, read_files
from medproto.data.table import to_csv
from medproto.errors import CohortError, ImageReadError, ModelFileError
from medproto.networks.model_file import write_atomically
from medproto.transforms import FitImage

from .classes import choose_classes, choose_image_size, choose_stage, choose_volume_stage
from .config import ConfigError, RunConfig
from .datasets import ImageSet, check_command
from .initialization import shown_classes

__all__ = [
    "OF_FILES",
    "Usable",
    "check_groups",
    "check_pixels",
    "find_device",
    "refuse",
    "resampling_problems",
    "resolve",
    "snapshot",
    "usable",
    "with_classes",
    "write_left_out",
]

logger = logging.getLogger("medproto.train")

OF_FILES = ("image", "axes", "mask", "box")
"""Stages of problems that are of one row's files; ``data.skip_bad`` may leave these out."""

LAST_STAGE = 7
"""Of EfficientNet-Lite0: a seventh of 224 pixels along an axis, as the published backbones."""


def find_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        ConfigError: if there is none on this machine.
    """
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu or cuda, got {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda needs a GPU that torch can use, this machine has none; train on cpu. "
            "See `medproto doctor`."
        )
    return torch.device(name)


def with_classes(cohort: Cohort, config: RunConfig) -> Cohort:
    """Keep the rows of the configured classes, or the configured findings.

    Raises:
        CohortError: if one is missing.
    """
    findings = config.data.label_columns
    cohort = replace(cohort, channels=config.data.channels)
    if findings is not None:
        cohort = replace(cohort, label_columns=findings)
    return cohort.select(findings or choose_classes(cohort.classes, config.data.classes))


class Usable(NamedTuple):
    """A cohort without problems.

    Args:
        cohort: its rows.
        report: of its check.
        left_out: problems of the rows that ``data.skip_bad`` left out, by their row in the table.
    """

    cohort: Cohort
    report: CohortReport
    left_out: tuple[Problem, ...] = ()


def usable(cohort: Cohort, config: RunConfig) -> Usable:
    """Keep the configured classes or findings and check what is left.

    With ``data.skip_bad`` rows with a file that cannot be used are left out, and told. Labels,
    groups and splits must be right all the same.

    Raises:
        CohortError: if a class or the column ``split`` is missing, or the check found problems.
    """
    cohort = with_classes(cohort, config)
    if "split" not in cohort.table.columns:
        raise CohortError(
            "training needs a column `split` with train, val and test. "
            "Write it with `medproto cohort split COHORT.csv --seed 0 --out COHORT.csv`."
        )
    files = read_files(cohort, config.data.voi)
    report = _checked(cohort, config, files)
    left_out: list[Problem] = []
    if config.data.skip_bad:
        bad = [p for p in report.problems if p.stage in OF_FILES and p.row is not None]
        left_out = [replace(problem, row=_own_row(cohort, problem)) for problem in bad]
        if bad:
            cohort = cohort.without({problem.row for problem in bad if problem.row is not None})
            report = _checked(cohort, config, files)
    if not report.ok:
        skip = report.problems[0].stage in OF_FILES
        hint = " Or leave such rows out: --set data.skip_bad=true." if skip else ""
        refuse(cohort, report.problems, hint, voi=config.data.voi)
    for problem in left_out:
        logger.warning("left out: row %d (%s): %s", problem.row, problem.stage, problem.reason)
    return Usable(cohort, report, tuple(left_out))


def _checked(cohort: Cohort, config: RunConfig, files: FilesRead) -> CohortReport:
    """Check a cohort, and that its images have what the preprocessing needs."""
    report = check_cohort(cohort, voi=config.data.voi, files=files)
    unfit = resampling_problems(report, config.data.mode, config.data.spacing_mm)
    return replace(report, problems=(*report.problems, *unfit))


def resampling_problems(
    report: CohortReport, mode: str, spacing_mm: float | None
) -> tuple[Problem, ...]:
    """Return a problem for each image that cannot be resampled to a spacing.

    Args:
        mode, spacing_mm: as in `FitImage`; for other modes than ``spacing`` there is none.
    """
    if mode != "spacing":
        return ()
    problems = []
    for row, reference in enumerate(report.references):
        if reference is None:
            continue
        if reference.spacing_mm is None:
            reason = (
                "data.mode=spacing needs the distance of the pixels, and the file does not say it."
            )
            problems.append(Problem(row, "image", reason))
            continue
        # What is cut off has no part in it, so any size of the network's input will do. Of a crop
        # before it nothing is known yet.
        fit = FitImage([1] * len(reference.shape), mode, spacing_mm=spacing_mm)
        try:
            fit.placement(reference.shape, reference.spacing_mm)
        except ImageReadError as error:
            problems.append(Problem(row, "image", str(error)))
    return tuple(problems)


def refuse(
    cohort: Cohort, problems: Sequence[Problem], hint: str = "", *, voi: str = "voi"
) -> NoReturn:
    """Name the first of some problems, and how to see them all.

    Args:
        hint: a further sentence.
        voi: gray policy that the cohort was checked with.

    Raises:
        CohortError: always.
    """
    row = _own_row(cohort, problems[0])
    where = "" if row is None else f"row {row}: "
    raise CohortError(
        f"the cohort has {len(problems)} problem(s), the first: {where}{problems[0].reason} "
        f"See them all with `{check_command(cohort, voi)}`.{hint}"
    )


def check_pixels(used: Usable, known: Mapping[int, str]) -> None:
    """Check that the images have the pixel digests that earlier folds saw, by row of the table.

    Raises:
        CohortError: if one has others; the first is named.
    """
    numbers = used.cohort.table.get("row", range(len(used.cohort)))
    for number, reference in zip(numbers, used.report.references, strict=True):
        found = "" if reference is None else reference.pixel_digest
        if known.get(int(number), found) != found:
            raise CohortError(
                f"row {number}: the image's pixels must be those of the earlier folds, and are "
                "others. Restore the file, or cross-validate in a new folder."
            )


def _own_row(cohort: Cohort, problem: Problem) -> int | None:
    """Return the row of a problem in the table that the cohort was taken from."""
    if problem.row is None or "row" not in cohort.table.columns:
        return problem.row
    return int(cohort.table["row"].iloc[problem.row])


def write_left_out(left_out: Sequence[Problem], out: Path) -> None:
    """Write ``left_out.csv`` with row, stage and reason, if there is anything to write."""
    if left_out:
        table = pd.DataFrame([asdict(problem) for problem in left_out])
        write_atomically(out / "left_out.csv", to_csv(table).encode())


def check_groups(
    images: ImageSet, prototype_classes: Iterable[int], classes: Sequence[str]
) -> None:
    """Check, before anything is trained, that each class can have a prototype.

    No two prototypes come from the same group, so each class must have one that it need not share.

    Raises:
        CohortError: if a class cannot have any.
    """
    wanted, names = sorted(set(prototype_classes)), sorted(set(images.groups))
    column = {name: j for j, name in enumerate(names)}
    shows = np.zeros((len(wanted), len(names)), dtype=bool)
    for label, group in zip(images.labels.tolist(), images.groups, strict=True):
        for i, k in enumerate(wanted):
            shows[i, column[group]] |= k in shown_classes(label)
    served = maximum_bipartite_matching(csr_array(shows), perm_type="column")
    for i, k in enumerate(wanted):
        if served[i] < 0:
            raise CohortError(
                f"{classes[k]} must have a training patient (group) of its own, since no two "
                f"prototypes come from one patient; it has {int(shows[i].sum())}, which other "
                "classes need. Give it more patients, or take it out of the training."
            )


def resolve(config: RunConfig, cohort: Cohort, report: CohortReport) -> RunConfig:
    """Fill in what the configuration leaves to the data, so that the saved one is complete."""
    shapes = [r.shape for r in report.references if r is not None]
    size = _image_size(config, shapes)
    classes = config.data.label_columns
    if classes is None:
        classes = choose_classes(cohort.classes, config.data.classes)
    if config.model.head == "binary" and len(classes) != 2:
        raise ConfigError(
            f"model.head=binary needs two classes, the cohort has {len(classes)} "
            f"({', '.join(classes)}). Name two with data.classes=[absent,present], or take "
            "model.head=multiclass, or ordinal for grades."
        )
    data = config.data.model_copy(update={"classes": classes, "image_size": size})
    model = config.model.model_copy(update=_backbone(config, data.spatial_size))
    return config.model_copy(update={"data": data, "model": model})


def _image_size(config: RunConfig, shapes: Sequence[tuple[int, ...]]) -> int | tuple[int, ...]:
    """Return the side of planes, or the three sides of volumes."""
    axes = len(shapes[0])
    size = config.data.image_size or choose_image_size(max(map(max, shapes)), axes=axes)
    if axes == 3:
        return (size,) * 3 if isinstance(size, int) else size
    if not isinstance(size, int):
        raise ConfigError(
            f"data.image_size must be one side for planes, got {list(size)}; three are for volumes."
        )
    return size


def _backbone(config: RunConfig, sides: Sequence[int]) -> dict[str, Any]:
    """Return backbone, stage and weights as far as they are left to the data."""
    model, volumes = config.model, len(sides) == 3
    backbone = model.backbone or ("resnet18" if volumes else "efficientnet_lite0")
    stage = model.stage
    if stage is None and backbone == "efficientnet_lite0":
        # The paper compares the last features, however few cells they have.
        stage = LAST_STAGE if config.preset == "paper" else choose_stage(sides[0])
    elif stage is None and model.backbone is None:
        stage = choose_volume_stage(sides)
    weights = model.weights
    if weights == "package" and (volumes or len(config.data.channels) not in (0, 2)):
        weights = None
        logger.info(
            "there are no pretrained weights for such images; the backbone starts at random."
        )
    return {"backbone": backbone, "stage": stage, "weights": weights}


def snapshot(cohort: Cohort, report: CohortReport, out: Path) -> Cohort:
    """Write ``cohort.csv`` with row, pixel digest and group of each image, and read it back.

    Raises:
        ModelFileError: if there is one of another cohort already; that stays as it is.
    """
    table = cohort.table.copy()
    if "row" not in table.columns:
        table["row"] = range(len(table))
    table["pixel_digest"] = [r.pixel_digest if r else "" for r in report.references]
    told = table["synthetic"] if "synthetic" in table.columns else [""] * len(table)
    table["synthetic"] = [
        int(bool(r and r.synthetic) or str(cell).strip() == "1")
        for r, cell in zip(report.references, told, strict=True)
    ]
    findings = cohort.label_columns
    # The digests are there by now: without groups these are the groups, and no file is read again.
    table["group"] = replace(cohort, table=table).groups()
    path, new = out / "cohort.csv", out / ".cohort.csv"
    replace(cohort, table=table, group_column="group").save(new)
    if path.exists() and path.read_bytes() != new.read_bytes():
        new.unlink()
        raise ModelFileError(
            "the unfinished run was started with another cohort; resume with the same one, or "
            "train into a new folder."
        )
    new.replace(path)
    return Cohort.read(path, group="group", label_columns=findings, channels=cohort.channels)
