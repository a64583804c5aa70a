"""Split a cohort by group, stratified by label or by the rarest finding, from a seed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from medproto.data.cohort import Cohort
from medproto.errors import CohortError

__all__ = ["split_cohort", "split_of_fold"]

Names = NDArray[np.object_]
Cases = Mapping[str, NDArray[np.bool_]]
_ATTEMPTS = 20
_LEAST = {"train": 2, "val": 1, "test": 1}
_LEAST_IN_WORDS = "at least 2 cases for training, 1 for validation and 1 for the test"
_NOTHING = "none"
"""Stratum of the rows without a certain finding."""


def split_cohort(
    cohort: Cohort,
    *,
    folds: int | None = None,
    seed: int,
    val_fraction: float = 1 / 6,
    test_fraction: float = 0.2,
) -> Cohort:
    """Return the cohort with a column ``split``, or ``fold`` if a number of folds is given.

    No group is divided; an earlier ``split`` or ``fold`` is replaced. Every class is in every part;
    of a cohort with ``label_columns`` every part has certain cases with and without each finding.

    Args:
        folds: at least 2, or ``None`` for one split into ``train``, ``val`` and ``test``.
        seed: the same seed and table give the same split.
        val_fraction: share of the rows *without the test part* that becomes ``val``.
        test_fraction: share of all rows that becomes ``test``. Both are taken as the nearest
            fraction with a denominator of at most 10.

    Raises:
        CohortError: if a label is missing or no 1, 0 or -1 of a finding, there is one class only,
            or a class, or a finding's presence or absence, has too few groups.
        ValueError: if ``folds`` or a fraction is outside its range.
    """
    if folds is not None and folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}.")
    if not (0 < val_fraction < 1 and 0 < test_fraction < 1):
        raise ValueError(
            "val_fraction and test_fraction must lie strictly between 0 and 1, got "
            f"{val_fraction} and {test_fraction}."
        )
    strata, cases = _findings(cohort) if cohort.label_columns else _labels(cohort)
    groups = np.array(cohort.groups(), dtype=object)
    _check_groups(cases, groups, least=folds or 3)
    table = cohort.table.drop(columns=["split", "fold"], errors="ignore")
    if folds is not None:
        table["fold"] = _fold_numbers(strata, cases, groups, folds, seed)
    else:
        table["split"] = _split_names(strata, cases, groups, seed, val_fraction, test_fraction)
    return replace(cohort, table=table)


def _labels(cohort: Cohort) -> tuple[Names, Cases]:
    """Return the stratum of each row and the cases that every part needs: both are the labels."""
    labels = cohort.table["label"].to_numpy(dtype=object)
    missing = [row for row, label in enumerate(labels) if not label]
    if missing:
        raise CohortError(f"every row needs a label before a split, {len(missing)} have none, "
                          f"the first is row {missing[0]}.")  # fmt: skip
    if len(cohort.classes) < 2:
        raise CohortError(f"a split needs two classes, got {list(cohort.classes)}.")
    return labels, {f"class {name!r}": labels == name for name in cohort.classes}


def _findings(cohort: Cohort) -> tuple[Names, Cases]:
    """Return the stratum of each row, and the rows with and without each finding.

    The stratum is the rarest finding that is certainly present. A stratum for each combination
    would leave most of them with too few rows to be divided, 2**K for K findings; and the common
    findings, which have rows enough, come out even by chance, whereas the rare ones would not.
    """
    names, targets = cohort.label_columns, cohort.targets()
    present = targets == 1
    rarest_first = np.argsort(present.sum(axis=0), kind="stable")
    strata = np.full(len(cohort), _NOTHING, dtype=object)
    for k in rarest_first[::-1]:
        # Prefixed, for a finding may itself be called "none".
        strata[present[:, k]] = f"finding {names[k]}"
    cases: dict[str, NDArray[np.bool_]] = {}
    for k, name in enumerate(names):
        cases[f"finding {name!r}, present,"] = present[:, k]
        cases[f"finding {name!r}, absent,"] = targets[:, k] == 0
    return strata, cases


def _check_groups(cases: Cases, groups: Names, *, least: int) -> None:
    for name, rows in cases.items():
        count = len(set(groups[rows]))
        if count < least:
            raise CohortError(f"{name} must have at least {least} groups to be split, got {count}.")


def _fold_numbers(
    strata: Names, cases: Cases, groups: Names, folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each row, such that each kind of case occurs in each fold."""
    for attempt in _seeds(seed):
        numbers = np.zeros(len(strata), dtype=np.int64)
        for number, rows in enumerate(_parts(strata, groups, folds, attempt)):
            numbers[rows] = number
        if all(len(set(numbers[rows])) == folds for rows in cases.values()):
            return numbers
    raise CohortError(
        f"no division into {folds} folds has {_every(cases)} in every fold; ask for fewer folds."
    )


