"""Self-contained HTML pages: a case, a run, its prototypes, a comparison of methods.

Images are inline, there is no script and no remote address; every value from data is escaped.
"""

from .models import (
    CasePage,
    ComparisonCase,
    ComparisonPage,
    ComparisonRow,
    RecordStamp,
    RunReport,
)
from .prototype_view import NearestPatch, PrototypeCard, PrototypePage
from .render import case_page, comparison_page, prototype_page, run_report

__all__ = [
    "CasePage",
    "ComparisonCase",
    "ComparisonPage",
    "ComparisonRow",
    "NearestPatch",
    "PrototypeCard",
    "PrototypePage",
    "RecordStamp",
    "RunReport",
    "case_page",
    "comparison_page",
    "prototype_page",
    "run_report",
]
