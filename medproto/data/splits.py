"""Split a cohort by group, stratified by label, from a seed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from medproto.data.cohort import Cohort
from medproto.errors import CohortError

__all__ = ["split_cohort"]

_ATTEMPTS = 20
_LEAST = {"train": 2, "val": 1, "test": 1}


def split_cohort(
    cohort: Cohort,
    *,
    folds: int | None = None,
    seed: int,
    val_fraction: float = 1 / 6,
    test_fraction: float = 0.2,
) -> Cohort:
    """Return the cohort with a column ``split``, or ``fold`` if a number of folds is given.

    No group is divided; an earlier ``split`` or ``fold`` is replaced.

    Args:
        folds: at least 2, or ``None`` for one split into ``train``, ``val`` and ``test``.
        seed: the same seed and table give the same split.
        val_fraction: share of the rows *without the test part* that becomes ``val``.
        test_fraction: share of all rows that becomes ``test``. Both are taken as the nearest
            fraction with a denominator of at most 10.

    Raises:
        CohortError: if a label is missing, there is one class only, or a class has too few groups.
        ValueError: if ``folds`` or a fraction is outside its range.
    """
    if folds is not None and folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}.")
    if not (0 < val_fraction < 1 and 0 < test_fraction < 1):
        raise ValueError(
            "val_fraction and test_fraction must lie strictly between 0 and 1, got "
            f"{val_fraction} and {test_fraction}."
        )
    labels = cohort.table["label"].to_numpy(dtype=object)
    missing = [row for row, label in enumerate(labels) if not label]
    if missing:
        raise CohortError(f"every row needs a label before a split, {len(missing)} have none, "
                          f"the first is row {missing[0]}.")  # fmt: skip
    if len(cohort.classes) < 2:
        raise CohortError(f"a split needs two classes, got {list(cohort.classes)}.")
    groups = np.array(cohort.groups(), dtype=object)
    _check_groups(labels, groups, least=folds or 3)
    table = cohort.table.drop(columns=["split", "fold"], errors="ignore")
    if folds is not None:
        table["fold"] = _fold_numbers(labels, groups, folds, seed)
    else:
        table["split"] = _split_names(labels, groups, seed, val_fraction, test_fraction)
    return Cohort(table, cohort.root, cohort.group_column)


def _check_groups(labels: NDArray[np.object_], groups: NDArray[np.object_], *, least: int) -> None:
    for name in sorted(set(labels)):
        count = len(set(groups[labels == name]))
        if count < least:
            raise CohortError(
                f"class {name!r} must have at least {least} groups to be split, got {count}."
            )


def _fold_numbers(
    labels: NDArray[np.object_], groups: NDArray[np.object_], folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each row, such that each class occurs in each fold."""
    for attempt in _seeds(seed):
        numbers = np.zeros(len(labels), dtype=np.int64)
        for number, rows in enumerate(_parts(labels, groups, folds, attempt)):
            numbers[rows] = number
        if all(len(set(numbers[labels == name])) == folds for name in set(labels)):
            return numbers
    raise CohortError(
        f"no division into {folds} folds has every class in every fold; ask for fewer folds."
    )


def _split_names(
    labels: NDArray[np.object_],
    groups: NDArray[np.object_],
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> NDArray[np.object_]:
    """Return ``train``, ``val`` or ``test`` for each row, such that each class can be learned."""
    for attempt in _seeds(seed):
        names = np.full(len(labels), "train", dtype=object)
        test = _take(labels, groups, test_fraction, attempt)
        rest = np.setdiff1d(np.arange(len(labels)), test)
        names[test] = "test"
        names[rest[_take(labels[rest], groups[rest], val_fraction, attempt)]] = "val"
        if all(
            (names[labels == label] == split).sum() >= least
            for label in set(labels)
            for split, least in _LEAST.items()
        ):
            return names
    raise CohortError(
        f"no split of this size gives every class at least {_LEAST} cases; the cohort is too small "
        "or its groups are too large."
    )


def _take(
    labels: NDArray[np.object_], groups: NDArray[np.object_], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Return about ``fraction`` of the rows: some folds of a grouped, stratified division."""
    # No more parts than the largest class has rows, or the division is impossible.
    limit = min(10, max(Counter(labels.tolist()).values()))
    share = Fraction(fraction).limit_denominator(limit)
    share = min(max(share, Fraction(1, limit)), Fraction(limit - 1, limit))
    parts = _parts(labels, groups, share.denominator, seed)
    return np.sort(np.concatenate(parts[: share.numerator]))


def _parts(
    labels: NDArray[np.object_], groups: NDArray[np.object_], count: int, seed: int
) -> Sequence[NDArray[np.int64]]:
    """Return the rows of each of ``count`` folds."""
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    # Numbers instead of names: numpy sorts them the same way on every version.
    classes = np.unique(labels.astype(str), return_inverse=True)[1]
    members = np.unique(groups.astype(str), return_inverse=True)[1]
    with warnings.catch_warnings():
        # A class with fewer rows than folds: whether the division is usable is checked afterwards.
        warnings.simplefilter("ignore", UserWarning)
        return [rows for _, rows in splitter.split(classes, classes, members)]


def _seeds(seed: int) -> Iterator[int]:
    """Yield the seed and, should its division be unusable, others that follow from it."""
    yield from np.random.SeedSequence(seed).generate_state(_ATTEMPTS).tolist()
