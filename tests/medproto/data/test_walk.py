import os
import sys

import pytest

from medproto.data.walk import is_inside, walk_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")


def test_files_are_found_once_and_links_stay_in_the_folder(tmp_path):
    source, outside = tmp_path / "source", tmp_path / "outside"
    for path in (source / "a/1", source / "b/2", source / ".hidden", outside / "3"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (source / "a/loop").symlink_to(source)
    (source / "c").symlink_to(outside)
    (source / "d").symlink_to(outside / "3")
    (source / "e").symlink_to("b/2")
    (source / "f").symlink_to("f")
    walk = walk_folder(source)
    assert [path.relative_to(source).as_posix() for path in walk.files] == ["e", "a/1", "b/2"]
    assert (walk.leaving, walk.broken) == (2, 1)
    assert [note.split(" ", 1)[0] for note in walk.notes] == ["2", "1"]
    # The folder itself may be reached by a link.
    (tmp_path / "link").symlink_to(source)
    assert len(walk_folder(tmp_path / "link").files) == 3


@pytest.mark.parametrize(
    ("name", "inside"),
    [("a", True), ("a/../b", True), ("..", False), ("a/../../x", False), ("/etc", False),
     ("loop/x", False), ("nul\0", False)],
)  # fmt: skip
def test_what_is_inside(tmp_path, name, inside):
    os.symlink("loop", tmp_path / "loop")
    assert is_inside(tmp_path, tmp_path / name) is inside
