"""Whole runs of what the configuration offers beside the defaults, on a small cohort."""

import numpy as np
import pytest
from PIL import Image

from audit import AuditLog
from pipelines.case_report import write_case
from pipelines.config import ConfigError, load_config
from pipelines.evaluate import evaluate_run
from pipelines.predict import predict_recorded
from pipelines.train import train

RUNS = {
    "binary, bfloat16": ("model.head=binary", "model.stage=2", "training.precision=bfloat16"),
    "patches of two by two cells, focal": (
        "model.prototype_size=2",
        "model.similarity=focal",
        "model.stage=2",
        "training.orthogonality=0.01",
    ),
    "another backbone, bottleneck, log": (
        "model.backbone=resnet18",
        "model.weights=null",
        "model.stage=1",
        "model.add_on=bottleneck",
        "model.prototype_channels=16",
        "model.similarity=log",
        "model.top_k=3",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_from_training_to_record_and_page(
    name, tiny_cohort, tiny_settings, blob_image, tmp_path
):
    config = load_config(None, [*tiny_settings, *RUNS[name]])
    run = train(tiny_cohort, tmp_path / "run", config)
    with AuditLog.create(f"sqlite:///{tmp_path / 'log.db'}") as log:
        payload = predict_recorded(run, blob_image, log, actor="tester").payload
    logits = np.array(payload["logits"])
    sums = np.array(payload["bias"])
    for evidence in payload["evidence"]:
        products = evidence["similarity"] * np.array(evidence["weights"])
        np.testing.assert_allclose(products, evidence["contributions"], rtol=1e-12)
        sums = sums + products
    np.testing.assert_allclose(sums, logits, atol=1e-4)
    assert payload["completeness_error"] < 1e-4
    assert run.metrics["auroc"] == evaluate_run(run).summary["auroc"]
    assert "Recorded" not in write_case(run, blob_image, tmp_path / "page").read_text()
    if name.startswith("binary"):
        assert payload["head"] == "binary"
        assert logits[0] == 0.0
        assert {e["class"] for e in payload["evidence"]} == {"blob"}
        assert all(e["weights"][0] == 0.0 <= e["weights"][1] for e in payload["evidence"])


def test_a_run_that_crops_explains_in_stored_pixels(
    tiny_cohort, tiny_settings, blob_image, tmp_path
):
    ways = ["data.crop=body", "data.blacken_outside=true", "data.voi=percentile", "model.stage=2"]
    run = train(tiny_cohort, tmp_path / "run", load_config(None, [*tiny_settings, *ways]))
    gray = np.asarray(Image.open(blob_image).convert("L"))
    framed = np.zeros((100, 120), np.uint8)
    framed[10:74, 50:114] = np.maximum(gray, 20)
    framed[80:90, 2:12] = 255  # a letter beside the patient
    Image.fromarray(framed).save(tmp_path / "framed.png")
    with AuditLog.create(f"sqlite:///{tmp_path / 'log.db'}") as log:
        payload = predict_recorded(run, tmp_path / "framed.png", log, actor="tester").payload
    assert payload["preprocessing"]["crop"] == "body"
    assert payload["image"]["voi"] == "percentile"
    # No piece of evidence reaches the letter, which the crop left out.
    for evidence in payload["evidence"]:
        top, left, bottom, right = evidence["box_px"]
        assert 0 <= top < bottom <= 76
        assert 48 <= left < right <= 120
    assert write_case(run, tmp_path / "framed.png", tmp_path / "page").is_file()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.backbone=alexnet", "backbone must be one of .*efficientnet_lite0"),
        ("model.backbone=resnet18", "package"),
        (
            "model.backbone=os:system model.weights=null model.stage=null",
            "MEDPROTO_TRUSTED_BACKBONES",
        ),
        ("model.prototype_size=99", "prototype_size must be 2 values from 1 to"),
        ("model.prototypes_per_class=[1,2,3]", "2 counts, one a class"),
    ],
)
def test_settings_that_do_not_fit_leave_nothing_behind(
    setting, message, tiny_cohort, tiny_settings, tmp_path
):
    settings = [s for s in tiny_settings if not s.startswith("model.prototypes_per_class")]
    with pytest.raises(ConfigError, match=message):
        train(tiny_cohort, tmp_path / "run", load_config(None, [*settings, *setting.split()]))
    assert not (tmp_path / "run").exists()
