"""Check a cohort: every problem in one pass, each with its row, stage and reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from medproto.data.cohort import Cohort
from medproto.data.images import read_image, read_mask
from medproto.errors import ImageReadError
from medproto.records import ImageReference, PixelBox

__all__ = ["CohortReport", "Problem", "check_cohort"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must be mended.

    Args:
        row: zero-based row of the table, ``None`` if it concerns the table as a whole.
        stage: ``"image"``, ``"label"``, ``"mask"``, ``"box"``, ``"split"``, ``"group"``,
            ``"duplicate"`` or ``"class"``.
        reason: one sentence, without path or identity.
    """

    row: int | None
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class CohortReport:
    """What a check found.

    Args:
        n: rows.
        problems: in the order of the rows, those of the whole table last.
        references: one a row, ``None`` where the image could not be read.
        summary: counts of labels, splits, modalities, spacings, sizes, groups; plain numbers and
            names, fit for JSON. ``contradictions`` lists rows of the same pixels with different
            labels: no error, but worth a look.
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
    progress: Callable[[int, int], None] | None = None,
) -> CohortReport:
    """Read every image and mask of a cohort and check labels, splits, groups and duplicates.

    Args:
        classes: the known labels; ``None`` takes whatever the table has.
        progress: called with ``(rows done, rows)`` after each row.

    Example:
        >>> report = check_cohort(Cohort.read("cohort.csv"))  # doctest: +SKIP
        >>> report.ok  # doctest: +SKIP
        True
    """
    references: list[ImageReference | None] = []
    problems: list[Problem] = []
    empty_masks: dict[str, list[int]] = defaultdict(list)
    filled_masks: Counter[str] = Counter()
    labels = cohort.table["label"].tolist()
    for row in range(len(cohort)):
        reference, found = _check_image(cohort, row)
        references.append(reference)
        problems += found
        problems += _check_label(row, labels[row], classes)
        inside, found = _check_mask(cohort, row, reference)
        problems += found
        if inside is not None and inside > 0:
            filled_masks[labels[row]] += 1
        elif inside == 0:
            empty_masks[labels[row]].append(row)
        if progress is not None:
            progress(row + 1, len(cohort))
    for label, rows in empty_masks.items():
        if filled_masks[label]:
            problems += [Problem(row, "mask", _EMPTY.format(label=label)) for row in rows]
    groups = _groups(cohort, references)
    problems += _check_parts(cohort, groups, references)
    problems += _check_classes(cohort, classes)
    problems.sort(key=lambda p: len(cohort) if p.row is None else p.row)
    summary = _summary(cohort, groups, references, sum(filled_masks.values()))
    return CohortReport(len(cohort), tuple(problems), tuple(references), summary)


_EMPTY = (
    "the mask is empty, although others of class {label!r} are not; leave the cell empty if "
    "nothing was drawn."
)


def _check_image(cohort: Cohort, row: int) -> tuple[ImageReference | None, list[Problem]]:
    if not cohort.table["image"].iloc[row]:
        return None, [Problem(row, "image", "the image must be named, the cell is empty.")]
    try:
        reference = read_image(cohort.image_path(row)).reference
    except ImageReadError as cause:
        return None, [Problem(row, "image", str(cause))]
    known = cohort.table["pixel_digest"].iloc[row] if "pixel_digest" in cohort.table else ""
    if known and known != reference.pixel_digest:
        reason = "the pixels are not those of the column 'pixel_digest'."
        return reference, [Problem(row, "image", reason)]
    return reference, []


def _check_label(row: int, label: str, classes: Sequence[str] | None) -> list[Problem]:
    if not label:
        return [Problem(row, "label", "the label must be given, the cell is empty.")]
    if classes is not None and label not in classes:
        reason = f"the label must be one of {sorted(classes)}, got {label!r}."
        return [Problem(row, "label", reason)]
    return []


def _check_mask(
    cohort: Cohort, row: int, reference: ImageReference | None
) -> tuple[int | None, list[Problem]]:
    """Return the number of pixels inside the mask (``None`` without one) and what is wrong."""
    problems = _check_boxes(cohort, row, reference)
    path = cohort.mask_path(row)
    if path is None:
        return None, problems
    try:
        mask = read_mask(path)
    except ImageReadError as cause:
        return None, [*problems, Problem(row, "mask", str(cause))]
    if reference is not None and mask.shape != reference.shape:
        reason = (
            f"the mask must have the image's shape {list(reference.shape)}, got {list(mask.shape)}."
        )
        return None, [*problems, Problem(row, "mask", reason)]
    return int(mask.sum()), problems


def _check_boxes(cohort: Cohort, row: int, reference: ImageReference | None) -> list[Problem]:
    text = str(cohort.table["box"].iloc[row]) if "box" in cohort.table else ""
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


def _check_classes(cohort: Cohort, classes: Sequence[str] | None) -> Iterator[Problem]:
    """Find classes that are too small to learn or to measure, and near-equal names."""
    labels = cohort.table["label"]
    known = sorted(set(cohort.classes) | set(classes or ()))
    if len(cohort.classes) < 2:
        yield Problem(None, "class", f"a cohort needs two classes, got {list(cohort.classes)}.")
    spelled: dict[str, str] = {}
    for name in known:
        other = spelled.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            reason = f"classes {other!r} and {name!r} differ in case or spaces only."
            yield Problem(None, "class", reason)
        cases = int((labels == name).sum())
        if cases < 2:
            yield Problem(None, "class", f"class {name!r} needs at least 2 cases, got {cases}.")
            continue
        yield from _check_class_parts(cohort, name)


def _check_class_parts(cohort: Cohort, name: str) -> Iterator[Problem]:
    table = cohort.table[cohort.table["label"] == name]
    if "split" in table:
        counts = Counter(table["split"].tolist())
        for split, least in zip(SPLITS, (2, 1, 1), strict=True):
            if counts[split] < least:
                reason = (
                    f"class {name!r} needs at least {least} in split {split!r}, "
                    f"got {counts[split]}."
                )
                yield Problem(None, "class", reason)
    if "fold" in table:
        for fold in sorted(set(cohort.table["fold"]) - set(table["fold"])):
            yield Problem(None, "class", f"class {name!r} has no case in fold {fold}.")


def _summary(
    cohort: Cohort,
    groups: Sequence[str],
    references: Sequence[ImageReference | None],
    masks: int,
) -> dict[str, Any]:
    table = cohort.table
    read = [reference for reference in references if reference is not None]
    labels: dict[str, set[str]] = defaultdict(set)
    rows: dict[str, list[int]] = defaultdict(list)
    for row, reference in enumerate(references):
        if reference is not None:
            rows[reference.pixel_digest].append(row)
            labels[reference.pixel_digest].add(table["label"].iloc[row])
    sides = {
        name: {"min": min(values), "median": median(values), "max": max(values)}
        for name, values in zip(("rows", "columns"), zip(*(r.shape for r in read)))
    }
    return {
        "labels": _counts(table["label"].tolist()),
        **{
            f"{column}s": {
                str(part): _counts(table["label"][table[column] == part].tolist())
                for part in sorted(set(table[column]))
            }
            for column in ("split", "fold")
            if column in table
        },
        "groups": len(set(groups) - {""}),
        "group_column": cohort.group_column,
        "masks": masks,
        "readable": len(read),
        "synthetic": sum(r.synthetic for r in read),
        "modality": _counts([r.modality for r in read]),
        "spacing": _counts([r.spacing_kind for r in read]),
        "sizes": sides,
        "contradictions": [rows[digest] for digest in rows if len(labels[digest]) > 1],
    }


def _counts(names: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
