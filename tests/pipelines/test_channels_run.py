"""A training on two channels, of which the second alone shows the finding."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from audit import AuditLog, verify
from medproto.data import Cohort, split_cohort
from medproto.errors import ImageReadError
from pipelines.case_report import write_case
from pipelines.cases import explain_case, rebuild_case
from pipelines.cli import app
from pipelines.config import load_config
from pipelines.evaluate import evaluate_run
from pipelines.predict import predict_recorded
from pipelines.train import train

SETTINGS = (
    "data.channels=[image_path_late]",
    "data.image_size=32",
    "model.stage=2",
    "model.prototypes_per_class=2",
    "training.features_epochs=3",
    "training.joint_epochs=2",
    "training.batch_size=8",
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("channels")
    random = np.random.default_rng(0)
    rows = []
    for patient in range(32):
        label = ("normal", "blob")[patient % 2]
        for phase in ("early", "late"):
            pixels = random.uniform(0.2, 0.4, (32, 32))
            if (phase, label) == ("late", "blob"):
                row, column = random.integers(6, 18, 2)
                pixels[row : row + 8, column : column + 8] += 0.5
            Image.fromarray((255 * pixels).astype(np.uint8)).save(root / f"{patient}_{phase}.png")
        rows.append((f"{patient}_early.png", f"{patient}_late.png", label, f"P{patient:02d}"))
    columns = ["image", "image_path_late", "label", "patient_id"]
    return split_cohort(Cohort(pd.DataFrame(rows, columns=columns), root), folds=None, seed=0)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("channels_run") / "run"
    return train(cohort, out, load_config(None, list(SETTINGS)))


def test_the_second_channel_is_learned_from(run):
    assert run.network.arguments["in_channels"] == 2
    assert run.metrics["auroc"]["value"] > 0.9


def test_a_recorded_case_is_rebuilt_and_has_its_page(run, tmp_path):
    row = int(run.cohort.table.index[run.cohort.table["split"] == "test"][0])
    source = run.cohort.image_source(row)
    with AuditLog.create(str(tmp_path / "log.db")) as log:
        recorded = predict_recorded(run, source, log, actor="reader")
    assert verify(str(tmp_path / "log.db")).ok
    digests = run.cohort.table["pixel_digest"].tolist()
    assert recorded.payload["image"]["pixel_digest"] == digests[row]
    assert rebuild_case(run.path, recorded.payload, row).largest_difference < 1e-5
    assert "data:image/png" in write_case(run, source, tmp_path, recorded=recorded).read_text()


def test_a_cohort_is_evaluated_without_saying_the_channels_again(run, cohort):
    summary = evaluate_run(run, cohort=Cohort(cohort.table, cohort.root)).summary
    assert summary["n"] == 32
    assert sum(summary["known_images"].values()) == 32


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line_takes_further_channels(run, tmp_path):
    early, late = run.cohort.image_source(0).sources
    log = tmp_path / "log.db"
    AuditLog.create(str(log)).close()
    result = command("predict", run.path, early, "--channel", late, "--audit", log, "--json")
    assert result.exit_code == 0, result.output
    expected = run.cohort.table["pixel_digest"].iloc[0]
    with AuditLog.open(str(log), read_only=True) as store:
        assert store.get(1).subject == expected
    page = command("explain", run.path, early, "--channel", late, "--out", tmp_path / "pages")
    assert page.exit_code == 0, page.output
    refused = command("predict", run.path, early, late, "--channel", late, "--audit", log)
    assert refused.exit_code == 2
    assert "--channel goes with one image" in refused.output


def test_a_row_without_a_channel_costs_one_row(run, tmp_path):
    table = run.cohort.table[["image", "image_path_late", "label"]].iloc[:3].copy()
    for name in ("image", "image_path_late"):
        table[name] = [str(run.cohort.root / cell) for cell in table[name]]
    table.iloc[1, 1] = ""
    table.to_csv(tmp_path / "new.csv", index=False)
    log = tmp_path / "log.db"
    AuditLog.create(str(log)).close()
    result = command(
        "predict", run.path, "--cohort", tmp_path / "new.csv", "--audit", log, "--json"
    )
    assert result.exit_code == 1
    assert "row 1: row 1 must name an image in the column 'image_path_late'" in result.stderr
    assert len(json.loads(result.stdout)) == 2
    assert verify(str(log)).records == 2


def test_one_image_alone_is_refused(run):
    message = r"takes 2 images of a subject as channels \(image, image_path_late\), got 1"
    with pytest.raises(ImageReadError, match=message):
        explain_case(run, run.cohort.image_path(0))
