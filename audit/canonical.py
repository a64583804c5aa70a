"""Canonical JSON: one sequence of bytes for one value, so that a digest can stand for it.

The form is RFC 8785 (JSON Canonicalization Scheme): sorted keys, no white space, ECMAScript's
shortest form of a number. So ``1.0`` is written ``1`` and read back as the integer 1, and a float
of 2^53 or more may be written without an exponent; :func:`parse_canonical` reads both back to
values with the same canonical bytes.

References:
    [1] RFC 8785, https://www.rfc-editor.org/rfc/rfc8785
"""

from __future__ import annotations

import json
import math
from typing import Any

import rfc8785

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "canonical_json", "parse_canonical"]

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly; larger ones belong in a string."""

MAX_DEPTH = 64
"""Deepest nesting of lists and objects; a list that contains itself ends here too."""


def canonical_json(value: Any, *, name: str = "payload") -> bytes:
    """Return the canonical bytes of a JSON value: dict, list, tuple, str, bool, int, float, None.

    Args:
        name: how error messages call ``value``; a place inside it is ``name.key[0]``.

    Raises:
        ValueError: for anything that JSON cannot hold exactly (NaN, infinity, an integer beyond
            ``MAX_INTEGER``, a key that is not a string, another type, too deep nesting), with the
            path to it.

    Example:
        >>> canonical_json({"b": 1.0, "a": [True, None]})
        b'{"a":[true,null],"b":1}'
    """
    _check(value, name, 0)
    encoded: bytes = rfc8785.dumps(value)
    return encoded


def parse_canonical(data: bytes) -> Any:
    """Return the value of canonical bytes.

    Raises:
        ValueError: if the bytes are not JSON, or not in the canonical form (duplicate keys,
            white space, another way to write a number).
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_int=_parse_integer)
    except RecursionError as error:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels.") from error
    if canonical_json(value, name="body") != data:
        raise ValueError("JSON is not in canonical form (RFC 8785).")
    return value


def _parse_integer(text: str) -> int | float:
    # Canonical form writes the float 1e20 as digits only; as an integer it would be out of range.
    value = float(text)
    return int(text) if abs(value) <= MAX_INTEGER else value


def _check(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path} must be nested at most {MAX_DEPTH} levels deep.")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(
                f"{path} must be an integer within +/-(2^53 - 1), got one of "
                f"{value.bit_length()} bits. Write it as a string."
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} must be a finite number, got {value}. Write null instead.")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} must have string keys only, got the key {key!r}.")
            _check_text(key, f"a key of {path}")
            _check(item, f"{path}.{key}", depth + 1)
    else:
        raise ValueError(
            f"{path} must be a JSON type (dict, list, str, bool, int, float or None), got "
            f"{type(value).__module__}.{type(value).__qualname__}. Convert it first."
        )


def _check_text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{path} must be valid Unicode, got a lone surrogate.") from error
