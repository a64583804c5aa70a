"""`medproto cohort` with columns of findings: build, split and check, as a user types it."""

import json

import numpy as np
import pytest
from PIL import Image

from medproto.data import Cohort

A = ["1", "0"] * 6
B = ["1", "1", "0", "0", "-1", ""] * 2


@pytest.fixture
def labels(tmp_path):
    """Twelve images and their table of two findings."""
    rng = np.random.default_rng(0)
    lines = ["image,nodule,pleural effusion"]
    for row, cells in enumerate(zip(A, B, strict=True)):
        Image.fromarray(rng.integers(0, 255, (12, 10), dtype=np.uint8)).save(
            tmp_path / f"{row}.png"
        )
        lines.append(",".join([f"{row}.png", *cells]))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.csv"


FINDINGS = ("--label-columns", "nodule, pleural effusion")


def test_findings_from_folder_to_check(labels, tmp_path, main):
    table = tmp_path / "out" / "c.csv"
    status, _, err = main(
        "cohort", "from-folder", tmp_path, "--labels", labels, *FINDINGS, "--out", table
    )
    assert status == 0, err
    status, _, err = main("cohort", "split", table, *FINDINGS, "--seed", 0, "--out", table)
    assert status == 0, err
    assert set(Cohort.read(table, label_columns=["nodule"]).table["split"]) == {
        "train", "val", "test",
    }  # fmt: skip
    status, out, err = main("cohort", "check", table, *FINDINGS)
    assert status == 0, out + err
    lines = out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("findings:"))
    assert [line.split() for line in lines[at : at + 3]] == [
        ["findings:", "present", "absent", "uncertain"],
        ["nodule", "6", "6", "0"],
        ["pleural", "effusion", "4", "4", "4"],
    ]
    assert len({len(line) for line in lines[at : at + 3]}) == 1
    assert lines[-1] == "12 rows, no problems."
    status, out, _ = main("cohort", "check", table, *FINDINGS, "--json")
    document = json.loads(out)
    assert document["ok"]
    assert document["findings"]["pleural effusion"] == {"present": 4, "absent": 4, "uncertain": 4}


def test_a_forgotten_or_wrong_column_is_one_clear_line(labels, main):
    status, out, err = main("cohort", "check", labels)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "--label-columns a,b" in err
    status, out, err = main("cohort", "check", labels, "--label-columns", "nodule,mass")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "['mass'] missing" in err
