"""Pseudonyms that only the holder of a key can link to the original identifiers."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

__all__ = ["KEY_VARIABLE", "Pseudonymizer"]

KEY_VARIABLE = "MEDPROTO_PSEUDONYM_KEY"
"""Environment variable with the key, for pseudonyms that stay the same from build to build."""


class Pseudonymizer:
    """Keyed one-way names: HMAC-SHA256, the first 64 bits in hexadecimal, with a prefix.

    Args:
        key: secret; ``None`` takes the environment variable `KEY_VARIABLE`, and without it a fresh
            random key, so that pseudonyms cannot be linked across builds.

    Raises:
        ValueError: if the key is empty.
    """

    def __init__(self, key: str | bytes | None = None) -> None:
        if key is None:
            key = os.environ.get(KEY_VARIABLE)
        self.fresh = key is None
        secret = secrets.token_bytes(32) if key is None else key
        self._key = secret.encode() if isinstance(secret, str) else bytes(secret)
        if not self._key:
            raise ValueError(f"the key of pseudonyms (or {KEY_VARIABLE}) must not be empty.")

    def notes(self) -> list[str]:
        """Say that the pseudonyms are of this build alone, if they are."""
        if not self.fresh:
            return []
        return [
            "pseudonyms are made with a key of this build alone and cannot be linked across "
            f"builds; set {KEY_VARIABLE} for lasting ones."
        ]

    def name(self, prefix: str, identifier: str) -> str:
        """Return ``<prefix>-<16 hex digits>``; empty for an empty identifier."""
        if not identifier:
            return ""
        digest = hmac.new(self._key, identifier.encode(), hashlib.sha256).hexdigest()
        return f"{prefix}-{digest[:16]}"

    def uid(self, identifier: str) -> str:
        """Return a DICOM UID of the form 2.25 (PS3.5 B.2) that stands for another identifier."""
        digest = hmac.new(self._key, b"uid\0" + identifier.encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"
