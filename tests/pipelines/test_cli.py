"""The command line: exit status, one-line errors, JSON on stdout, a light start."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import pipelines.cli as cli
from audit import AuditLog, verify
from medproto.data import Cohort

PROGRAM = Path(sys.executable).with_name("medproto")


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def log(tmp_path):
    AuditLog.create(tmp_path / "log.db").close()
    return tmp_path / "log.db"


def assert_one_line(result, *parts):
    status, out, err = result
    assert status == 1, err
    assert out == ""
    assert err.startswith("medproto: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_train_evaluate_and_its_json(tiny_table, tiny_settings, tmp_path, main):
    settings = [part for value in tiny_settings for part in ("--set", value)]
    arguments = ["train", "--cohort", tiny_table, "--out", tmp_path / "run", *settings]
    status, out, err = main(*arguments)
    assert status == 0
    assert "AUROC" in out
    assert "prototypes               6 from 6 groups" in out
    assert "joint" in err
    assert str(tmp_path / "run" / "report.html") in err
    assert "twin" not in out
    assert_one_line(main(*arguments), "holds a finished run")
    status, out, _ = main("evaluate", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out)["twin"] is None


def test_evaluate_prints_one_document(tiny_path, tiny_table, tmp_path, main):
    status, out, err = main("evaluate", tiny_path, "--json")
    assert (status, err) == (0, "")
    stored = json.loads((tiny_path / "metrics.json").read_text())
    del stored["last_layer"]
    assert json.loads(out) == stored
    _, out, _ = main("evaluate", tiny_path, "--split", "val")
    assert "images (groups)          6 (3)" in out
    assert "plain twin, AUROC" in out
    assert "best constant place" in out
    _, out, err = main("evaluate", tiny_path, "--cohort", tiny_table, "--json")
    assert json.loads(out)["split"] == "external"
    splits = pd.read_csv(tiny_table)["split"].value_counts()
    counts = ", ".join(f"{splits[name]} of its {name} split" for name in ("train", "val", "test"))
    assert (
        err == f"medproto: this is not external: among the images are {counts}, pixel for pixel.\n"
    )
    other = Cohort.read(tiny_table)
    other.table.loc[:9, "label"] = "fracture"
    other.save(tmp_path / "other.csv")
    _, out, err = main("evaluate", tiny_path, "--cohort", tmp_path / "other.csv")
    assert (
        "10 images are left out, since the run does not know their label: 10 of 'fracture'." in err
    )
    assert "images (groups)          38" in out


def test_what_cannot_be_computed_is_said(tiny_path, tiny_table, tmp_path, main):
    normal = Cohort.read(tiny_table).select(["normal"])
    normal.save(tmp_path / "normal.csv")
    status, out, _ = main("evaluate", tiny_path, "--cohort", tmp_path / "normal.csv")
    assert status == 0
    assert "AUROC                    not computed\n" in out


def test_a_file_name_cannot_steer_the_terminal(tiny_path, blob_image, log, tmp_path, main):
    hostile = tmp_path / "a\x1b[2J.png"
    shutil.copy(blob_image, hostile)
    broken = tmp_path / "b\nc.png"
    broken.write_text("no image")
    status, out, err = main("predict", tiny_path, hostile, broken, "--audit", log)
    assert status == 1
    assert "\x1b" not in out
    assert r"a\u001b[2J.png" in out
    assert err.count("\n") == 1
    assert r"b\nc.png" in err


def test_predict_prints_a_sum_that_adds_up(tiny_path, blob_image, log, main):
    status, out, _ = main("predict", tiny_path, blob_image, "--audit", log, "--actor", "reader")
    assert status == 0
    assert "record 1, sha256:" in out
    assert "calibrated)" in out
    lines = [line.split() for line in out.splitlines()]
    parts = [float(line[line.index("=") + 1]) for line in lines if line[0] == "prototype"]
    shown, more = len(parts), [line for line in lines if line[1:2] == ["more"]]
    parts += [float(line[-1]) for line in more]
    parts += [float(line[-1]) for line in lines if line[0] == "bias"]
    assert shown + sum(int(line[0]) for line in more) == 6
    (total,) = [float(line[-1]) for line in lines if line[:2] == ["logit", "of"]]
    assert sum(parts) == pytest.approx(total, abs=0.0051)
    with AuditLog.open(log) as opened:
        assert opened.get(1).actor == "reader"


def test_predict_prints_one_document_and_goes_on_past_a_bad_file(
    tiny_path, blob_image, log, tmp_path, main
):
    text = tmp_path / "text.dcm"
    text.write_text("no image at all")
    status, out, err = main("predict", tiny_path, text, blob_image, "--audit", log, "--json")
    assert status == 1
    (entry,) = json.loads(out)
    assert entry["record"] == 1
    assert err.startswith(f"medproto: {text}: ")
    assert err.count("\n") == 1


def test_predict_of_a_table_and_its_retry(tiny_path, tiny_table, log, tmp_path, main):
    cohort = Cohort.read(tiny_table)
    table = cohort.table.head(3).copy()
    table.loc[1, "image"] = "gone.png"
    Cohort(table, cohort.root).save(tmp_path / "three.csv")
    arguments = ["predict", tiny_path, "--cohort", tmp_path / "three.csv", "--audit", log]
    for _ in range(2):
        status, out, err = main(*arguments, "--json")
        assert status == 1
        assert [entry["record"] for entry in json.loads(out)] == [1, 2]
        assert err.startswith("medproto: row 1: the file does not exist")
    assert verify(log).records == 2


def test_predict_of_a_table_of_new_patients_without_labels(
    tiny_path, tiny_table, log, tmp_path, main
):
    cohort = Cohort.read(tiny_table)
    Cohort(cohort.table.head(2), cohort.root).save(tmp_path / "two.csv")
    table = pd.read_csv(tmp_path / "two.csv")[["image"]]
    table.to_csv(tmp_path / "two.csv", index=False)
    arguments = ["predict", tiny_path, "--cohort", tmp_path / "two.csv", "--audit", log, "--json"]
    status, out, err = main(*arguments)
    assert status == 0, err
    assert [entry["record"] for entry in json.loads(out)] == [1, 2]


def test_predict_wants_images_or_a_table(tiny_path, tiny_table, blob_image, log, main):
    for arguments in ([], [blob_image, "--cohort", tiny_table]):
        status, out, err = main("predict", tiny_path, *arguments, "--audit", log)
        assert (status, out) == (2, "")
        assert "one of the two" in err


@pytest.mark.parametrize("actor", ["two\nlines", "x" * 5000, "\x00", ""])
def test_an_actor_that_cannot_be_recorded_is_wrong_usage(tiny_path, blob_image, log, main, actor):
    status, out, err = main("predict", tiny_path, blob_image, "--audit", log, "--actor", actor)
    assert (status, out) == (2, "")
    assert "actor" in err
    assert verify(log).records == 0


def test_an_account_without_a_name_must_say_who_asks(tiny_path, blob_image, log, main, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    status, _, err = main("predict", tiny_path, blob_image, "--audit", log)
    assert status == 2
    assert "--actor" in err
    assert main("predict", tiny_path, blob_image, "--audit", log, "--actor", "me")[0] == 0


def test_no_log_no_prediction(tiny_path, blob_image, tmp_path, main):
    result = main("predict", tiny_path, blob_image, "--audit", tmp_path / "none.db")
    assert_one_line(result, "medproto audit init")


def test_predict_and_explain_take_a_frame(
    tiny_path, tiny_table, blob_image, log, tmp_path, main, write_frames
):
    frames = write_frames(tmp_path / "several.dcm", blob_image)
    status, out, err = main("predict", tiny_path, frames, "--frame", 1, "--audit", log, "--json")
    assert status == 0, err
    alone = json.loads(main("predict", tiny_path, blob_image, "--audit", log, "--json")[1])
    assert json.loads(out)[0]["logits"] == pytest.approx(alone[0]["logits"], abs=1e-5)
    status, out, _ = main("explain", tiny_path, frames, "--frame", 1, "--out", tmp_path)
    assert status == 0
    assert Path(out.strip()).is_file()
    result = main("predict", tiny_path, frames, "--frame", 3, "--audit", log)
    assert_one_line(result, "frame must lie in 0..2, got 3")
    result = main("predict", tiny_path, "--cohort", tiny_table, "--frame", 1, "--audit", log)
    assert result[0] == 2
    assert "column 'frame'" in " ".join(result[2].split())


def test_explain_prints_the_page(tiny_path, blob_image, tmp_path, main):
    status, out, _ = main("explain", tiny_path, blob_image, "--out", tmp_path / "pages")
    assert status == 0
    assert Path(out.strip()).is_file()
    missing = main("explain", tiny_path, tmp_path / "none.png", "--out", tmp_path / "pages")
    assert_one_line(missing, "does not exist")


def test_compare_prints_a_table_or_one_document(tiny_path, tmp_path, main):
    status, out, err = main("compare", tiny_path, "--out", tmp_path / "c")
    assert status == 0
    assert out.count("\n") == 5
    assert "comparison.html" in err
    status, out, err = main("compare", tiny_path, "--out", tmp_path / "c", "--json")
    assert (status, err) == (0, "")
    assert len(json.loads(out)["rows"]) == 5
    assert_one_line(
        main("compare", tiny_path, "--out", tmp_path / "d", "--methods", "lime"), "lime"
    )


def test_a_folder_that_is_no_run(tmp_path, blob_image, log, main):
    for arguments in (
        ["evaluate", tmp_path],
        ["predict", tmp_path, blob_image, "--audit", log],
        ["explain", tmp_path, blob_image, "--out", tmp_path / "p"],
        ["compare", tmp_path, "--out", tmp_path / "c"],
    ):
        assert_one_line(main(*arguments), "must hold model.json", "finished training")
    assert verify(log).records == 0


def test_one_changed_byte_of_the_model(run_copy, blob_image, log, main):
    path = run_copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_one_line(main("evaluate", run_copy), "altered after training")
    assert_one_line(main("predict", run_copy, blob_image, "--audit", log), "altered after training")
    assert verify(log).records == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 7}', "\xff"])
def test_a_damaged_card(run_copy, main, content):
    (run_copy / "model.json").write_bytes(content.encode("latin-1"))
    assert_one_line(main("evaluate", run_copy), "model.json")


@pytest.mark.parametrize("name", ["cohort.csv", "prototypes.parquet"])
def test_a_file_of_the_run_is_gone(run_copy, main, name):
    (run_copy / name).unlink()
    assert_one_line(main("evaluate", run_copy))


def train_on(table, tmp_path, main, *more):
    return main("train", "--cohort", table, "--out", tmp_path / "run", *more)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("image,patient_id\na.png,P0\n", "label"),
        ("image,label,split\na.png,normal,train\n", "at least two classes, got 1"),
        ("image,label,split\na.png,,train\n", "at least two classes, got 0"),
        ("image,label\na.png,normal\nb.png,blob\n", "medproto cohort split"),
        ("image,label,split\na.png,normal,train\nb.png,blob,train\n", "row 0"),
        ("image;label\na.png;x\n", "commas"),
        ("", "header"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, main, content, part):
    (tmp_path / "cohort.csv").write_text(content)
    assert_one_line(train_on(tmp_path / "cohort.csv", tmp_path, main), part)
    assert not (tmp_path / "run").exists()


def test_settings_and_devices_that_do_not_exist(tiny_table, tmp_path, main):
    assert_one_line(train_on(tiny_table, tmp_path, main, "--set", "data.size=1"), "Known here")
    assert_one_line(train_on(tiny_table, tmp_path, main, "--device", "tpu"), "cpu or cuda")
    assert_one_line(train_on(tiny_table, tmp_path, main, "--config", tmp_path / "no.yaml"))
    assert_one_line(train_on(tmp_path / "no.csv", tmp_path, main), "does not exist")


def test_cohort_from_folder_split_and_check(tiny_table, tmp_path, main):
    for label in ("normal", "blob"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for source in sorted(tiny_table.parent.glob(f"p*_{label}.png"))[:12]:
            shutil.copy(source, tmp_path / "images" / label)
    table = tmp_path / "built" / "cohort.csv"
    status, out, err = main("cohort", "from-folder", tmp_path / "images", "--out", table)
    assert (status, out) == (0, "")
    assert f"wrote 24 rows to {table}" in err
    status, _, err = main("cohort", "split", table, "--seed", "3", "--out", table)
    assert status == 0
    assert "split test: " in err
    status, out, _ = main("cohort", "check", table)
    assert status == 0
    assert "24 rows, no problems." in out
    status, out, _ = main("cohort", "check", table, "--json")
    assert status == 0
    assert json.loads(out)["ok"] is True


def test_cohort_check_names_every_problem(tiny_table, tmp_path, main):
    cohort = Cohort.read(tiny_table)
    table = cohort.table.copy()
    table.loc[3, "image"] = "gone.png"
    table.loc[8, "label"] = ""
    Cohort(table, cohort.root).save(tmp_path / "bad.csv")
    status, out, err = main("cohort", "check", tmp_path / "bad.csv")
    assert (status, err) == (1, "")
    assert "row 3" in out
    assert "row 8" in out
    assert "48 rows, 2 problem(s)." in out
    status, out, _ = main("cohort", "check", tmp_path / "bad.csv", "--json")
    assert status == 1
    assert [problem["row"] for problem in json.loads(out)["problems"]] == [3, 8]


def test_cohort_from_npz(tmp_path, main):
    import numpy as np

    parts = {}
    for part in ("train", "val", "test"):
        parts[f"{part}_images"] = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28)
        parts[f"{part}_labels"] = np.array([[0], [1], [0], [1]])
    np.savez(tmp_path / "set.npz", **parts)
    table = tmp_path / "t.csv"
    arguments = ["cohort", "from-npz", tmp_path / "set.npz", "--out", table]
    status, _, err = main(*arguments, "--classes", "normal,pneumonia")
    assert status == 0, err
    assert Cohort.read(table).classes == ("normal", "pneumonia")
    with Image.open(Cohort.read(table).image_path(0)) as picture:
        assert picture.size == (28, 28)
    (tmp_path / "broken.npz").write_text("no")
    assert_one_line(main("cohort", "from-npz", tmp_path / "broken.npz", "--out", table))


def test_doctor_tells_missing_from_present(main, monkeypatch):
    from pipelines import doctor

    monkeypatch.setattr(doctor, "requires", lambda name: ["pillow>=10"])
    assert main("doctor")[0] == 0
    monkeypatch.setattr(doctor, "requires", lambda name: ["no-such-thing"])
    status, out, _ = main("doctor")
    assert status == 1
    assert "MISSING  no-such-thing" in out


def test_dashboard_passes_its_arguments_on(main, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or 3)
    status, *_ = main("dashboard", "--run", "r", "--audit", "a.db", "--port", "9")
    assert status == 3
    expected = ["-m", "dashboards.launch", "--run", "r", "--audit", "a.db", "--port", "9"]
    assert calls[0][1:] == expected


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ModuleNotFoundError("no", name="monai"), 1, "needs the package 'monai'"),
        (
            PermissionError(13, "Permission denied", "cohort.csv"),
            1,
            "Permission denied: cohort.csv",
        ),
    ],
)
def test_other_ends_are_one_line_too(main, monkeypatch, error, status, text):
    def broken():
        raise error

    monkeypatch.setattr(cli, "app", broken)
    found, out, err = main("doctor")
    assert (found, out) == (status, "")
    assert text in err
    assert err.count("\n") == 1


def test_an_interrupted_command_says_so(main, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.doctor.examine", interrupted)
    found, out, err = main("doctor")
    assert (found, out.strip()) == (130, "")
    assert "interrupted; nothing unfinished was left as a result" in err
    assert err.strip().count("\n") == 0


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["cohort", "--help"], ["predict", "--help"]],
)
def test_help(arguments):
    result = command(*arguments)
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["nothing"],
        ["evaluate", "run", "--nope"],
        ["evaluate", "run", "--cohort", "other.csv", "--split", "val"],
        ["evaluate", "run", "--group", "case"],
        ["predict", "run"],
    ],
)
def test_wrong_usage_has_status_two(arguments):
    assert command(*arguments).exit_code == 2


def program(*arguments, **options):
    return subprocess.run(
        [str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
    )


def test_the_installed_program(tmp_path, log):
    assert program("--help").returncode == 0
    assert program("train").returncode == 2
    failed = program("evaluate", tmp_path)
    assert_one_line((failed.returncode, failed.stdout, failed.stderr), "must hold model.json")
    assert program("audit", "verify", log).returncode == 0


LIGHT = """
import sys
from typer.testing import CliRunner
import pipelines.cli
result = CliRunner().invoke(pipelines.cli.app, sys.argv[1:])
assert result.exit_code == 0, result.output
heavy = {"torch", "monai", "captum", "pydicom", "streamlit", "pandas", "sklearn"}
print(sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["audit", "verify"]])
def test_help_and_verify_load_nothing_heavy(arguments, log):
    more = [str(log)] if arguments[0] == "audit" else []
    result = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments, *more], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout == "[]\n"
