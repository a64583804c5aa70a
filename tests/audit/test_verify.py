import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from audit import (
    AuditLog,
    LogHead,
    LogLocationError,
    Problem,
    VerificationError,
    VerificationReport,
    verify,
)
from audit.chain import record_digest

VERIFY = sys.modules["audit.verify"]
SECOND = Path(__file__).with_name("second_verifier.py")


def second_opinion(path):
    command = [sys.executable, str(SECOND), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout.strip()


def rewrite(connection, number, payload):
    """Change a record's body and give it the digest that fits, as a forger would."""
    query = "SELECT body, previous FROM records WHERE sequence = ?"
    body, previous = connection.execute(query, (number,)).fetchone()
    body = json.dumps(
        json.loads(body) | {"payload": payload}, sort_keys=True, separators=(",", ":")
    ).encode()
    digest = record_digest(previous, body)
    connection.execute(
        "UPDATE records SET body = ?, digest = ? WHERE sequence = ?", (body, digest, number)
    )
    return digest


def test_an_untouched_log_is_good_and_stays_as_it_is(log_file):
    before = log_file.read_bytes()
    with AuditLog.open(log_file, read_only=True) as log:
        log_id, head = log.meta.log_id, log.head()
    report = verify(f"sqlite:///{log_file}")
    assert report == VerificationReport(True, 5, head.digest, None, (), log_id)
    assert verify(log_file, expected=head).ok
    assert log_file.read_bytes() == before
    assert [p.name for p in log_file.parent.iterdir()] == ["log.db"]


def test_a_second_verifier_agrees(log_file, tamper):
    report = verify(log_file)
    assert second_opinion(log_file) == (0, f"ok 5 {report.head}")
    with tamper(log_file) as connection:
        connection.execute(
            "UPDATE records SET body = CAST(replace(body, 'case-2', 'case-3') AS BLOB)"
        )
    assert verify(log_file).first_bad == 3
    assert second_opinion(log_file) == (1, "bad 3")


def test_the_second_verifier_is_short_and_independent():
    source = SECOND.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 60
    assert "import audit" not in source
    assert "medproto" not in source.replace("docs/audit.md", "")


def test_an_empty_log_is_good(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log:
        genesis = log.meta.genesis
    report = verify(tmp_path / "log.db", expected=LogHead(0, genesis))
    assert (report.ok, report.records, report.head) == (True, 0, genesis)
    assert second_opinion(tmp_path / "log.db") == (0, f"ok 0 {genesis}")


def test_a_log_in_use_is_verified_beside_its_writer(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log:
        log.append("note", subject="s", actor="a", payload={})
        assert verify(log.path).records == 1  # the record is in the -wal file still


@pytest.mark.parametrize(
    ("change", "first_bad", "reason"),
    [
        ("UPDATE records SET kind = 'x' WHERE sequence = 2", 2, "column kind is 'x'"),
        ("UPDATE records SET subject = 'x' WHERE sequence = 1", 1, "column subject is 'x'"),
        ("UPDATE records SET actor = 'x' WHERE sequence = 5", 5, "column actor is 'x'"),
        ("UPDATE records SET recorded_at = 'x' WHERE sequence = 3", 3, "column recorded_at"),
        ("UPDATE records SET request_id = NULL WHERE sequence = 4", 4, "column request_id is None"),
        ("UPDATE records SET request_id = 'r' WHERE sequence = 3", 3, "column request_id is 'r'"),
        ("UPDATE records SET body = x'00' WHERE sequence = 3", 3, "do not belong together"),
        ("UPDATE records SET digest = previous WHERE sequence = 3", 3, "do not belong together"),
        ("UPDATE records SET previous = digest WHERE sequence = 3", 3, "do not belong together"),
        ("DELETE FROM records WHERE sequence = 3", 3, "missing"),
        ("DELETE FROM records WHERE sequence <= 2", 1, "missing, with all up to record 2"),
        ("UPDATE records SET sequence = sequence + 10", 1, "missing, with all up to record 10"),
        ("UPDATE records SET sequence = 9 WHERE sequence = 5", 5, "missing"),
        ("UPDATE records SET sequence = 0 WHERE sequence = 1", 0, "out of order or twice"),
        (
            "INSERT INTO records SELECT 6, kind, subject, actor, recorded_at, NULL, body, previous,"
            " digest FROM records WHERE sequence = 5",
            6,
            "column sequence is 6, its body says 5",
        ),
    ],
)
def test_a_changed_table_names_the_first_bad_record(log_file, tamper, change, first_bad, reason):
    with tamper(log_file) as connection:
        connection.execute(change)
    report = verify(log_file)
    assert not report.ok
    assert report.head is None
    assert report.first_bad == first_bad
    assert reason in report.problems[0].reason
    assert report.problems[0].sequence == first_bad


@pytest.mark.parametrize("column", ["body", "digest", "previous"])
def test_one_damaged_record_is_one_problem(log_file, tamper, column):
    with tamper(log_file) as connection:
        value = connection.execute(f"SELECT {column} FROM records WHERE sequence = 3").fetchone()[0]
        damaged = value[:-1] + (b"?" if column == "body" else "?")
        connection.execute(f"UPDATE records SET {column} = ? WHERE sequence = 3", (damaged,))
    report = verify(log_file)
    assert [p.sequence for p in report.problems] == [3]
    assert report.records == 5


def test_two_records_exchanged(log_file, tamper):
    with tamper(log_file) as connection:
        for old, new in ((2, -1), (3, 2), (-1, 3)):
            connection.execute("UPDATE records SET sequence = ? WHERE sequence = ?", (new, old))
    report = verify(log_file)
    assert {p.sequence for p in report.problems} == {2, 3, 4}  # 4 followed the true 3
    assert second_opinion(log_file) == (1, "bad 2")


def test_a_forged_record_with_a_fitting_digest_breaks_the_next_link(log_file, tamper):
    with tamper(log_file) as connection:
        rewrite(connection, 3, {"n": [1, 2.5, "forged"]})
    assert verify(log_file).problems == (
        Problem(4, "does not follow the record before it: previous is another digest"),
    )
    assert second_opinion(log_file) == (1, "bad 4")


def test_a_chain_alone_does_not_show_a_cut_tail_but_a_noted_head_does(log_file, tamper):
    noted = LogHead(5, verify(log_file).head)
    with tamper(log_file) as connection:
        connection.execute("DELETE FROM records WHERE sequence > 3")
    assert verify(log_file).ok
    report = verify(log_file, expected=noted)
    assert report.problems == (Problem(4, "missing: 5 records were noted, the log has 3"),)


def test_a_rewritten_end_is_found_by_a_noted_head_only(log_file, tamper):
    noted = LogHead(5, verify(log_file).head)
    with tamper(log_file) as connection:
        forged = rewrite(connection, 5, {"agree": False})
    assert verify(log_file).head == forged
    report = verify(log_file, expected=noted)
    assert report.first_bad == 5
    assert "was rewritten, or the note is of another log" in report.problems[0].reason
    assert noted.digest in report.problems[0].reason


def test_a_log_that_has_grown_still_has_the_noted_head(log_file):
    noted = LogHead(5, verify(log_file).head)
    with AuditLog.open(log_file) as log:
        log.append("note", subject="s", actor="a", payload={})
    assert verify(log_file, expected=noted).records == 6


def test_a_noted_genesis_of_another_log(log_file):
    report = verify(log_file, expected=LogHead(0, "sha256:" + "0" * 64))
    assert [p.sequence for p in report.problems] == [None]


def test_a_record_of_another_log_is_found(tmp_path, log_file, tamper):
    # The other log's genesis is put in place of this one's, so that the chain itself fits.
    with AuditLog.create(tmp_path / "other.db") as other:
        other.append("note", subject="s", actor="a", payload={})
        row = other.get(1)
    with tamper(log_file) as connection:
        connection.execute("DELETE FROM records")
        body = json.loads(row.body)
        genesis = connection.execute("SELECT genesis FROM log_meta").fetchone()[0]
        values = [body[n] for n in ("kind", "subject", "actor", "recorded_at", "request_id")]
        digest = record_digest(genesis, row.body)
        connection.execute(
            "INSERT INTO records VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, row.body, genesis, digest),
        )
    report = verify(log_file)
    assert [p.sequence for p in report.problems] == [1]
    assert "belongs to another log" in report.problems[0].reason


def test_a_changed_description_is_noticed_even_without_records(tmp_path, log_file, tamper):
    AuditLog.create(tmp_path / "empty.db").close()
    for path, column in ((tmp_path / "empty.db", "log_id"), (log_file, "created_at")):
        with tamper(path) as connection:
            connection.execute(f"UPDATE log_meta SET {column} = 'x'")
        report = verify(path)
        assert report.problems == (
            Problem(None, "log_meta was altered: it does not give the genesis digest"),
        )
        assert report.first_bad is None


def test_a_description_changed_with_its_genesis_breaks_the_first_link(log_file, tamper):
    with tamper(log_file) as connection:
        connection.execute("UPDATE log_meta SET log_id = 'x'")
        row = connection.execute("SELECT created_at, domain FROM log_meta").fetchone()
        text = f'{{"created_at":"{row[0]}","domain":"{row[1]}","log":"x","schema":1}}'
        genesis = "sha256:" + hashlib.sha256(b"\x03" + text.encode()).hexdigest()
        connection.execute("UPDATE log_meta SET genesis = ?", (genesis,))
    report = verify(log_file)
    assert report.first_bad == 1
    assert {p.sequence for p in report.problems} == {1, 2, 3, 4, 5}  # all name the true log


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DROP TRIGGER records_no_update", "the trigger records_no_update is missing"),
        ("DROP INDEX records_kind", "the index records_kind is missing"),
        ("DROP TABLE checkpoints", "the table checkpoints is missing"),
        ("CREATE TABLE extra (x)", "the table extra does not belong to a log"),
        ("CREATE VIEW v AS SELECT 1", "the view v does not belong to a log"),
        ("ALTER TABLE checkpoints ADD COLUMN x", "the table checkpoints is not as created"),
        (
            "INSERT INTO checkpoints VALUES (1, 0, 'x', NULL, 'x', x'00')",
            "it has 1 checkpoints, which this version of medproto cannot verify",
        ),
    ],
)
def test_a_changed_schema_is_noticed(log_file, change, reason):
    with closing(sqlite3.connect(log_file, isolation_level=None)) as connection:
        connection.execute(change)
    report = verify(log_file)
    assert not report.ok
    assert Problem(None, reason) in report.problems


def test_a_trigger_with_another_text_is_noticed(log_file):
    with closing(sqlite3.connect(log_file, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER records_no_delete")
        connection.execute(
            "CREATE TRIGGER records_no_delete BEFORE DELETE ON records BEGIN SELECT 1; END"
        )
    report = verify(log_file)
    assert report.problems == (Problem(None, "the trigger records_no_delete is not as created"),)


def test_a_view_in_place_of_the_records_is_not_read(log_file):
    with closing(sqlite3.connect(log_file, isolation_level=None)) as connection:
        connection.execute("ALTER TABLE records RENAME TO hidden")
        connection.execute("CREATE VIEW records AS SELECT * FROM hidden")
    report = verify(log_file)
    assert not report.ok
    assert report.records == 0
    assert Problem(None, "the table records is missing") in report.problems


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no log at"),
        (b"", "not a medproto log"),
        (b"text " * 400, "cannot be read as a log: file is not a database"),
    ],
)
def test_what_is_no_log_is_a_verification_error(tmp_path, content, message):
    path = tmp_path / "log.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VerificationError, match=message):
        verify(path)


def test_a_newer_layout_and_a_foreign_url(log_file):
    with closing(sqlite3.connect(log_file)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(VerificationError, match="layout must be version 1, got 7"):
        verify(log_file)
    with pytest.raises(LogLocationError, match="PostgreSQL is not supported yet"):
        verify("postgresql://host/db")


def test_a_file_cut_short(log_file):
    data = log_file.read_bytes()
    for length in (50, 4096, len(data) // 2, len(data) - 4096):
        log_file.write_bytes(data[:length])
        assert_noticed(log_file)


def assert_noticed(path):
    try:
        report = verify(path)
    except VerificationError:
        return
    assert not report.ok


def test_a_walk_ends_after_a_hundred_problems(tmp_path, tamper):
    path = tmp_path / "log.db"
    with AuditLog.create(path) as log:
        for _ in range(104):
            log.append("note", subject="s", actor="a", payload={})
    with tamper(path) as connection:
        connection.execute("UPDATE records SET actor = 'b'")
    report = verify(path)
    assert (report.first_bad, report.records, len(report.problems)) == (1, 100, 101)
    assert report.problems[-1].reason == "too many problems; the rest was not read"


def test_a_log_that_a_writer_changes_meanwhile_is_read_again(log_file, monkeypatch):
    attempt, calls = VERIFY._attempt, []

    def changing(path, expected):
        calls.append(path)
        if len(calls) == 1:
            with AuditLog.open(path) as log:
                log.append("note", subject="s", actor="a", payload={})
            return VerificationError("a mixture of before and after")
        return attempt(path, expected)

    monkeypatch.setattr(VERIFY, "_attempt", changing)
    assert verify(log_file).records == 6
    assert len(calls) == 2


def logical_content(path):
    """Everything the log says: rows and schema, read by the plain driver."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        tables = [
            connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in ("log_meta", "records", "checkpoints")
        ]
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
        return [*tables, connection.execute(query).fetchall()]


def test_any_byte_changed_is_noticed_or_without_consequence(log_file, tmp_path):
    original = log_file.read_bytes()
    content = logical_content(log_file)
    with closing(sqlite3.connect(log_file)) as connection:
        body = connection.execute("SELECT body FROM records WHERE sequence = 3").fetchone()[0]
    start = original.index(body)
    generator = random.Random(20260301)
    inside = range(start, start + len(body))
    places = [*range(100), *inside, *(generator.randrange(len(original)) for _ in range(150))]
    path = tmp_path / "flipped.db"
    for place in places:
        flipped = bytearray(original)
        flipped[place] ^= generator.randrange(1, 256)
        path.write_bytes(flipped)
        try:
            report = verify(path)
        except VerificationError:
            assert place not in inside, f"byte {place}"
            continue
        if report.ok:
            assert place not in inside, f"byte {place}"
            assert logical_content(path) == content, f"byte {place}"
        elif place in inside:
            assert report.first_bad == 3, f"byte {place}"
            assert report.records == 5


def test_a_copy_works_without_the_files_beside_it(log_file, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(log_file, folder / "copy.db")
    (folder / "copy.db").chmod(0o444)
    folder.chmod(0o555)
    assert verify(folder / "copy.db").records == 5
    assert [p.name for p in folder.iterdir()] == ["copy.db"]
    folder.chmod(0o755)
