"""The comparison of methods, the page of one image, the examination of the machine."""

import json

import numpy as np
import pytest

from audit import AuditLog
from medproto.data import Cohort
from medproto.errors import CohortError, ImageReadError
from pipelines import doctor
from pipelines.case_report import write_case
from pipelines.compare import METHODS, compare_run
from pipelines.predict import predict_recorded
from pipelines.runs import RunFolder


@pytest.fixture(scope="module")
def comparison(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "new"
    return compare_run(tiny_run, split="test", methods=list(METHODS), out=out), out


def test_methods_stand_beside_three_controls(comparison):
    result, out = comparison
    assert [row["control"] for row in result["rows"]] == [False, False, True, True, True]
    assert [row["name"] for row in result["rows"][2:]] == [
        "best constant location",
        "image centre",
        "chance",
    ]
    assert result["n"] == 5
    assert result["recorded"] is False
    assert -1 <= result["agreement"]["median"] <= 1
    assert result["agreement"]["n"] == 5
    assert json.loads((out / "comparison.json").read_text()) == result
    page = (out / "comparison.html").read_text()
    assert "Grad-CAM" in page
    assert "image centre" in page


def test_the_comparison_agrees_with_the_evaluation(comparison, tiny_run):
    rows = {row["name"]: row for row in comparison[0]["rows"]}
    place = tiny_run.metrics["localization"]
    assert rows[METHODS["prototype"]]["pointing"] == place["pointing_game"]
    assert rows["image centre"]["pointing"] == place["image_center"]
    assert rows["chance"]["pointing"] == place["area"]
    constant = {k: v for k, v in place["constant_location"].items() if k != "position"}
    assert rows["best constant location"]["pointing"] == constant


def test_chance_is_the_share_of_the_disc(comparison):
    chance = comparison[0]["rows"][-1]["pointing"]["value"]
    # a disc of radius 7 has 149 lattice points (Gauss's circle problem)
    assert chance == pytest.approx(149 / 64**2)


def test_one_method_has_no_agreement(tiny_run, tmp_path):
    result = compare_run(tiny_run, split="val", methods=["gradcam"], out=tmp_path)
    assert result["agreement"] is None
    assert result["rows"][0]["name"] == METHODS["gradcam"]


@pytest.mark.parametrize(("methods", "got"), [(["prototype", "rise"], "rise"), ([], "")])
def test_unknown_methods_are_named(tiny_run, tmp_path, methods, got):
    with pytest.raises(CohortError, match=f"of prototype, gradcam, got '{got}'"):
        compare_run(tiny_run, split="test", methods=methods, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_without_masks_there_is_nothing_to_judge(run_copy, tmp_path):
    cohort = Cohort.read(run_copy / "cohort.csv", group="group")
    Cohort(cohort.table.drop(columns="mask"), cohort.root, "group").save(run_copy / "cohort.csv")
    with pytest.raises(CohortError, match="split 'test' has no image with one"):
        compare_run(RunFolder(run_copy), split="test", methods=["gradcam"], out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_page_without_record_says_so_and_hides_the_file_name(tiny_run, blob_image, tmp_path):
    page = write_case(tiny_run, blob_image, tmp_path / "pages")
    text = page.read_text()
    assert "not recorded" in text.lower()
    for secret in (blob_image.name, blob_image.stem, str(blob_image.parent), str(tmp_path)):
        assert secret not in text
        assert secret not in page.name
    digest = page.stem.removeprefix("image_")
    assert len(digest) == 12
    assert np.isfinite(int(digest, 16))
    assert (page.parent / f"{page.stem}_reasoning.png").read_bytes()[:4] == b"\x89PNG"


def test_a_page_with_record_carries_its_number(tiny_run, blob_image, tmp_path):
    with AuditLog.create(tmp_path / "log.db") as log:
        recorded = predict_recorded(tiny_run, blob_image, log, actor="reader 7")
    page = write_case(tiny_run, blob_image, tmp_path / "pages", recorded=recorded)
    text = page.read_text()
    assert page.name == "record_000001.html"
    assert recorded.record.digest in text
    assert "reader 7" in text
    assert "not recorded" not in text.lower()


def test_an_unreadable_image_leaves_no_page(tiny_run, tmp_path):
    with pytest.raises(ImageReadError, match="does not exist"):
        write_case(tiny_run, tmp_path / "none.png", tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_the_machine_that_runs_the_tests_is_complete():
    checks = {check.name: check for check in doctor.examine()}
    assert {"Python", "torch", "monai", "pydicom", "hardware", "disk"} <= checks.keys()
    assert [c.name for c in checks.values() if not c.ok and c.name != "disk"] == []
    assert "pytest" not in checks


def test_what_is_missing_is_named_with_the_next_step(monkeypatch):
    monkeypatch.setattr(
        doctor, "requires", lambda name: ["no-such-thing>=1", "numpy>=1; extra == 'x'"]
    )
    checks = {check.name: check for check in doctor.examine()}
    assert checks["no-such-thing"].ok is False
    assert "pip install no-such-thing" in checks["no-such-thing"].detail
    assert "numpy" not in checks


def test_a_package_without_its_module_and_a_machine_without_torch(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "requires", lambda name: ["pillow>=10"])
    checks = {check.name: check for check in doctor.examine()}
    assert "`PIL` cannot be found" in checks["pillow"].detail
    assert "without torch" in checks["hardware"].detail


def test_a_gpu_and_real_data_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "Card 1")
    monkeypatch.setattr(doctor, "requires", lambda name: [])
    monkeypatch.setattr(doctor.os, "environ", {"MEDPROTO_DATA": str(tmp_path)})
    checks = {check.name: check for check in doctor.examine()}
    assert checks["hardware"].detail == "GPU: Card 1"
    assert checks["real data (optional)"].detail == "MEDPROTO_DATA is set"
