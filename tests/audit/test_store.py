import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from audit import (
    AuditError,
    AuditLog,
    LogHead,
    LogLocationError,
    RequestConflictError,
    VerificationError,
    verify,
)
from audit import sqlite as sqlite_module
from audit.location import log_path


def note(log, text="x", **more):
    return log.append("note", subject="s", actor="a", payload={"text": text}, **more)


def test_an_append_can_be_read_by_another_connection_at_once(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log, AuditLog.open(log.path) as other:
        record = note(log)
        assert other.get(1) == record
        assert (len(other), other.head()) == (1, LogHead(1, record.digest))
        assert note(other).previous == record.digest


def test_durability_settings_are_those_promised(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log, log._connect() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in asked]
    assert values == ["wal", 2, 1, 30_000]  # 2 is FULL


def test_an_empty_log_has_the_genesis_as_head(tmp_path):
    with AuditLog.create(f"sqlite:///{tmp_path}/log.db") as log:
        assert len(log) == 0
        assert log.head() == LogHead(0, log.meta.genesis)
        assert list(log.records()) == []


def test_create_refuses_whatever_exists(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"mine")
    with pytest.raises(AuditError, match="exists already"):
        AuditLog.create(path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(AuditError, match=r"cannot create a log at .*: No such file"):
        AuditLog.create(tmp_path / "missing" / "log.db")


def test_create_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("no space left")

    monkeypatch.setattr(sys.modules["audit.store"], "sync_folder", fail)
    with pytest.raises(AuditError, match=r"cannot create .* no space left"):
        AuditLog.create(tmp_path / "log.db")
    assert list(tmp_path.iterdir()) == []


def test_open_names_the_next_step_for_a_missing_log(tmp_path):
    with pytest.raises(AuditError, match=r"no log at .*medproto audit init"):
        AuditLog.open(tmp_path / "log.db")


def test_open_tells_what_is_not_a_log(tmp_path):
    path = tmp_path / "text.db"
    path.write_text("not a database, but longer than a header of one hundred bytes " * 4)
    with pytest.raises(AuditError, match=r"cannot open the log .*not a database"):
        AuditLog.open(path)
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(VerificationError, match="not a medproto log"):
        AuditLog.open(foreign)
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(VerificationError, match="not a medproto log"):
        AuditLog.open(empty, read_only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("PRAGMA user_version = 2", "layout must be version 1, got 2"),
        ("UPDATE log_meta SET schema_version = 9", "schema must be 1 .*got 9"),
        ("UPDATE log_meta SET domain = 'other'", "got 1 by 'other'"),
        ("UPDATE log_meta SET log_id = 'other'", "log_meta was altered"),
        ("UPDATE log_meta SET created_at = x'00'", "values of a wrong type"),
        ("DELETE FROM log_meta", r"one row, with id 1, got \[\]"),
        ("UPDATE log_meta SET id = 18", r"one row, with id 1, got \[18\]"),
    ],
)
def test_open_tells_another_version_and_an_altered_description(log_file, tamper, change, message):
    with tamper(log_file) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(change)
    with pytest.raises(VerificationError, match=message):
        AuditLog.open(log_file)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:secret@host/db", "PostgreSQL is not supported yet"),
        ("postgresql+psycopg://host/db", "PostgreSQL is not supported yet"),
        ("mysql://host/db", "got a URL of 'mysql'"),
        ("sqlite://", "'sqlite' without a path"),
        ("sqlite:///", "'sqlite' without a path"),
        ("sqlite:///:memory:", "without a path"),
        ("sqlite:///log.db?mode=ro", "takes no options"),
        (":memory:", "must be a file on disk"),
        ("", "must be a file on disk"),
    ],
)
def test_a_url_that_cannot_name_a_log(url, message):
    with pytest.raises(LogLocationError, match=message) as caught:
        AuditLog.open(url)
    assert "secret" not in str(caught.value)


def test_urls_and_paths_name_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = tmp_path / "a b?#%41.db"
    assert log_path("a b?#%41.db") == expected
    assert log_path("sqlite:///x.db") == log_path(f"sqlite:///{tmp_path}/x.db") == tmp_path / "x.db"
    with AuditLog.create("a b?#%41.db") as log:
        note(log)
    assert [p.name for p in tmp_path.iterdir()] == ["a b?#%41.db"]
    assert verify("a b?#%41.db").ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "No"}, "kind must be"),
        ({"subject": ""}, "subject must be"),
        ({"actor": "a\n"}, "actor must be"),
        ({"request_id": ""}, "request_id must be"),
        ({"payload": [1]}, "payload must be a dict, got list"),
        ({"payload": {"a": [float("nan")]}}, r"payload\.a\[0\] must be a finite number"),
    ],
)
def test_a_bad_argument_appends_nothing(log_file, change, message):
    arguments = {"kind": "note", "subject": "s", "actor": "a", "payload": {}} | change
    with AuditLog.open(log_file) as log:
        with pytest.raises(ValueError, match=message):
            log.append(arguments.pop("kind"), **arguments)
        assert len(log) == 5


