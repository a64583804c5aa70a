"""A second verifier, written from docs/audit.md alone. Usage: python second_verifier.py LOG.db

Prints "ok", the number of records and the head, or "bad" and the number of the first bad record;
exit status 0 or 1. Only Python's own library is used.
"""

import hashlib
import json
import sqlite3
import sys
from pathlib import Path

COLUMNS = "sequence, kind, subject, actor, recorded_at, request_id"


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(prefix, *parts):
    return "sha256:" + hashlib.sha256(prefix + b"".join(parts)).hexdigest()


def main(path):
    log = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    query = "SELECT log_id, schema_version, created_at, domain FROM log_meta"
    meta = dict(zip(("log", "schema", "created_at", "domain"), log.execute(query).fetchone()))
    head, number = sha256(b"\x03", canonical(meta)), 0
    query = f"SELECT body, previous, digest, {COLUMNS} FROM records ORDER BY sequence"
    for body, previous, digest, *columns in log.execute(query):
        number += 1
        said = json.loads(body)
        expected = [said[name.strip()] for name in COLUMNS.split(",")]
        good = (
            columns == expected
            and columns[0] == number
            and said["log"] == meta["log"]
            and previous == head
            and digest == sha256(b"\x02", bytes.fromhex(head[7:]), body)
        )
        if not good:
            print(f"bad {number}")
            return 1
        head = digest
    log.close()
    print(f"ok {number} {head}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
