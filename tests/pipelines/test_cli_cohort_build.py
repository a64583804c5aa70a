"""The builders of `medproto cohort`, as a user types them."""

import numpy as np
import pytest

from medproto.data import Cohort
from medproto.data.phantom_dicom import write_dicom


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MEDPROTO_PSEUDONYM_KEY", "key of the tests")


def test_series_from_dicom(tmp_path, main):
    pixels = np.zeros((16, 16), np.uint16)
    for patient in range(2):
        for number in range(2):
            path = tmp_path / f"s/{patient}-{number}.dcm"
            path.parent.mkdir(exist_ok=True)
            write_dicom(path, pixels, patient=patient, number=number, seed=0)
    table = tmp_path / "out/c.csv"
    status, _, err = main("cohort", "from-dicom", tmp_path / "s", "--series", "--out", table)
    assert status == 1
    assert "2 series lie in a folder with other DICOM images" in err
    assert err.count("\n") == 1
    status, _, err = main(
        "cohort", "from-dicom", tmp_path / "s", "--series", "--copy-as-pseudonyms", "--out", table
    )
    assert status == 0, err
    assert "wrote 2 rows" in err
    cohort = Cohort.read(table)
    names = [sorted(path.name for path in cohort.image_path(row).iterdir()) for row in range(2)]
    assert names == [["0000.dcm", "0001.dcm"]] * 2