def test_only_a_retry_of_the_same_request_is_a_no_op(log_file, prediction_payload):
    with AuditLog.open(log_file) as log:
        same = {"subject": "case-2", "actor": "ward", "payload": prediction_payload}
        assert log.append("prediction", **same, request_id="r-4") == log.get(4)
        assert len(log) == 5
        assert log.append("prediction", **same).sequence == 6
        assert log.append("prediction", **same, request_id="r-5").sequence == 7
        for change in ({"subject": "case-1"}, {"actor": "x"}, {"payload": {"label": "normal"}}):
            with pytest.raises(
                RequestConflictError, match=r"'r-4' .* record 4 has it with another"
            ):
                log.append("prediction", **(same | change), request_id="r-4")
        assert len(log) == 7


def test_records_are_selected_by_number_kind_and_subject(log_file):
    def numbers(**selection):
        return [record.sequence for record in log.records(**selection)]

    with AuditLog.open(log_file, read_only=True) as log:
        assert numbers() == [1, 2, 3, 4, 5]
        assert numbers(start=2, stop=4) == [2, 3]
        assert numbers(kind="case.opened") == [2, 3]
        assert numbers(subject="case-2", newest_first=True) == [5, 4, 3]
        assert numbers(kind="case.opened", subject="case-2") == [3]
        assert numbers(start=9) == []


def test_pages_join_without_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["audit.store"], "_PAGE", 3)
    with AuditLog.create(tmp_path / "log.db") as log:
        for _ in range(7):
            note(log)
        forward = [r.sequence for r in log.records()]
        backward = [r.sequence for r in log.records(stop=7, newest_first=True)]
    assert forward == [1, 2, 3, 4, 5, 6, 7]
    assert backward == [6, 5, 4, 3, 2, 1]


def test_reading_an_altered_record_is_an_error(log_file, tamper):
    with tamper(log_file) as connection:
        connection.execute("UPDATE records SET actor = 'someone' WHERE sequence = 3")
    with AuditLog.open(log_file) as log:
        assert log.get(2).actor == "reader"
        with pytest.raises(VerificationError, match="record 3: column actor is 'someone'"):
            log.get(3)
        with pytest.raises(VerificationError, match="record 3"):
            list(log.records())


def test_nothing_is_appended_after_a_damaged_record(log_file, tamper):
    with tamper(log_file) as connection:
        connection.execute("UPDATE records SET body = x'7b7d' WHERE sequence = 5")
    with AuditLog.open(log_file) as log:
        with pytest.raises(VerificationError, match="record 5: body, previous and digest"):
            note(log)
        assert len(log) == 5


def test_get_of_no_record(log_file):
    with (
        AuditLog.open(log_file) as log,
        pytest.raises(AuditError, match=r"no record 6.* 5 records"),
    ):
        log.get(6)


def test_a_closed_log_says_so(log_file):
    log = AuditLog.open(log_file)
    assert repr(log).endswith("open)")
    log.close()
    log.close()
    assert repr(log).endswith("closed)")
    with pytest.raises(AuditError, match="the log is closed"):
        log.head()


def test_a_read_only_log_takes_no_record(log_file):
    before = log_file.read_bytes()
    with AuditLog.open(log_file, read_only=True) as log:
        with pytest.raises(AuditError, match=r"cannot write to the log .*readonly"):
            note(log)
        assert log.get(5).kind == "review.decision"
    assert log_file.read_bytes() == before
    assert [p.name for p in log_file.parent.iterdir()] == ["log.db"]


def test_a_read_only_log_sees_what_a_writer_appends_later(log_file):
    with AuditLog.open(log_file, read_only=True) as reader:
        assert len(reader) == 5
        with AuditLog.open(log_file) as writer:
            note(writer)
            assert len(reader) == 6
        assert len(reader) == 6


