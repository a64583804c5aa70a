"""Ages as whole years, coarse enough to identify nobody: 90 stands for all above 89."""

from __future__ import annotations

import re

__all__ = ["OLDEST", "capped_age", "whole_years"]

OLDEST = 90
"""What all ages above 89 become."""

_PER_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}


def whole_years(age: str) -> str:
    """Return whole years, at most `OLDEST`, of a DICOM age string; empty if it is none.

    Example:
        >>> whole_years("018M"), whole_years("093Y"), whole_years("old")
        ('1', '90', '')
    """
    match = re.fullmatch(r"(\d{1,3})([DWMY])", age)
    if match is None:
        return ""
    return str(min(int(match[1]) // _PER_YEAR[match[2]], OLDEST))


def capped_age(age: str) -> str:
    """Return a cell of a column of ages; a number of years above 89 becomes `OLDEST`.

    Example:
        >>> capped_age("93.5"), capped_age("89"), capped_age("89+")
        ('90', '89', '89+')
    """
    if not re.fullmatch(r"\d+(\.\d*)?", age):
        return age
    return str(OLDEST) if float(age) >= OLDEST else age
