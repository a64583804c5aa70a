"""Prediction: recorded before it is returned, or not returned at all."""

import json
import re

import pytest
from PIL import Image

from audit import AuditError, AuditLog, verify
from medproto.data import ImageFrame
from medproto.errors import ImageReadError, ModelFileError
from pipelines import cases
from pipelines.cases import explain_case, rebuild_case
from pipelines.events import prediction_payload
from pipelines.predict import predict_batch, predict_recorded
from pipelines.runs import RunFolder


@pytest.fixture
def log(tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log:
        yield log


@pytest.fixture
def recorded(tiny_run, blob_image, log):
    return predict_recorded(tiny_run, blob_image, log, actor="reader")


def test_the_record_is_in_the_log(recorded, log, tmp_path):
    record = log.get(1)
    assert record.digest == recorded.record.digest
    assert record.payload == json.loads(json.dumps(recorded.payload))
    assert (record.kind, record.actor) == ("prediction", "reader")
    assert record.subject == recorded.payload["image"]["pixel_digest"]
    assert recorded.milliseconds > 0
    assert verify(tmp_path / "log.db").ok


def test_contributions_and_bias_sum_to_the_logits(recorded, log, tiny_run):
    payload = log.get(1).payload
    assert len(payload["evidence"]) == 6
    for k, logit in enumerate(payload["logits"]):
        total = payload["bias"][k] + sum(e["contributions"][k] for e in payload["evidence"])
        assert total == pytest.approx(logit, abs=1e-4)
        for e in payload["evidence"]:
            product = e["similarity"] * e["weights"][k]
            assert e["contributions"][k] == pytest.approx(product, abs=1e-6)
    assert payload["label"] == payload["classes"][payload["logits"].index(max(payload["logits"]))]
    assert sum(payload["probabilities"]) == pytest.approx(1)
    assert payload["calibrated"] is tiny_run.doubt.calibrated
    assert (payload["abstained"] is None) is (payload["prediction_set"] is None)
    assert payload["out_of_distribution"] is None  # too few validation patients to say


def test_the_payload_names_no_path_and_no_file(recorded, blob_image, tiny_path):
    text = json.dumps(recorded.payload)
    for secret in (blob_image.name, blob_image.stem, str(blob_image.parent), str(tiny_path)):
        assert secret not in text
    for e in recorded.payload["evidence"]:
        top, left, bottom, right = e["box_px"]
        assert 0 <= top < bottom <= 64
        assert 0 <= left < right <= 64
        assert e["box_mm"] is None  # a PNG has no spacing
    measured = [e for e in recorded.payload["evidence"] if e["faithfulness"]]
    assert len(measured) == 5


def test_the_entry_of_json_leads_with_its_record(recorded):
    entry = recorded.to_json()
    assert list(entry)[:2] == ["record", "record_digest"]
    assert entry["record"] == 1
    assert entry["milliseconds"] == round(recorded.milliseconds, 1)


def test_an_interactive_request_always_appends(tiny_run, blob_image, log, recorded):
    again = predict_recorded(tiny_run, blob_image, log, actor="reader")
    assert again.record.sequence == 2
    assert again.payload == recorded.payload


class _FailingLog:
    def append(self, *arguments, **options):
        raise AuditError("the disk is full.")


def test_no_record_no_result(tiny_run, blob_image, log):
    log.close()
    for broken in (log, _FailingLog()):
        with pytest.raises(AuditError, match=r"closed|disk is full"):
            predict_recorded(tiny_run, blob_image, broken, actor="reader")


def test_a_bad_image_is_not_recorded(tiny_run, log, tmp_path):
    bad = tmp_path / "bad.dcm"
    bad.write_text("no image")
    with pytest.raises(ImageReadError, match="must be DICOM"):
        predict_recorded(tiny_run, bad, log, actor="reader")
    assert len(log) == 0


def batch(run, items, log, name="sha256:table"):
    return list(predict_batch(run, items, log, actor="reader", batch=name))


def test_a_batch_goes_on_past_a_bad_row_and_its_retry_adds_nothing(tiny_run, log, tmp_path):
    paths = [tiny_run.cohort.image_path(row) for row in range(3)]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    items = list(enumerate([paths[0], tmp_path / "bad.png", paths[1], paths[2]]))
    first = batch(tiny_run, items, log)
    assert [item.row for item in first] == [0, 1, 2, 3]
    assert [item.prediction is None for item in first] == [False, True, False, False]
    assert first[1].problem
    assert str(tmp_path) not in first[1].problem
    assert len(log) == 3

    second = batch(tiny_run, items, log)
    assert len(log) == 3
    for a, b in zip(first, second):
        assert (a.prediction is None) == (b.prediction is None)
        if a.prediction is not None:
            assert a.prediction.record.digest == b.prediction.record.digest
    batch(tiny_run, items[:1], log, name="sha256:another table")
    assert len(log) == 4


def test_an_unforeseen_error_of_the_preprocessing_is_one_bad_row(
    tiny_run, blob_image, log, monkeypatch
):
    whole, calls = cases.preprocessing, []

    def preprocessing(**steps):
        calls.append(steps)
        if len(calls) > 1:
            return whole(**steps)
        raise RuntimeError("applying transform of /home/jane") from ZeroDivisionError("Jane")

    monkeypatch.setattr(cases, "preprocessing", preprocessing)
    first, second = batch(tiny_run, [(0, blob_image), (1, blob_image)], log)
    assert first.prediction is None
    assert first.problem.startswith(
        "the image could not be prepared for the network (ZeroDivisionError)"
    )
    assert "jane" not in first.problem.lower()
    assert second.problem is None
    assert len(log) == 1


def test_an_unforeseen_error_without_a_cause_is_an_image_error(tiny_run, blob_image, monkeypatch):
    def preprocessing(**steps):
        raise RuntimeError("shape")

    monkeypatch.setattr(cases, "preprocessing", preprocessing)
    with pytest.raises(ImageReadError, match=r"prepared for the network \(RuntimeError\)"):
        explain_case(tiny_run, blob_image)


def test_a_batch_stops_when_the_log_does_not_take_a_record(tiny_run, blob_image):
    with pytest.raises(AuditError, match="disk is full"):
        batch(tiny_run, [(0, blob_image)], _FailingLog())


def test_a_recorded_case_is_rebuilt(tiny_run, log):
    table = tiny_run.cohort.table
    row = int(table.index[table["split"] == "test"][0])
    payload = predict_recorded(
        tiny_run, tiny_run.cohort.image_path(row), log, actor="reader"
    ).payload
    case = rebuild_case(tiny_run.path, payload, row)
    assert case.largest_difference < 1e-5
    (grad_cam,) = case.grad_cams.values()
    assert case.image.shape == grad_cam.drawn().shape == (64, 64)
    assert grad_cam.drawn().min() >= 0
    assert sorted(case.heat_maps) == list(range(6))
    assert all(cells.drawn().shape == (64, 64) for cells in case.heat_maps.values())
    with pytest.raises(ValueError, match="another model digest"):
        rebuild_case(tiny_run.path, {**payload, "model_digest": "sha256:0"}, row)
    with pytest.raises(ValueError, match="pixels are not those of the record"):
        rebuild_case(tiny_run.path, payload, row + 1)


def test_changed_pixels_are_not_the_recorded_case(run_copy, log, tmp_path):
    run = RunFolder(run_copy)
    copy = tmp_path / "p.png"
    original = run.cohort.image_path(0)
    copy.write_bytes(original.read_bytes())
    table = (run_copy / "cohort.csv").read_text()
    name = re.search(r"[^,\n]*p00_normal\.png", table).group()
    (run_copy / "cohort.csv").write_text(table.replace(name, str(copy)))
    payload = predict_recorded(run, copy, log, actor="reader").payload
    assert rebuild_case(run_copy, payload, 0).largest_difference < 1e-5
    with Image.open(copy) as picture:
        pixels = picture.copy()
    pixels.putpixel((0, 0), pixels.getpixel((0, 0)) ^ 1)
    pixels.save(copy)
    with pytest.raises(ValueError, match="pixels are not those of the record"):
        rebuild_case(run_copy, payload, 0)
    copy.unlink()
    with pytest.raises(ImageReadError, match="does not exist"):
        rebuild_case(run_copy, payload, 0)


def test_an_altered_model_predicts_nothing(run_copy, blob_image, log):
    path = run_copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="altered after training"):
        predict_recorded(RunFolder(run_copy), blob_image, log, actor="reader")
    assert len(log) == 0


