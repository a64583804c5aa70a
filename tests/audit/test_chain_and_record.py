import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from audit import AuditRecord, LogHead, VerificationError
from audit.chain import CHAIN_DOMAIN, check_digest, genesis_digest, record_digest
from audit.record import (
    LogMeta,
    StoredRow,
    check_kind,
    check_text,
    format_time,
    record_from_row,
)

META = LogMeta("log-1", 1, "2026-03-01T09:30:00.000000Z")
START = LogHead(0, META.genesis)
PARTS = {
    "kind": "case.opened",
    "subject": "case-1",
    "actor": "reader",
    "recorded_at": "2026-03-01T09:30:01.000000Z",
    "request_id": None,
    "payload": {"b": 1.0, "a": "\u00e9"},
}
BODY = (
    '{"actor":"reader","kind":"case.opened","log":"log-1","payload":{"a":"\u00e9","b":1},'
    '"recorded_at":"2026-03-01T09:30:01.000000Z","request_id":null,"schema":1,"sequence":1,'
    '"subject":"case-1"}'
).encode()


def row_of(record, **changes):
    values = {name: getattr(record, name) for name in StoredRow._fields}
    return StoredRow(**(values | changes))


def test_the_genesis_is_the_digest_of_the_description():
    text = (
        f'{{"created_at":"2026-03-01T09:30:00.000000Z","domain":"{CHAIN_DOMAIN}",'
        '"log":"log-1","schema":1}'
    )
    assert META.genesis == "sha256:" + hashlib.sha256(b"\x03" + text.encode()).hexdigest()


def test_a_digest_covers_prefix_previous_and_body():
    previous = "sha256:" + "0f" * 32
    expected = hashlib.sha256(b"\x02" + bytes([0x0F]) * 32 + b"body").hexdigest()
    assert record_digest(previous, b"body") == f"sha256:{expected}"


def test_chain_genesis_and_merkle_leaf_of_the_same_bytes_differ():
    data = bytes(32) + b"x"
    merkle_leaf = "sha256:" + hashlib.sha256(b"\x00" + data).hexdigest()
    chained = record_digest("sha256:" + "00" * 32, b"x")
    assert len({merkle_leaf, chained, genesis_digest(data)}) == 3


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 64, 3, None])
def test_what_is_not_a_digest_is_refused(text):
    with pytest.raises(ValueError, match="a digest must be 'sha256:' and 64"):
        check_digest(text)


def test_a_composed_record_has_the_documented_body():
    record = AuditRecord.compose(META, START, **PARTS)
    assert record.body == BODY
    assert record.sequence == 1
    assert record.previous == META.genesis
    assert record.digest == record_digest(META.genesis, BODY)
    assert record.payload == {"a": "\u00e9", "b": 1}
    assert record.to_json() == json.loads(BODY) | {
        "previous": record.previous,
        "digest": record.digest,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema version must be 1, got 2"),
        ({"schema": None}, "schema version must be 1, got None"),
        ({"schema": True}, r"wrong type: \['schema'\]"),
        ({"sequence": "1"}, r"wrong type: \['sequence'\]"),
        ({"payload": []}, r"wrong type: \['payload'\]"),
        ({"extra": 1}, r"unknown or of a wrong type: \['extra'\]"),
    ],
)
def test_a_body_of_another_form_is_refused(change, message):
    body = json.dumps(json.loads(BODY) | change, sort_keys=True, separators=(",", ":"))
    body = body.replace("\\u00e9", "\u00e9").encode()
    with pytest.raises(ValueError, match=message):
        AuditRecord.from_body(body, previous=META.genesis)


def test_a_body_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="schema version must be 1, got None"):
        AuditRecord.from_body(b"[]", previous=META.genesis)


def test_a_row_gives_its_record_back():
    record = AuditRecord.compose(META, START, **PARTS)
    assert record_from_row(row_of(record)) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"subject": None},
        {"actor": b"reader"},
        {"recorded_at": "2026-03-01T09:30:01.000001Z"},
        {"request_id": "r"},
        {"sequence": 2},
        {"sequence": "1"},
        {"previous": "sha256:" + "00" * 32},
        {"previous": 5},
        {"digest": None},
        {"body": BODY.decode()},
        {"body": BODY.replace(b"reader", b"Reader")},
    ],
    ids=str,
)
def test_a_row_that_disagrees_with_its_body_is_refused(changes):
    record = AuditRecord.compose(META, START, **PARTS)
    with pytest.raises(VerificationError, match=r"record (1|2|None): ") as caught:
        record_from_row(row_of(record, **changes))
    assert caught.value.sequence == {2: 2, "1": None}.get(changes.get("sequence"), 1)


def test_times_are_utc_with_microseconds():
    eastern = timezone(timedelta(hours=-5))
    moment = datetime(2026, 3, 1, 22, 30, 0, 5, tzinfo=eastern)
    assert format_time(moment) == "2026-03-02T03:30:00.000005Z"
    assert datetime.fromisoformat(format_time(moment)) == moment
    with pytest.raises(ValueError, match="aware datetime"):
        format_time(datetime(2026, 3, 1, tzinfo=UTC).replace(tzinfo=None))


@pytest.mark.parametrize("kind", ["prediction", "model.registered", "review.initial_read", "a1.b2"])
def test_kinds(kind):
    check_kind(kind)


@pytest.mark.parametrize("kind", ["", "Prediction", "a.", ".a", "a b", "1a", None, "a" * 600])
def test_what_is_not_a_kind_is_refused(kind):
    with pytest.raises(ValueError, match="kind must be lower-case words"):
        check_kind(kind)


@pytest.mark.parametrize("text", ["", "a\nb", "\x1b[31m", 7, None, "a" * 513])
def test_names_must_be_printable(text):
    with pytest.raises(ValueError, match="actor must be 1 to 512 printable characters"):
        check_text(text, "actor")


@pytest.mark.parametrize(("records", "digest"), [(-1, START.digest), (0, "x")])
def test_a_head_is_valid_once_built(records, digest):
    with pytest.raises(ValueError, match="must be"):
        LogHead(records, digest)
