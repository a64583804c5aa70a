"""Copies take no file from outside the source, whatever the table names."""

import numpy as np
import pandas as pd
import pytest

from medproto.data.copies import copy_images
from medproto.data.pseudonyms import Pseudonymizer

ONES = np.ones((12, 10), dtype=np.uint8)


@pytest.mark.parametrize("way", ["up", "absolute", "link", "linked folder"])
def test_a_mask_from_outside_the_source_is_not_copied_and_is_counted(tmp_path, write_png, way):
    source, secret = tmp_path / "source", write_png(tmp_path / "else/secret.png", ONES)
    write_png(source / "a.png", 2 * ONES)
    write_png(source / "inside.png", ONES)
    (source / "link.png").symlink_to(secret)
    (source / "folder").symlink_to(secret.parent)
    cells = {
        "up": "../else/secret.png",
        "absolute": str(secret),
        "link": "link.png",
        "linked folder": "folder/secret.png",
    }
    table = pd.DataFrame({"image": ["a.png", "a.png"], "mask": [cells[way], "inside.png"]})
    target = tmp_path / "target"
    copied = copy_images(
        table, [["a.png"], ["a.png"]], ["P-1/I-1", "P-2/I-2"], source, target, Pseudonymizer("key")
    )
    assert copied.failed == 1
    # The place of the copy, which is not there, so that the check names the row.
    assert copied.table["mask"].tolist() == ["P-1/I-1-mask", "P-2/I-2-mask.png"]
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.*"))
    assert files == ["P-1/I-1.png", "P-2/I-2-mask.png", "P-2/I-2.png"]