def _split_names(
    strata: Names,
    cases: Cases,
    groups: Names,
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> Names:
    """Return ``train``, ``val`` or ``test`` for each row, such that each class can be learned."""
    for attempt in _seeds(seed):
        names = np.full(len(strata), "train", dtype=object)
        test = _take(strata, groups, test_fraction, attempt)
        rest = np.setdiff1d(np.arange(len(strata)), test)
        names[test] = "test"
        names[rest[_take(strata[rest], groups[rest], val_fraction, attempt)]] = "val"
        if _has_enough(names, cases):
            return names
    raise CohortError(
        f"no split of this size gives {_every(cases)} {_LEAST_IN_WORDS}; the cohort is too small "
        "or its groups are too large."
    )


def _has_enough(names: Names, cases: Cases) -> bool:
    return all(
        (names[rows] == split).sum() >= least
        for rows in cases.values()
        for split, least in _LEAST.items()
    )


def _every(cases: Cases) -> str:
    findings = any(name.startswith("finding") for name in cases)
    return "every finding, present and absent," if findings else "every class"


def _take(strata: Names, groups: Names, fraction: float, seed: int) -> NDArray[np.int64]:
    """Return about ``fraction`` of the rows: some folds of a grouped, stratified division."""
    # No more parts than the largest stratum has rows, or the division is impossible.
    limit = min(10, max(Counter(strata.tolist()).values()))
    if limit < 2:
        return np.empty(0, dtype=np.int64)
    share = Fraction(fraction).limit_denominator(limit)
    share = min(max(share, Fraction(1, limit)), Fraction(limit - 1, limit))
    parts = _parts(strata, groups, share.denominator, seed)
    return np.sort(np.concatenate(parts[: share.numerator]))


def _parts(strata: Names, groups: Names, count: int, seed: int) -> Sequence[NDArray[np.int64]]:
    """Return the rows of each of ``count`` folds."""
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    # Numbers instead of names: numpy sorts them the same way on every version.
    classes = np.unique(strata.astype(str), return_inverse=True)[1]
    members = np.unique(groups.astype(str), return_inverse=True)[1]
    with warnings.catch_warnings():
        # A class with fewer rows than folds: whether the division is usable is checked afterwards.
        warnings.simplefilter("ignore", UserWarning)
        return [rows for _, rows in splitter.split(classes, classes, members)]


def _seeds(seed: int) -> Iterator[int]:
    """Yield the seed and, should its division be unusable, others that follow from it."""
    yield from np.random.SeedSequence(seed).generate_state(_ATTEMPTS).tolist()


def split_of_fold(cohort: Cohort, fold: int, *, seed: int, val_fraction: float = 1 / 6) -> Cohort:
    """Return the cohort with a column ``split`` whose test part is one fold.

    Of the other rows a grouped, stratified part validates.

    Args:
        fold: a number of the column ``fold``.
        seed: of the validation part; the same seed, fold and table give the same split.
        val_fraction: share of the other rows that becomes ``val``.

    Raises:
        CohortError: if there is no such fold, a label is missing, or a part would lack a class.
    """
    if "fold" not in cohort.table or fold not in set(cohort.table["fold"]):
        raise CohortError(
            f"the table must have a column 'fold' with {fold}; write it with "
            "`medproto cohort split COHORT.csv --folds 5 --seed 0 --out COHORT.csv`."
        )
    strata, cases = _findings(cohort) if cohort.label_columns else _labels(cohort)
    groups = np.array(cohort.groups(), dtype=object)
    test = (cohort.table["fold"] == fold).to_numpy()
    rest = np.flatnonzero(~test)
    for name, rows in cases.items():
        if not (test & rows).any():
            raise CohortError(
                f"fold {fold} must have an image of {name.rstrip(',')} to be tested on, and has "
                "none; write the folds with `medproto cohort split COHORT.csv --folds 5 --seed 0`."
            )
    for attempt in _seeds(seed):
        names = np.where(test, "test", "train").astype(object)
        names[rest[_take(strata[rest], groups[rest], val_fraction, attempt)]] = "val"
        if _has_enough(names, cases):
            table = cohort.table.drop(columns=["split", "fold"], errors="ignore")
            return replace(cohort, table=table.assign(split=names))
    raise CohortError(
        f"with fold {fold} for the test, no split of the rest gives {_every(cases)} "
        f"{_LEAST_IN_WORDS}; ask for fewer folds."
    )
