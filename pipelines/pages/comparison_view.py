"""What the template of the comparison page reads."""

from __future__ import annotations

from typing import Any

from ..raster import FOR
from ..views import picture_of, view_of
from .models import ComparisonCase, ComparisonPage

__all__ = ["comparison_context"]

SIDE = 300
FINDING = "#7ee081"


def comparison_context(page: ComparisonPage) -> dict[str, Any]:
    """Return the variables of ``comparison.html``; pictures are drawn here."""
    controls = [row for row in page.rows if row.control and row.pointing is not None]
    bar = max((float(row.pointing["value"] or 0) for row in controls if row.pointing), default=0.0)
    return {
        "page": page,
        "methods": [_row(row, bar) for row in page.rows if not row.control],
        "controls": [_row(row, bar) for row in page.rows if row.control],
        "bar": bar,
        "cases": [_case(case) for case in page.cases],
    }


def _row(row: Any, bar: float) -> dict[str, Any]:
    """Say whether the whole interval lies above the best control, below it, or spans it."""
    verdict = ""
    low, high = (row.pointing or {}).get("low"), (row.pointing or {}).get("high")
    if not row.control and low is not None and high is not None:
        verdict = "not told apart from the best control"
        if low > bar:
            verdict = "better than the best control"
        elif high < bar:
            verdict = "worse than the best control"
    return {"row": row, "verdict": verdict}


def _case(case: ComparisonCase) -> dict[str, Any]:
    finding = [] if case.mask_box is None else [(case.mask_box, FINDING)]
    view = view_of(case.reference, None if case.mask_box is None else case.mask_box.center)
    panels = [{"name": "Image", "uri": picture_of(view, case.image, boxes=finding, side=SIDE)}]
    for name, cells in case.maps.items():
        own = [(case.boxes[name], FOR)] if name in case.boxes else []
        view = view_of(case.reference, case.points[name])
        uri = picture_of(view, case.image, cells=cells, boxes=[*finding, *own], side=SIDE)
        panels.append({"name": name, "uri": uri})
    return {"title": case.title, "note": case.note, "panels": panels}
