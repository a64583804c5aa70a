import sqlite3

import pytest

from audit import AuditLog
from audit.record import StoredRow
from audit.walk import ChainWalk, Problem


@pytest.fixture
def rows(log_file):
    with AuditLog.open(log_file, read_only=True) as log:
        return [
            StoredRow(*(getattr(record, name) for name in StoredRow._fields))
            for record in log.records()
        ]


@pytest.fixture
def walk(rows):
    return ChainWalk(genesis=frozenset((rows[0].previous,)), log_id=None, expected=None)


def test_a_good_walk(walk, rows):
    walk.run(rows)
    assert (walk.problems, walk.count, walk.last) == ([], 5, rows[4].digest)


def test_a_row_that_cannot_be_read_is_named_and_ends_the_walk(walk, rows):
    def broken():
        yield from rows[:2]
        raise sqlite3.DatabaseError("database disk image is malformed")

    walk.run(broken())
    expected = "cannot be read: database disk image is malformed"
    assert walk.problems == [Problem(3, expected)]
    assert walk.count == 2


def test_a_number_that_is_none(walk, rows):
    walk.run([rows[0], rows[1]._replace(sequence=None), rows[2]])
    assert walk.problems[0] == Problem(2, "its number must be an integer, got None")
    assert {problem.sequence for problem in walk.problems} == {2}


def test_a_record_twice(walk, rows):
    walk.run([*rows[:2], rows[1], *rows[2:]])
    reasons = {problem.sequence: problem.reason for problem in walk.problems}
    assert 2 in reasons
    assert walk.problems[0] == Problem(2, "out of order or twice: it comes after record 2")
