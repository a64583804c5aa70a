"""Pages by Streamlit's own test runner, which does not draw the viewer."""

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.text import plain
from medproto.errors import ImageReadError

APP = Path(__file__).with_name("fixture_app.py")
ATTACK = "![x](http://example.org/x.png) <script>alert(1)</script> :red[$y$]"


@pytest.fixture
def start(run_folder, log_path, monkeypatch):
    """Run the app on the fixture's run and log, or on others."""

    def run(folder=run_folder, log=log_path):
        arguments = ["app.py", "--run", str(folder), "--audit", str(log)]
        monkeypatch.setattr("sys.argv", arguments)
        app = AppTest.from_file(str(APP), default_timeout=30).run()
        assert not app.exception
        return app

    return run


def words(app):
    """All text of a page."""
    kinds = ("title", "subheader", "markdown", "caption", "error", "warning", "success", "info")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))


def test_the_newest_case_is_shown_and_says_that_it_has_no_image(start):
    app = start()
    assert app.title[0].value == "Record 4: nodule"
    assert "is not in the run's cohort" in app.info[0].value
    assert "not known" in words(app)


def test_a_chosen_case_shows_result_sum_and_record(start):
    app = start()
    app.selectbox[0].select_index(2).run()
    assert not app.exception
    assert app.title[0].value == "Record 2: nodule"
    assert [metric.value for metric in app.metric] == ["99.7%", "+3.500"]
    text = words(app)
    for part in (
        "nodule (the prediction agrees)",
        "all 5 records",
        "SYNTHETIC",
        "at most 0.0e+00",
        "stage 5",
    ):
        assert part in text
    table = app.table[0].value
    points = [re.sub(r"[*]", "", cell) for cell in table["Points"]]
    minus = "\N{MINUS SIGN}"
    assert points == [
        "+6.000 for", f"{minus}3.000 against", "+1.000 for", "+0.250 for", f"{minus}0.250 against",
        "+0.000", f"{minus}0.500", "+3.500",
    ]  # fmt: skip
    assert table["Kept by the box alone"].tolist()[:2] == ["75%", ""]
    assert app.code[0].value.startswith("sha256:")


def test_the_model_page_shows_figures_and_counts(start):
    start()
    app = AppTest.from_function(_model_page).run()
    assert not app.exception
    assert app.table[0].value["Value (95 % interval)"].tolist() == [
        "0.930 (0.880 to 0.980)", "0.800 (0.750 to 0.850)", "0.250 (0.200 to 0.300)",
    ]  # fmt: skip
    assert app.radio[0].options == ["normal \\(3\\)", "nodule \\(4\\)"]
    assert "60 images of 31 patients" in words(app)


def _model_page():
    import sys

    from dashboards.launch import read_source
    from dashboards.views import model_view

    model_view.render(read_source(sys.argv[1:]))


@pytest.mark.parametrize("page", ["cases", "model"])
def test_a_missing_run_is_said_on_the_page(start, tmp_path, page):
    if page == "cases":
        app = start(folder=tmp_path / "nothing")
    else:
        start(folder=tmp_path / "nothing")
        app = AppTest.from_function(_model_page).run()
    assert "must hold model" in app.error[0].value
    assert not app.exception


def test_a_missing_log_is_said_on_the_page(start, tmp_path):
    assert "The log cannot be read" in plain_again(start(log=tmp_path / "none.db").error[0].value)


def test_an_altered_record_is_said_on_the_page(start, damage):
    damage(2)
    assert "does not verify at record 2" in plain_again(start().error[0].value)


def test_an_empty_log_names_the_next_step(start, tmp_path):
    from audit import AuditLog

    AuditLog.create(str(tmp_path / "empty.db")).close()
    assert "medproto predict" in start(log=tmp_path / "empty.db").info[0].value


def test_a_missing_image_leaves_the_record_readable(start, run_folder):
    (run_folder / "rebuilt.npz").unlink()
    app = start()
    app.selectbox[0].select_index(1).run()
    assert "its file is missing" in app.error[0].value
    assert len(app.table[0].value) == 8


def test_metrics_may_be_missing(start, run_folder):
    (run_folder / "metrics.json").unlink()
    start()
    app = AppTest.from_function(_model_page).run()
    assert "has no metrics" in app.info[0].value


def test_a_changed_image_is_refused_with_its_reason(start, monkeypatch):
    def refuse(folder, case, row, rebuild):
        raise ImageReadError("row 8 is damaged")

    monkeypatch.setattr("dashboards.caching.rebuilt_case", refuse)
    app = start()
    app.selectbox[0].select_index(1).run()
    assert app.error[0].value == "The image cannot be shown: row 8 is damaged"


def test_the_real_rebuild_is_that_of_the_pipelines(monkeypatch, tmp_path):
    from dashboards.app import rebuild_from_run

    monkeypatch.setattr("pipelines.cases.rebuild_case", lambda *given: given)
    assert rebuild_from_run(tmp_path, {"a": 1}, 3, 1) == (tmp_path, {"a": 1}, 3, 1)


def test_names_are_letters_for_markdown():
    text = plain(ATTACK)
    assert plain_again(text) == ATTACK
    # Every sign that markdown could read stands behind a backslash.
    assert not re.search(r"(?<!\\)[!\[\]()<>:$/_.]", text)


def plain_again(text):
    """Undo the escapes, as a markdown reader does."""
    return re.sub(r"\\(.)", r"\1", text)