def test_training_and_prediction_agree_on_every_test_image(tiny_run):
    from pipelines.evaluate import evaluate_run

    evaluation = evaluate_run(tiny_run)
    for position, row in enumerate(evaluation.images.rows):
        case = explain_case(tiny_run, tiny_run.cohort.image_path(row), faithfulness=0)
        payload = prediction_payload(case.explanation, tiny_run.card)
        assert payload["probabilities"] == pytest.approx(
            evaluation.probabilities[position].tolist(), abs=1e-5
        )
        assert not any(e["faithfulness"] for e in payload["evidence"])


def test_a_frame_is_predicted_as_the_file_of_it_alone(
    tiny_run, blob_image, log, tmp_path, write_frames
):
    frames = write_frames(tmp_path / "several.dcm", blob_image)
    alone = predict_recorded(tiny_run, blob_image, log, actor="reader").payload
    found = predict_recorded(tiny_run, ImageFrame(frames, 1), log, actor="reader").payload
    assert found["logits"] == pytest.approx(alone["logits"], abs=1e-5)
    assert (found["image"]["frame"], alone["image"]["frame"]) == (1, None)
    with pytest.raises(ImageReadError, match="name one, counted from 0"):
        predict_recorded(tiny_run, frames, log, actor="reader")


def test_the_place_in_the_patient_is_recorded(tiny_run, blob_image, log, tmp_path, write_frames):
    place = {
        "PixelSpacing": [2, 3],
        "ImagePositionPatient": [-10, -20, 5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    frames = write_frames(tmp_path / "several.dcm", blob_image, **place)
    record = predict_recorded(tiny_run, ImageFrame(frames, 1), log, actor="reader").record
    assert log.get(record.sequence).payload["image"]["affine"] == [
        [0, 3, -10],
        [2, 0, -20],
        [0, 0, 5],
    ]
