"""From the frozen pages to HTML: one Jinja2 environment, escaping everything that is data."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..wording import bias_remark, interval, number, percent, signed
from .case_view import case_context
from .comparison_view import comparison_context
from .models import CasePage, ComparisonPage, RunReport
from .prototype_view import PrototypePage, prototype_context
from .run_view import run_context

__all__ = ["case_page", "comparison_page", "prototype_page", "run_report"]


def case_page(case: CasePage) -> str:
    """Return the page of one image.

    Raises:
        KeyError: if the picture of a shown prototype is missing.
    """
    return _environment().get_template("case.html").render(case_context(case))


def run_report(report: RunReport) -> str:
    """Return the report of a run."""
    return _environment().get_template("run.html").render(run_context(report))


def comparison_page(page: ComparisonPage) -> str:
    """Return the page of a comparison of methods."""
    return _environment().get_template("comparison.html").render(comparison_context(page))


def prototype_page(page: PrototypePage) -> str:
    """Return the page of the prototypes of a run."""
    return _environment().get_template("prototypes.html").render(prototype_context(page))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipelines", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bias_remark": bias_remark,
        "interval": interval,
        "number": number,
        "percent": percent,
        "signed": signed,
    }
    return environment
