"""Arrays of a cohort, held in a file."""

import errno
import os
import tempfile

import pytest
import torch

from pipelines.image_file import hold


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 3, 4, 5)])
def test_what_is_held_is_what_was_given(shape, dtype):
    items = [torch.rand(shape) > 0.5 if dtype == torch.bool else torch.rand(shape) for _ in "abc"]
    held = hold(iter(items), 3, shape, dtype=dtype)
    assert held.dtype == dtype
    assert torch.equal(held, torch.stack(items))
    assert torch.equal(held[[2, 0]], torch.stack([items[2], items[0]]))


def test_nothing_is_held_too():
    assert hold([], 0, (1, 4, 4)).shape == (0, 1, 4, 4)


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = hold([torch.ones(1, 8, 8)], 1, (1, 8, 8))
    assert held.sum() == 64
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([torch.zeros(1, 2, 3)], r"items must be torch.float32 of shape \[1, 2, 2\], got .* of"),
        ([torch.zeros(1, 2, 2, dtype=torch.float64)], "items must be torch.float32 .* got .*64"),
        ([torch.zeros(1, 2, 2)] * 2, "there must be 1 items, got 2"),
        ([], "there must be 1 items, got 0"),
    ],
)
def test_items_of_another_kind_are_refused(items, message):
    with pytest.raises(ValueError, match=message):
        hold(items, 1, (1, 2, 2))


def test_a_full_disk_is_said_with_what_is_needed(monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match=r"No space left on device: .* 2.5 GB .*TMPDIR") as caught:
        hold([torch.zeros(1, 1000, 1000)] * 625, 625, (1, 1000, 1000))
    assert caught.value.errno == errno.ENOSPC
