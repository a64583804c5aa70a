"""Self-contained HTML pages: one case, one run, one comparison of methods.

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
from .render import case_page, comparison_page, run_report

__all__ = [
    "CasePage",
    "ComparisonCase",
    "ComparisonPage",
    "ComparisonRow",
    "RecordStamp",
    "RunReport",
    "case_page",
    "comparison_page",
    "run_report",
]
