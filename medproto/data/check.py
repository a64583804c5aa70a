"""Check a cohort: every problem in one pass, each with its row, stage and reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from medproto.data.check_labels import (
    contradiction,
    count_labels,
    find_empty_masks,
    find_small_classes,
    find_wrong_labels,
)
from medproto.data.cohort import Cohort
from medproto.data.files_read import FilesRead, read_files
from medproto.data.gray import read_policy
from medproto.data.problem import SPLITS, Problem
from medproto.records import ImageReference, PixelBox

__all__ = ["CohortReport", "check_cohort"]


@dataclass(frozen=True, slots=True)
class CohortReport:
    """What a check found.

    Args:
        n: rows.
        problems: in the order of the rows, those of the whole table last.
        references: one a row, ``None`` where the image could not be read.
        summary: counts of labels, splits, modalities, spacings, sizes, groups; plain numbers and
            names, fit for JSON. ``findings`` has present, absent and uncertain cases of each of
            ``label_columns``. ``contradictions`` lists rows of the same pixels with different
            labels, or with a finding both present and absent: no error, but worth a look.
    """

    n: int
    problems: tuple[Problem, ...]
    references: tuple[ImageReference | None, ...]
    summary: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def check_cohort(
    cohort: Cohort,
    *,
    classes: Sequence[str] | None = None,
    voi: str = "voi",
    files: FilesRead | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CohortReport:
    """Read every image and mask of a cohort and check labels, splits, groups and duplicates.

    Args:
        classes: the known labels; ``None`` takes whatever the table has. Not for a cohort with
            ``label_columns``, which names its findings itself.
        voi: gray policy that the images will be read with, see `read_image`.
        files: what `read_files` found, if they were read already.
        progress: called with ``(files done, files)`` after each file.

    Raises:
        ValueError: if ``classes`` are given for a cohort with ``label_columns``, or ``voi`` is no
            policy.

    Example:
        >>> report = check_cohort(Cohort.read("cohort.csv"))  # doctest: +SKIP
        >>> report.ok  # doctest: +SKIP
        True
    """
    if cohort.label_columns and classes is not None:
        raise ValueError("classes are the label_columns of this cohort; leave them out.")
    read_policy(voi)
    references: list[ImageReference | None] = []
    problems: list[Problem] = []
    inside: list[int | None] = []
    wrong_labels = find_wrong_labels(cohort, classes)
    files = read_files(cohort, voi, progress) if files is None else files
    for row in range(len(cohort)):
        reference, found = _check_image(cohort, row, files)
        references.append(reference)
        problems += found + wrong_labels[row]
        pixels, found = _check_mask(cohort, row, reference, files)
        inside.append(pixels)
        problems += found
    problems += _check_axes(references)
    problems += find_empty_masks(cohort, inside)
    groups = _groups(cohort, references)
    problems += _check_parts(cohort, groups, references)
    problems += find_small_classes(cohort, classes)
    problems.sort(key=lambda p: len(cohort) if p.row is None else p.row)
    summary = _summary(cohort, groups, references, sum(bool(pixels) for pixels in inside))
    return CohortReport(len(cohort), tuple(problems), tuple(references), summary)


def _check_image(
    cohort: Cohort, row: int, files: FilesRead
) -> tuple[ImageReference | None, list[Problem]]:
    if not cohort.cell(row, "image"):
        return None, [Problem(row, "image", "the image must be named, the cell is empty.")]
    lacking = [name for name in cohort.channels if not cohort.cell(row, name)]
    if lacking:
        return None, [Problem(row, "image", f"it must name an image in the column {lacking[0]!r}.")]
    reference = files.images[cohort.image_source(row)]
    if isinstance(reference, str):
        return None, [Problem(row, "image", reference)]
    if len(reference.shape) == 3 and reference.affine is None:
        reason = "a volume must say how it lies in the patient, and its file has no affine."
        return reference, [Problem(row, "axes", reason)]
    known = cohort.cell(row, "pixel_digest")
    if known and known != reference.pixel_digest:
        reason = "the pixels are not those of the column 'pixel_digest'."
        return reference, [Problem(row, "image", reason)]
    return reference, []


def _check_axes(references: Sequence[ImageReference | None]) -> Iterator[Problem]:
    """Find volumes among planes, or planes among volumes: no network takes both."""
    counts = Counter(len(reference.shape) for reference in references if reference is not None)
    if len(counts) < 2:
        return
    (most, _), *_ = counts.most_common()
    names = {2: "a plane", 3: "a volume"}
    for row, reference in enumerate(references):
        if reference is not None and len(reference.shape) != most:
            reason = (
                f"the image must be {names[most]}, as most of the cohort are, and is "
                f"{names[len(reference.shape)]} of {list(reference.shape)}."
            )
            yield Problem(row, "axes", reason)


def _check_mask(
    cohort: Cohort, row: int, reference: ImageReference | None, files: FilesRead
) -> tuple[int | None, list[Problem]]:
    """Return the number of pixels inside the mask (``None`` without one) and what is wrong."""
    problems = _check_boxes(cohort, row, reference)
    path = cohort.mask_path(row)
    if path is None:
        return None, problems
    mask = files.masks[path]
    if isinstance(mask, str):
        return None, [*problems, Problem(row, "mask", mask)]
    shape, pixels = mask
    if reference is not None and shape != reference.shape:
        reason = f"the mask must have the image's shape {list(reference.shape)}, got {list(shape)}."
        return None, [*problems, Problem(row, "mask", reason)]
    return pixels, problems


def _check_boxes(cohort: Cohort, row: int, reference: ImageReference | None) -> list[Problem]:
    text = cohort.cell(row, "box")
    for part in filter(None, (part.strip() for part in text.split(";"))):
        try:
            box = PixelBox.from_list([int(value) for value in part.split(",")])
        except ValueError:
            reason = f"a box must be 'row0,col0,row1,col1' with row0 < row1, got {part!r}."
            return [Problem(row, "box", reason)]
        if reference is None:
            continue
        fits = len(box.stop) == len(reference.shape) and all(
            stop <= side for stop, side in zip(box.stop, reference.shape, strict=True)
        )
        if not fits:
            reason = f"the box {part!r} must lie in the image of {list(reference.shape)} pixels."
            return [Problem(row, "box", reason)]
    return []


def _groups(cohort: Cohort, references: Sequence[ImageReference | None]) -> list[str]:
    """Return the groups as `Cohort.groups` does, without reading the images again."""
    names = cohort.table[cohort.group_column] if cohort.group_column else [""] * len(cohort)
    digests = [reference.pixel_digest if reference else "" for reference in references]
    return [name or digest for name, digest in zip(names, digests, strict=True)]


def _check_parts(
    cohort: Cohort, groups: Sequence[str], references: Sequence[ImageReference | None]
) -> Iterator[Problem]:
    """Find groups and identical pixels in more than one split or fold."""
    digests = [reference.pixel_digest if reference else "" for reference in references]
    for column in ("split", "fold"):
        if column not in cohort.table:
            continue
        parts = cohort.table[column].tolist()
        if column == "split":
            yield from (
                Problem(row, "split", f"the split must be one of {list(SPLITS)}, got {part!r}.")
                for row, part in enumerate(parts)
                if part not in SPLITS
            )
        for row, first in _straddling(groups, parts):
            reason = f"its group is also in {column} {parts[first]!r}, with row {first}."
            yield Problem(row, "group", reason)
        for row, first in _straddling(digests, parts):
            reason = (
                f"the same pixels are in {column} {parts[first]!r}, in row {first}; "
                "remove one or give both one group."
            )
            yield Problem(row, "duplicate", reason)


def _straddling(keys: Sequence[str], parts: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield each row whose key was seen before in another part, with the first row of the key."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key and parts[first.setdefault(key, row)] != parts[row]:
            yield row, first[key]


def _summary(
    cohort: Cohort,
    groups: Sequence[str],
    references: Sequence[ImageReference | None],
    masks: int,
) -> dict[str, Any]:
    read = [reference for reference in references if reference is not None]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, reference in enumerate(references):
        if reference is not None:
            rows[reference.pixel_digest].append(row)
    sides = {
        name: {"min": min(values), "median": median(values), "max": max(values)}
        for name, values in zip(("rows", "columns", "slices"), zip(*(r.shape for r in read)))
    }
    return {
        **count_labels(cohort),
        "groups": len(set(groups) - {""}),
        "group_column": cohort.group_column,
        "masks": masks,
        "readable": len(read),
        "synthetic": sum(r.synthetic for r in read),
        "modality": _counts([r.modality for r in read]),
        "spacing": _counts([r.spacing_kind for r in read]),
        "sizes": sides,
        "contradictions": [same for same in rows.values() if contradiction(cohort, same)],
    }


def _counts(names: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
