import json

import pytest

from dashboards.queries import QueryError, chain_state, list_cases, read_case, read_run


def test_a_run_is_read_without_its_network(run_folder):
    run = read_run(run_folder)
    assert run.classes == ("normal", "nodule")
    assert run.synthetic
    assert [s.prototype for s in run.sources] == list(range(7))
    assert run.rows[f"sha256:{7:064x}"] == 7
    assert run.truths[7] == {"normal": False, "nodule": True}
    assert run.metrics["n"] == 60


def test_repeated_pixels_stand_for_their_first_row(run_folder):
    table = run_folder / "cohort.csv"
    text = table.read_text().replace(f"{9:064x}", f"{7:064x}")
    table.write_text(text)
    assert read_run(run_folder).rows[f"sha256:{7:064x}"] == 7


def test_cases_are_the_predictions_of_this_model_newest_first(run_folder, log_path):
    links = list_cases(str(log_path), read_run(run_folder))
    assert [(link.sequence, link.row) for link in links] == [(4, None), (3, 8), (2, 7)]
    assert {link.label for link in links} == {"nodule"}


def test_a_case_tells_the_sum_of_its_record(run_folder, log_path):
    case = read_case(str(log_path), read_run(run_folder), 2)
    assert (case.label, case.agrees, case.row, case.actor) == ("nodule", True, 7, "tester")
    assert [line.contribution for line in case.lines] == [6.0, -3.0, 1.0, 0.25, -0.25]
    assert [line.place for line in case.lines] == [1, 2, 3, 4, 5]
    assert case.total.others == 2
    assert case.total.others_sum == 0.0  # -0.125 + 0.125
    assert case.total.total == 3.5
    assert (case.lines[0].kept, case.lines[0].left) == (0.75, 0.25)
    assert case.lines[1].kept is None
    assert case.classes[0].name == "nodule"
    assert case.synthetic


@pytest.mark.parametrize("sequence", [1, 5], ids=["a note", "another model"])
def test_other_records_are_not_cases(run_folder, log_path, sequence):
    with pytest.raises(QueryError, match=f"Record {sequence} is not a prediction"):
        read_case(str(log_path), read_run(run_folder), sequence)


def test_a_record_that_is_not_there_is_said(run_folder, log_path):
    with pytest.raises(QueryError, match="the record is not in it"):
        read_case(str(log_path), read_run(run_folder), 99)


def test_a_missing_log_is_said(run_folder, tmp_path):
    with pytest.raises(QueryError, match="The log cannot be read"):
        list_cases(str(tmp_path / "none.db"), read_run(run_folder))


@pytest.mark.parametrize("name", ["model.json", "cohort.csv", "prototypes.parquet"])
def test_a_missing_file_of_the_run_is_named(run_folder, name):
    (run_folder / name).unlink()
    with pytest.raises(QueryError, match=rf"must hold {name}"):
        read_run(run_folder)


def test_metrics_may_be_missing(run_folder):
    (run_folder / "metrics.json").unlink()
    assert read_run(run_folder).metrics == {}


@pytest.mark.parametrize("text", ["{", json.dumps({"classes": []}), "[]"])
def test_a_damaged_model_card_is_said(run_folder, text):
    (run_folder / "model.json").write_text(text)
    with pytest.raises(QueryError, match="damaged or of another version"):
        read_run(run_folder)


def test_a_whole_log_verifies(log_path):
    state = chain_state(str(log_path), 2)
    assert state.ok
    assert "all 5 records" in state.message


def test_damage_behind_the_case_leaves_the_case_proved(log_path, damage):
    damage(5)
    state = chain_state(str(log_path), 2)
    assert state.ok
    assert "Records 1 to 2 verify, but record 5 is damaged" in state.message


def test_damage_before_the_case_is_loud(log_path, run_folder, damage):
    damage(2)
    state = chain_state(str(log_path), 3)
    assert not state.ok
    assert "record 2 was altered" in state.message
    with pytest.raises(QueryError, match="does not verify at record 2"):
        read_case(str(log_path), read_run(run_folder), 2)


def test_a_log_that_is_none_does_not_verify(tmp_path):
    assert not chain_state(str(tmp_path / "none.db"), 1).ok


def test_a_prediction_with_parts_missing_is_said(run_folder, log_path):
    from audit import AuditLog

    run = read_run(run_folder)
    with AuditLog.open(str(log_path)) as log:
        payload = {"model_digest": run.model_digest, "classes": ["a"], "label": "a"}
        record = log.append("prediction", subject="x", actor="tester", payload=payload)
    with pytest.raises(QueryError, match="lacks parts of a prediction"):
        read_case(str(log_path), run, record.sequence)
