"""Small logs, and the means to tamper with them as somebody with the file would."""

import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from audit import AuditLog


class Clock:
    """Advances by one second at each reading, from a fixed moment."""

    def __init__(self):
        self.now = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@contextmanager
def tampering(path):
    """Yield a connection without triggers; put the triggers back at the end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = found.fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, sql in triggers:
            connection.execute(sql)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tamper():
    return tampering


@pytest.fixture
def log_file(tmp_path, clock):
    """A closed log of five records, the fourth a prediction."""
    path = tmp_path / "log.db"
    with AuditLog.create(path, clock=clock) as log:
        log.append("model.registered", subject="model-1", actor="engineer", payload={"auroc": 0.97})
        log.append("case.opened", subject="case-1", actor="reader", payload={})
        log.append("case.opened", subject="case-2", actor="reader", payload={"n": [1, 2.5, None]})
        payload = prediction()
        log.append("prediction", subject="case-2", actor="ward", payload=payload, request_id="r-4")
        log.append("review.decision", subject="case-2", actor="reader", payload={"agree": True})
    return path


@pytest.fixture
def prediction_payload():
    return prediction()


def prediction():
    """Two classes, two prototypes; for the second class 2 x 1.5 - 4 x 0.5 + 0.25 = 1.25."""
    source = {"row": 7, "group": "p-3", "pixel_digest": "sha256:00", "box_px": [0, 0, 8, 8]}
    return {
        "label": "nodule",
        "classes": ["normal", "nodule"],
        "probabilities": [0.25, 0.75],
        "calibrated": False,
        "logits": [0.75, 1.25],
        "bias": [-0.25, 0.25],
        "evidence": [
            {
                "prototype": 0,
                "class": "normal",
                "similarity": 4.0,
                "weights": [0.5, -0.5],
                "contributions": [2.0, -2.0],
                "box_px": [16, 32, 64, 96],
                "source": source,
            },
            {
                "prototype": 1,
                "class": "nodule",
                "similarity": 2.0,
                "weights": [-0.5, 1.5],
                "contributions": [-1.0, 3.0],
                "box_px": [8, 8, 24, 24],
                "source": source,
            },
        ],
        "model_digest": "sha256:11",
        "image": {"shape": [512, 512], "window": None},
    }
