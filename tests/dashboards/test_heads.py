"""The dashboard for findings that occur together, for grades, and for one logit of two classes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from audit import AuditLog
from dashboards.figures import case_data, gallery_data
from dashboards.queries import QueryError, list_cases, read_case, read_run

APP = Path(__file__).with_name("fixture_app.py")
MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def findings(head_case):
    """Records: 1 nodule and effusion, 2 none, 3 nodule alone."""
    return head_case("multilabel", [1.0, 2.0, -1.0], [-3.0, -2.0, -1.0], [1.5, -2.0, -1.0])


@pytest.fixture
def grades(head_case):
    """Records: 1 mild, 2 severe."""
    return head_case("ordinal", [1.5, -0.5], [2.5, 0.5])


@pytest.fixture
def start(monkeypatch):
    def run(folder, log):
        monkeypatch.setattr("sys.argv", ["app.py", "--run", str(folder), "--audit", str(log)])
        app = AppTest.from_file(str(APP), default_timeout=30).run()
        assert not app.exception
        return app

    return run


def bare(text):
    return text.replace("\\", "").replace("*", "")


def words(app):
    kinds = ("title", "subheader", "markdown", "caption", "error", "warning", "success", "info")
    return bare("\n".join(str(e.value) for kind in kinds for e in getattr(app, kind)))


def test_the_table_of_findings_is_the_truth(findings):
    run = read_run(findings[0])
    assert run.head == "multilabel"
    assert run.truths == (
        {"nodule": True, "effusion": True, "edema": False},
        {"nodule": False, "effusion": False, "edema": False},
        {"nodule": None, "effusion": True, "edema": None},
    )


def test_cases_with_findings_are_listed_by_what_is_present(findings):
    links = list_cases(str(findings[1]), read_run(findings[0]))
    assert [(link.label, link.probability) for link in links] == [
        ("nodule", pytest.approx(0.8176, abs=1e-4)),  # 1 / (1 + exp(-1.5))
        ("none of the findings", None),
        ("nodule, effusion", None),
    ]


def test_every_finding_has_its_sum(findings):
    folder, log = findings
    run = read_run(folder)
    case = read_case(str(log), run, 1)
    assert (case.logit, case.logit_name, case.choices) == (1, "effusion", (1, 0, 2))
    assert [line.name for line in case.classes] == ["effusion", "nodule", "edema"]
    assert [line.present for line in case.classes] == [True, True, False]
    for k, name in enumerate(("nodule", "effusion", "edema")):
        other = read_case(str(log), run, 1, logit=k)
        assert other.logit_name == name
        assert other.total.total == pytest.approx((1.0, 2.0, -1.0)[k], abs=1e-4)
    with pytest.raises(QueryError, match="lacks parts"):
        read_case(str(log), run, 1, logit=3)


def test_agreement_counts_what_is_known(findings):
    folder, log = findings
    run = read_run(folder)
    agreed = [read_case(str(log), run, sequence).agrees for sequence in (1, 2, 3)]
    assert agreed == [True, False, False]
    unsure = {**run.truths[2]}
    table = pd.read_csv(folder / "cohort.csv", dtype=str, keep_default_na=False)
    table.loc[0, ["nodule", "effusion", "edema"]] = ["-1", "1", ""]
    table.to_csv(folder / "cohort.csv", index=False)
    case = read_case(str(log), read_run(folder), 1)
    assert dict(case.truth) == unsure
    assert case.agrees is True  # effusion is known and found
    table.loc[0, "effusion"] = ""
    table.to_csv(folder / "cohort.csv", index=False)
    assert read_case(str(log), read_run(folder), 1).agrees is None


def test_a_reader_goes_through_the_findings(findings, start):
    app = start(*findings)
    app.selectbox[0].select_index(2).run()
    assert bare(app.title[0].value) == "Record 1: nodule, effusion"
    table = app.table[0].value
    assert [bare(cell) for cell in table["Finding"]] == ["effusion", "nodule", "edema"]
    assert table["Probability"].tolist() == ["88.1%", "73.1%", "26.9%"]
    assert [bare(cell) for cell in table["Present"]] == ["yes", "yes", "no"]
    assert table["Cohort table"].tolist() == ["present", "present", "absent"]
    assert "nodule, effusion (the prediction agrees)" in words(app)
    assert "findings may occur together" in words(app)
    assert [bare(option) for option in app.radio[0].options] == [
        "effusion (present, logit +2.000)",
        "nodule (present, logit +1.000)",
        f"edema (not present, logit {MINUS}1.000)",
    ]
    for k, name, total in ((1, "effusion", "+2.000"), (2, "edema", f"{MINUS}1.000")):
        app.radio[0].set_value(k).run()
        assert not app.exception
        sums = app.table[1].value
        assert bare(sums["Part"].iloc[-1]) == f"Total = logit of {name}"
        assert bare(sums["Points"].iloc[-1]) == total
        assert f"target logit of {name}" in words(app)


def test_no_finding_is_said(findings, start):
    app = start(*findings)
    app.selectbox[0].select_index(1).run()
    assert bare(app.title[0].value) == "Record 2: none of the findings"
    assert bare(app.radio[0].options[0]) == f"edema (not present, logit {MINUS}1.000)"
    assert "nodule, effusion (the prediction disagrees)" in words(app)


def test_a_reader_goes_through_the_thresholds(grades, start):
    app = start(*grades)
    app.selectbox[0].select_index(1).run()
    assert bare(app.title[0].value) == "Record 1: mild"
    table = app.table[0].value
    assert [bare(cell) for cell in table["Grade"]] == ["none", "mild", "severe"]
    assert table["Probability"].tolist() == ["18.2%", "44.0%", "37.8%"]
    assert table["Cohort table"].tolist() == ["", "this grade", ""]
    assert "as thresholds are passed: 1 of 2." in words(app)
    assert "mild (the prediction agrees)" in words(app)
    assert [bare(option) for option in app.radio[0].options] == [
        "above none (passed, logit +1.500)",
        f"above mild (not passed, logit {MINUS}0.500)",
    ]
    assert app.radio[0].value == 0
    app.radio[0].set_value(1).run()
    assert bare(app.table[1].value["Part"].iloc[-1]) == "Total = logit of above mild"


def test_two_classes_with_one_logit_have_no_choice(head_case, start):
    app = start(*head_case("binary", [0.0, -1.5]))
    assert bare(app.title[0].value) == "Record 1: normal"
    assert [metric.value for metric in app.metric] == ["81.8%", f"{MINUS}1.500"]
    assert "above 0: nodule, below 0: normal" in words(app)
    assert len(app.radio) == 0


def test_the_viewer_names_the_logit_and_starts_anew_for_another(findings, pixel_map):
    folder, log = findings
    run = read_run(folder)
    with np.load(folder / "rebuilt.npz") as arrays:
        image, cams = arrays["image"], dict.fromkeys((0, 1), pixel_map(arrays["grad_cam"]))
    data = [
        case_data(read_case(str(log), run, 1, logit=k), rebuilt(image, cams), run, folder)
        for k in (0, 1)
    ]
    assert [entry["logit"] for entry in data] == ["nodule", "effusion"]
    assert data[0]["key"] != data[1]["key"]
    assert data[0]["views"][0]["gradCam"]
    assert data[0]["evidence"][0]["card"]["title"].startswith("Prototype ")
    assert ", finding " in data[0]["evidence"][0]["card"]["title"]


def rebuilt(image, grad_cams):
    reference = SimpleNamespace(window=None, shape=image.shape)
    return SimpleNamespace(
        image=image,
        grad_cams=grad_cams,
        heat_maps={},
        explanation=SimpleNamespace(prediction=SimpleNamespace(reference=reference)),
    )


def model_page():
    import sys

    from dashboards.launch import read_source
    from dashboards.views import model_view

    model_view.render(read_source(sys.argv[1:]))


@pytest.mark.parametrize(("logit", "said"), [(1.5, False), (500.0, True)])
def test_a_score_that_is_mostly_bias_is_said(head_case, start, logit, said):
    app = start(*head_case("binary", [0.0, logit]))
    assert ("Most of this score is bias" in words(app)) is said


def test_the_gallery_leaves_out_classes_without_prototypes(head_case, start):
    folder, log = head_case("binary", [0.0, 1.5])
    start(folder, log)
    app = AppTest.from_function(model_page).run()
    assert not app.exception
    assert app.radio[0].label == "Class"
    assert [bare(option) for option in app.radio[0].options] == ["nodule (3)"]
    assert "Without prototypes of its own: normal." in words(app)


def test_the_gallery_is_of_findings(findings):
    run = read_run(findings[0])
    titles = [card["title"] for card in gallery_data(run, findings[0], 1)["cards"]]
    assert titles == [f"Prototype {p}, finding effusion" for p in (3, 4, 5)]


def test_the_figures_of_each_finding_are_listed(findings, start):
    folder, log = findings
    one = {"value": 0.75, "low": 0.5, "high": 1.0}
    figures = {"n": 9, "positives": 4, "auroc": one, "average_precision": None, "ece": one}
    metrics = {"n": 9, "groups": 9, "auroc": one, "findings": {"nodule": figures}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    start(folder, log)
    app = AppTest.from_function(model_page).run()
    assert not app.exception
    assert app.table[1].value.to_numpy().tolist() == [
        ["nodule", "4 of 9", "0.750 (0.500 to 1.000)", "not computed", "0.750 (0.500 to 1.000)"]
    ]


OLD = ("head", "present", "logit_names", "shown_logit", "undecided")


def test_a_record_older_than_heads_is_shown(run_folder, log_path, start):
    run = read_run(run_folder)
    with AuditLog.open(str(log_path)) as log:
        payload = {k: v for k, v in log.get(2).payload.items() if k not in OLD}
        record = log.append("prediction", subject=f"sha256:{7:064x}", actor="t", payload=payload)
    case = read_case(str(log_path), run, record.sequence)
    assert (case.head, case.label, case.logit_name) == ("multiclass", "nodule", "nodule")
    assert start(run_folder, log_path).title[0].value == f"Record {record.sequence}: nodule"


@pytest.mark.parametrize(
    "change",
    [
        {"evidence": [1]},
        {"present": 3},
        {"image": []},
        {"image": {"synthetic": 1}},  # and no window: the viewer cannot be filled
        {"evidence": "box"},
        {"prediction_set": 3, "abstained": True, "undecided": [1]},
        {"calibrated": "yes", "out_of_distribution": "no"},
        {"label": 1},
    ],
    ids=str,
)
def test_a_foreign_record_does_not_break_the_page(findings, start, change):
    folder, log_file = findings
    with AuditLog.open(str(log_file)) as log:
        payload = log.get(1).payload | change
        if change.get("evidence") == "box":
            payload["evidence"] = [
                {**e, "box_px": [0, 0, 0, 9, 9, 9]} for e in log.get(1).payload["evidence"]
            ]
        subject = f"sha256:{0:064x}"
        log.append(
            "prediction", subject=subject, actor="x", payload=json.loads(json.dumps(payload))
        )
    app = start(folder, log_file)
    assert app.selectbox[0].options[0].startswith("No. 4")
    app.selectbox[0].select_index(3).run()
    assert bare(app.title[0].value) == "Record 1: nodule, effusion"


def test_a_run_older_than_heads_has_classes(run_folder):
    run = read_run(run_folder)
    assert run.head == "multiclass"
