"""The walk along the chain, from the genesis to the last record, row by row.

One damaged record gives one problem: a record after it is good if it links to what the damaged one
says its digest is, or to the digest that its content still gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .chain import record_digest
from .errors import VerificationError
from .record import LogHead, StoredRow, record_from_row
from .sqlite import DATABASE_ERRORS

__all__ = ["ChainWalk", "MAX_PROBLEMS", "Problem"]

MAX_PROBLEMS = 100
"""A walk ends after so many problems; the log is then beyond telling which record is good."""

_UNREADABLE = (*DATABASE_ERRORS, ValueError, MemoryError)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        sequence: number of the record concerned; ``None`` if it concerns the file or the log.
        reason: in one line.
    """

    sequence: int | None
    reason: str


@dataclass
class ChainWalk:
    """State of a walk; :meth:`run` is called once.

    Args:
        genesis: digests that the first record may follow; one, unless the log's page was altered.
        log_id: that every body must name; ``None`` if the log's page is not to be trusted.
        expected: a head noted earlier, or ``None``.
    """

    genesis: frozenset[str]
    log_id: str | None
    expected: LogHead | None
    count: int = field(default=0, init=False)
    last: str = field(default="", init=False)
    problems: list[Problem] = field(default_factory=list, init=False)

    def run(self, rows: Iterable[Any]) -> None:
        """Walk over ``rows`` in the order given and note what is wrong.

        Args:
            rows: with the columns of :class:`audit.record.StoredRow`; reading one may fail.
        """
        number, links = 0, self.genesis
        self.last = min(self.genesis)
        self._compare(0, links)
        for row in self._readable(rows):
            self.count += 1
            self._number(row.sequence, number)
            number = row.sequence if isinstance(row.sequence, int) else number + 1
            links = self._check(row, number, links)
            self._compare(number, links)
            if len(self.problems) >= MAX_PROBLEMS:
                self._note(None, "too many problems; the rest was not read")
                return
        if self.expected is not None and number < self.expected.records:
            self._note(
                number + 1,
                f"missing: {self.expected.records} records were noted, the log has {self.count}",
            )

    def _readable(self, rows: Iterable[Any]) -> Iterator[StoredRow]:
        source = iter(rows)
        while True:
            try:
                row = next(source)
            except StopIteration:
                return
            except _UNREADABLE as error:
                cause = getattr(error, "orig", None) or error
                self._note(self.count + 1, f"cannot be read: {cause}")
                return
            yield StoredRow(*row)

    def _number(self, found: Any, before: int) -> None:
        if not isinstance(found, int):
            self._note(before + 1, f"its number must be an integer, got {found!r}")
        elif found <= before:
            self._note(found, f"out of order or twice: it comes after record {before}")
        elif found == before + 2:
            self._note(before + 1, "missing")
        elif found > before + 1:
            self._note(before + 1, f"missing, with all up to record {found - 1}")

    def _check(self, row: StoredRow, number: int, links: frozenset[str]) -> frozenset[str]:
        """Note what is wrong with one row and return the digests that the next may follow."""
        try:
            record = record_from_row(row)
        except VerificationError as error:
            self._note(number, str(error).removeprefix(f"record {number}: "))
            return _links(row)
        if self.log_id is not None and record.log_id != self.log_id:
            self._note(number, f"its body belongs to another log, {record.log_id!r}")
        elif record.previous not in links:
            self._note(number, "does not follow the record before it: previous is another digest")
        self.last = record.digest
        return frozenset((record.digest,))

    def _compare(self, number: int, links: frozenset[str]) -> None:
        noted = self.expected
        if noted is not None and number == noted.records and noted.digest not in links:
            self._note(
                number or None,
                f"the head noted after {number} records is {noted.digest}, the log has "
                f"{min(links, default='none')}: a record up to here was rewritten, or the note is "
                "of another log",
            )

    def _note(self, sequence: int | None, reason: str) -> None:
        self.problems.append(Problem(sequence, reason))


def _links(row: StoredRow) -> frozenset[str]:
    links = {row.digest} if isinstance(row.digest, str) else set()
    if isinstance(row.body, bytes):
        try:
            links.add(record_digest(row.previous, row.body))
        except ValueError:
            return frozenset(links)  # previous itself is damaged
    return frozenset(links)