def test_a_log_locked_for_too_long_is_a_clear_error(log_file, monkeypatch):
    monkeypatch.setattr(sqlite_module, "_LOCK_TIMEOUT_S", 0.05)
    with AuditLog.open(log_file) as log, closing(sqlite3.connect(log_file)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditError, match="another process holds its write lock"):
            note(log)
        other.rollback()
        assert note(log).sequence == 6


def test_a_log_does_not_survive_a_fork(log_file, monkeypatch):
    with AuditLog.open(log_file) as log:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(AuditError, match=r"opened by another process.*AuditLog\.open"):
            log.head()
        monkeypatch.undo()
        assert len(log) == 5


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET actor = 'b'",
        "UPDATE OR REPLACE records SET sequence = 2 WHERE sequence = 1",
        "DELETE FROM records WHERE sequence = 5",
        "INSERT OR REPLACE INTO records SELECT * FROM records WHERE sequence = 3",
        # Free numbers, but not the next; then the next number on a wrong link or with a used id.
        "INSERT INTO records SELECT 7, kind, subject, actor, recorded_at, NULL, body, digest,"
        " digest FROM records WHERE sequence = 5",
        "INSERT INTO records SELECT 6, kind, subject, actor, recorded_at, NULL, body, previous,"
        " digest FROM records WHERE sequence = 5",
        "INSERT OR REPLACE INTO records SELECT 6, kind, subject, actor, recorded_at, 'r-4', body,"
        " digest, digest FROM records WHERE sequence = 5",
        "UPDATE log_meta SET log_id = 'x'",
        "DELETE FROM log_meta",
        "INSERT OR REPLACE INTO log_meta SELECT * FROM log_meta",
    ],
)
def test_the_database_refuses_what_does_not_append(log_file, statement):
    with closing(sqlite3.connect(log_file)) as connection:
        before = list(connection.iterdump())
        with pytest.raises(sqlite3.IntegrityError, match=r"append-only|only the next record"):
            connection.execute(statement)
        assert list(connection.iterdump()) == before


def test_a_clock_that_goes_back_does_not_disturb_the_order(tmp_path, clock):
    with AuditLog.create(tmp_path / "log.db", clock=clock) as log:
        first = note(log)
        clock.now = clock.now.replace(year=2020)
        second = note(log)
    assert second.recorded_at < first.recorded_at
    assert second.sequence == 2
    assert verify(tmp_path / "log.db").ok


def test_threads_append_through_one_log(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log:
        threads = [
            threading.Thread(target=lambda: [note(log) for _ in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(log) == 40
    assert verify(tmp_path / "log.db").ok


APPENDER = """
import sys
from audit import AuditLog
with AuditLog.open(sys.argv[1]) as log:
    i = 0
    while i != int(sys.argv[3]):
        payload = {"i": i, "from": sys.argv[2]}
        record = log.append("note", subject="s", actor=sys.argv[2], payload=payload)
        print(record.sequence, record.digest, flush=True)
        i += 1
"""


def appender(path, name, count):
    command = [sys.executable, "-c", APPENDER, str(path), name, str(count)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def test_four_processes_append_to_one_log(tmp_path):
    path = tmp_path / "log.db"
    AuditLog.create(path).close()
    processes = [appender(path, f"process-{i}", 25) for i in range(4)]
    said = dict(line.split() for p in processes for line in p.communicate()[0].splitlines())
    assert all(p.returncode == 0 for p in processes)
    with AuditLog.open(path) as log:
        assert {str(r.sequence): r.digest for r in log.records()} == said
        for i in range(4):
            own = [r.payload["i"] for r in log.records() if r.actor == f"process-{i}"]
            assert own == list(range(25))
    assert verify(path).ok


def test_no_acknowledged_record_is_lost_by_kill_9(tmp_path):
    path = tmp_path / "log.db"
    AuditLog.create(path).close()
    said = {}
    for round_ in range(3):
        process = appender(path, f"round-{round_}", -1)
        for _ in range(20):
            number, digest = process.stdout.readline().split()
            said[int(number)] = digest
        process.kill()
        rest, _ = process.communicate()
        # The last line may be half a line; a whole one is an acknowledgement.
        said |= {int(n): d for n, d in (x.split() for x in rest.splitlines() if len(x) > 70)}
        # Nobody has cleaned up: verification reads beside the leftover -wal and changes nothing.
        leftovers = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".db-shm"}
        report = verify(path)
        assert report.ok
        assert report.records >= max(said)
        assert leftovers == {
            p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".db-shm"
        }
    with AuditLog.open(path) as log:
        found = {r.sequence: r.digest for r in log.records()}
    assert said.items() <= found.items()
