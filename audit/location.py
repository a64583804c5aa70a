"""Where a log lies: ``sqlite:///path`` or a plain path, relative or absolute."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import LogLocationError

__all__ = ["log_path"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def log_path(url: str | Path) -> Path:
    """Return the absolute path of the database file that ``url`` names.

    Args:
        url: ``sqlite:///log.db`` (relative), ``sqlite:////srv/log.db`` (absolute) or a plain path.

    Raises:
        LogLocationError: if it names another kind of database, or no file.

    Example:
        >>> log_path("sqlite:////srv/medproto/log.db").as_posix()
        '/srv/medproto/log.db'
    """
    text = str(url)
    scheme = _SCHEME.match(text)
    if scheme is None:
        if not text or text.startswith((":memory:", "file:")):
            raise LogLocationError(f"a log must be a file on disk, got {text!r}.")
        return Path(text).absolute()
    name = scheme.group(1).lower()
    if name.startswith("postgres"):
        # The rest of such a URL may hold a password, so it is not repeated.
        raise LogLocationError(
            "a log in PostgreSQL is not supported yet. Use a file: sqlite:///path or a plain path."
        )
    rest = text[scheme.end() :]
    if name != "sqlite" or not rest.startswith("/") or len(rest) < 2 or rest == "/:memory:":
        raise LogLocationError(
            f"a log must be given as sqlite:///path or as a plain path, got a URL of {name!r}"
            + (" without a path." if name == "sqlite" else ".")
        )
    if "?" in rest:
        raise LogLocationError("a log's URL takes no options after '?'; give the path alone.")
    return Path(rest[1:]).absolute()
