"""A run folder and a log with three recorded predictions, built by hand from records."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from audit import AuditLog
from medproto.networks import ModelCard
from medproto.records import (
    BoxFaithfulness,
    Explanation,
    ImageReference,
    PixelBox,
    Prediction,
    PrototypeEvidence,
    PrototypeSource,
)
from pipelines.events import prediction_payload
from pipelines.raster import array_to_png, cut
from pipelines.runs import sources_to_table

CLASSES = ("normal", "nodule")
MODEL = "sha256:" + "cd" * 32
# similarity, weights (normal, nodule), class; the bias is (0.5, -0.5).
PROTOTYPES = (
    (8.0, (-0.5, 0.75), 1),
    (4.0, (0.5, -0.75), 0),
    (2.0, (-0.25, 0.5), 1),
    (1.0, (0.25, -0.125), 0),
    (1.0, (-0.5, 0.25), 1),
    (0.5, (0.0, 0.25), 0),
    (0.25, (0.0, -1.0), 1),
)
# nodule: 6 - 3 + 1 - 0.125 + 0.25 + 0.125 - 0.25 - 0.5 = 3.5


def chest(rows=256, cols=224, seed=0):
    """Two dark lungs on a gray body with a bright disc and some noise; in [0, 1]."""
    y, x = np.mgrid[:rows, :cols] / np.array([rows, cols])[:, None, None]
    out = 0.62 + 0.12 * y + 0.02 * np.random.default_rng(seed).standard_normal((rows, cols))
    for center in (0.3, 0.7):
        inside = 1 - ((x - center) / 0.17) ** 2 - ((y - 0.45) / 0.33) ** 2
        out -= 0.21 * (1 + np.tanh(8 * inside))
    out += 0.2 * np.exp(-((x - 0.68) ** 2 + (y - 0.36) ** 2) / 0.0012)
    return np.clip(out, 0, 1).astype(np.float32)


def heat(center=(0.36, 0.68), rows=256, cols=224):
    y, x = np.mgrid[:rows, :cols] / np.array([rows, cols])[:, None, None]
    return np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / 0.01).astype(np.float32)


def sources():
    return tuple(
        PrototypeSource(
            prototype=p,
            class_index=k,
            class_name=CLASSES[k],
            row=p,
            group=f"G{p}",
            pixel_digest=f"sha256:{p:064x}",
            cell=(p, 3),
            box=PixelBox((60 + 4 * p, 120), (120 + 4 * p, 185)),
            distance=0.25,
            similarity=9.2103,
        )
        for p, (_, _, k) in enumerate(PROTOTYPES)
    )


def explanation(pixel_digest):
    evidence = tuple(
        PrototypeEvidence(
            prototype=p,
            class_index=k,
            class_name=CLASSES[k],
            similarity=similarity,
            weights=weights,
            contributions=tuple(w * similarity for w in weights),
            cell=(4, 7),
            box=PixelBox((66 + 2 * p, 126), (118 + 2 * p, 178)),
            box_mm=None,
            source=sources()[p],
            faithfulness=BoxFaithfulness(8.0, 6.0, 2.0) if p == 0 else None,
        )
        for p, (similarity, weights, k) in enumerate(PROTOTYPES)
    )
    bias = (0.5, -0.5)
    logits = tuple(b + sum(e.contributions[k] for e in evidence) for k, b in enumerate(bias))
    odds = np.exp(logits) / np.exp(logits).sum()
    reference = ImageReference(
        pixel_digest, (256, 224), "DX", 12, voi="window", window=(2048.0, 4096.0), synthetic=True
    )
    prediction = Prediction(reference, CLASSES, logits, tuple(odds.tolist()), MODEL)
    return Explanation(prediction, evidence, bias, 2e-7)


def figure(value):
    return {"value": value, "low": round(value - 0.05, 3), "high": round(value + 0.05, 3)}


@pytest.fixture
def run_folder(tmp_path):
    """Finished as far as the dashboard sees; its network is not there."""
    folder = tmp_path / "run"
    (folder / "prototypes").mkdir(parents=True)
    card = {"classes": CLASSES, "model_digest": MODEL, "synthetic": True}
    card["architecture"] = {"stage": 5}
    (folder / "model.json").write_text(json.dumps(card))
    rows = range(10)
    pd.DataFrame(
        {
            "image": [f"{row}.dcm" for row in rows],
            "label": [CLASSES[row % 2] for row in rows],
            "pixel_digest": [f"sha256:{row:064x}" for row in rows],
        }
    ).to_csv(folder / "cohort.csv", index=False)
    sources_to_table(sources()).to_parquet(folder / "prototypes.parquet")
    for source in sources():
        whole = chest(seed=source.prototype)
        name = folder / "prototypes" / f"p{source.prototype:03d}"
        name.with_suffix(".png").write_bytes(array_to_png(cut(whole, source.box)))
        name.with_name(name.name + "_source.png").write_bytes(array_to_png(whole))
    place = {"pointing_game": figure(0.8), "constant_location": figure(0.25)}
    metrics = {"n": 60, "groups": 31, "auroc": figure(0.93), "ece": None, "localization": place}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    arrays = {"image": chest(), "heat": heat(), "grad_cam": heat((0.42, 0.6))}
    np.savez(folder / "rebuilt.npz", **arrays)
    return folder


@pytest.fixture
def log_path(tmp_path):
    """Records: 1 a note, 2 to 4 predictions (the last of an image outside the cohort), 5 of
    another model."""
    path = tmp_path / "audit.db"
    card = ModelCard(classes=CLASSES, preprocessing={"mode": "letterbox"}, synthetic=True)
    with AuditLog.create(str(path)) as log:
        log.append("note", subject="log", actor="tester", payload={"text": "begin"})
        for digest in (f"sha256:{7:064x}", f"sha256:{8:064x}", "sha256:" + "f" * 64):
            payload = prediction_payload(explanation(digest), card)
            log.append("prediction", subject=digest, actor="tester", payload=payload)
        other = explanation("sha256:" + "e" * 64)
        other = replace(other, prediction=replace(other.prediction, model_digest="sha256:00"))
        payload = prediction_payload(other, card)
        log.append("prediction", subject="sha256:" + "e" * 64, actor="tester", payload=payload)
    return path


FINDING_ROWS = {"nodule": ["1", "0", "-1"], "effusion": ["1", "0", "1.0"], "edema": ["0", "0", ""]}


@pytest.fixture
def head_case(tmp_path, explain_head):
    """Make the folder and the log of a model of a head; one record of image 0 for each logits."""

    def make(head, *outcomes):
        folder, log = tmp_path / f"{head}_run", tmp_path / f"{head}.db"
        (folder / "prototypes").mkdir(parents=True)
        explanations = [
            explain_head(head, logits, image=chest(96, 80), digest=f"sha256:{0:064x}")
            for logits in outcomes
        ]
        prediction = explanations[0].prediction
        own = tuple(item.source for item in explanations[0].evidence)
        card = {"classes": prediction.classes, "model_digest": prediction.model_digest}
        card |= {"synthetic": True, "architecture": {"stage": 3, "head": head}}
        (folder / "model.json").write_text(json.dumps(card))
        table = {"image": ["0.dcm", "1.dcm", "2.dcm"]}
        table["pixel_digest"] = [f"sha256:{row:064x}" for row in range(3)]
        labels = {"label": [prediction.classes[1], prediction.classes[0], ""]}
        table |= FINDING_ROWS if head == "multilabel" else labels
        pd.DataFrame(table).to_csv(folder / "cohort.csv", index=False)
        sources_to_table(own).to_parquet(folder / "prototypes.parquet")
        for source in own:
            whole = chest(96, 80, seed=source.prototype)
            name = folder / "prototypes" / f"p{source.prototype:03d}"
            name.with_suffix(".png").write_bytes(array_to_png(cut(whole, source.box)))
            name.with_name(name.name + "_source.png").write_bytes(array_to_png(whole))
        maps = {"heat": heat(rows=96, cols=80), "grad_cam": heat((0.42, 0.6), rows=96, cols=80)}
        np.savez(folder / "rebuilt.npz", image=chest(96, 80), **maps)
        model = ModelCard(classes=prediction.classes, preprocessing={})
        with AuditLog.create(str(log)) as written:
            for explained in explanations:
                payload = prediction_payload(explained, model)
                digest = payload["image"]["pixel_digest"]
                written.append("prediction", subject=digest, actor="tester", payload=payload)
        return folder, log

    return make


@pytest.fixture
def damage(log_path):
    """Alter one byte of a record's body past the triggers, as somebody with the file could."""
    import sqlite3

    def alter(sequence):
        connection = sqlite3.connect(log_path)
        names = [
            (name, text)
            for name, text in connection.execute(
                "select name, sql from sqlite_master where type = 'trigger'"
            )
        ]
        for name, _ in names:
            connection.execute(f'drop trigger "{name}"')
        (body,) = connection.execute(
            "select body from records where sequence = ?", (sequence,)
        ).fetchone()
        changed = body.replace(b"tester", b"tesxer")
        connection.execute("update records set body = ? where sequence = ?", (changed, sequence))
        for _, text in names:
            connection.execute(text)
        connection.commit()
        connection.close()

    return alter
