"""One cohort of several, as of one that came as DICOM and another that came as NIfTI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medproto.data.cohort import Cohort
from medproto.data.cohort_columns import holds_paths
from medproto.data.table import relative_path
from medproto.errors import CohortError

__all__ = ["join_cohorts"]


def join_cohorts(cohorts: Sequence[Cohort], root: Path) -> Cohort:
    """Return the rows of all cohorts, one after the other.

    Columns that one of them lacks are empty there. The same patient must have the same pseudonym in
    all, that is, they must have been built with one key.

    Args:
        root: folder that the paths of the new table start from.

    Raises:
        CohortError: if there is none, or they differ in grouping column, findings or channels.
    """
    if not cohorts:
        raise CohortError("there must be a cohort to join, got none.")
    kinds = {(cohort.group_column, cohort.label_columns, cohort.channels) for cohort in cohorts}
    if len(kinds) > 1:
        raise CohortError(
            "cohorts that are joined must have one grouping column, findings and channels, got "
            f"{sorted(map(str, kinds))}."
        )
    tables = []
    for cohort in cohorts:
        table = cohort.table.copy()
        for name in filter(holds_paths, map(str, table.columns)):
            table[name] = [relative_path(cohort.root, value, root) for value in table[name]]
        tables.append(table.astype(str))
    return Cohort(pd.concat(tables, ignore_index=True).fillna(""), root, *kinds.pop())
