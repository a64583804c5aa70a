"""Columns of findings: 1 present, 0 absent, -1 or empty uncertain.

Symbols: ``N`` rows, ``K`` findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["BAD_CELL", "bad_cells", "present_findings", "read_targets"]

# As text, with the point that a table gets when it passes through floating-point numbers.
_VALUES = {
    "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": np.nan, "-1.0": np.nan, "": np.nan,
}  # fmt: skip

BAD_CELL = "column {name!r} must hold 1, 0, or -1 (also empty) for uncertain, got {text!r}."


def bad_cells(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield row, column and text of each cell that is none of the values, row by row."""
    for row, cells in enumerate(zip(*(table[name] for name in columns), strict=True)):
        for name, text in zip(columns, cells, strict=True):
            if text not in _VALUES:
                yield row, name, text


def read_targets(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float64]:
    """Return ``[N, K]``: 1 present, 0 absent, NaN uncertain or none of the values."""
    values = [[_VALUES.get(text, np.nan) for text in table[name]] for name in columns]
    return np.array(values, dtype=np.float64).T.reshape(len(table), len(columns))


def present_findings(targets: NDArray[np.float64], names: Sequence[str]) -> list[frozenset[str]]:
    """Return the findings that are certainly present in each row of ``targets`` ``[N, K]``."""
    return [frozenset(np.array(names, dtype=object)[row == 1]) for row in targets]
