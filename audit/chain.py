r"""Hash chain: each record's digest covers the record and the digest before it.

    genesis   = SHA-256(0x03 || canonical bytes of the log's own description)
    digest(n) = SHA-256(0x02 || digest(n - 1), 32 bytes || body(n)),   digest(0) = genesis

The first byte keeps the two apart from each other and from the leaves (0x00) and nodes (0x01) of
the Merkle tree of RFC 6962, so that no digest of one kind can be passed off as another kind.
Digests are written ``sha256:`` and 64 lower-case hexadecimal digits.

A chain shows a change, a gap, an insertion or a new order *inside* what is there. It cannot show
that its newest records were cut off, nor that all of it was written anew: for this a digest must
be kept outside the log.

References:
    [1] RFC 6962, section 2.1. https://www.rfc-editor.org/rfc/rfc6962
"""

from __future__ import annotations

import hashlib
import re

__all__ = [
    "CHAIN_DOMAIN",
    "GENESIS_PREFIX",
    "RECORD_PREFIX",
    "check_digest",
    "genesis_digest",
    "record_digest",
]

CHAIN_DOMAIN = "medproto-audit-chain-v1"
"""Names the rule above; stands in every log, so that another rule can be told apart."""

RECORD_PREFIX = b"\x02"
GENESIS_PREFIX = b"\x03"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def genesis_digest(description: bytes) -> str:
    """Return the digest that the first record follows.

    Args:
        description: canonical bytes of the log's description, see :class:`audit.record.LogMeta`.
    """
    return "sha256:" + hashlib.sha256(GENESIS_PREFIX + description).hexdigest()


def record_digest(previous: str, body: bytes) -> str:
    """Return the digest of a record.

    Args:
        previous: digest of the record before it, or the genesis digest.
        body: canonical bytes of the record.

    Raises:
        ValueError: if ``previous`` is not a digest.
    """
    before = bytes.fromhex(check_digest(previous).removeprefix("sha256:"))
    return "sha256:" + hashlib.sha256(RECORD_PREFIX + before + body).hexdigest()


def check_digest(text: str) -> str:
    """Return ``text`` if it is a digest in the written form.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError(f"a digest must be 'sha256:' and 64 lower-case hex digits, got {text!r}.")
    return text
