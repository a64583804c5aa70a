import numpy as np
import pytest

from medproto.data.recipes import RECIPES, build_recipe, medmnist
from medproto.errors import CohortError


@pytest.fixture
def write_archive(tmp_path, noise):
    def write(name):
        arrays = {}
        for at, split in enumerate(("train", "val", "test")):
            arrays[f"{split}_images"] = np.stack([noise(10 * at + k) for k in range(2)])
            arrays[f"{split}_labels"] = np.array([[0], [1]])
        (tmp_path / "release").mkdir(exist_ok=True)
        np.savez(tmp_path / "release" / name, **arrays)
        return tmp_path / "release"

    return write


@pytest.mark.parametrize(
    ("name", "classes", "notes"),
    [
        ("pneumoniamnist", ("normal", "pneumonia"), 0),
        ("breastmnist_64", ("malignant", "normal or benign"), 1),
        ("organcmnist", ("bladder", "femur-left"), 1),
        ("retinamnist", ("0", "1"), 2),
        ("renamed", ("0", "1"), 2),
    ],
)
def test_the_name_of_the_file_gives_the_classes(write_archive, tmp_path, name, classes, notes):
    built = medmnist(write_archive(f"{name}.npz"), out_dir=tmp_path / "out")
    assert built.cohort.classes == classes
    assert len(built.cohort) == 6
    assert len(built.notes) == notes


@pytest.mark.parametrize(
    ("name", "reason"),
    [("chestmnist_28", "take the recipe chestxray14"), ("organmnist3d", "volumes .* are not read")],
)
def test_tasks_that_make_no_cohort(write_archive, tmp_path, name, reason):
    with pytest.raises(CohortError, match=reason):
        medmnist(write_archive(f"{name}.npz"), out_dir=tmp_path / "out")
    write_archive("second.npz")
    with pytest.raises(CohortError, match=r"one \.npz file, got 2"):
        medmnist(tmp_path / "release", out_dir=tmp_path / "out")


def test_recipes_by_name(write_archive, tmp_path):
    folder = write_archive("pneumoniamnist.npz")
    cohort, _ = build_recipe("medmnist", folder, images_to=tmp_path / "out")
    assert cohort.root == tmp_path / "out"
    assert sorted(RECIPES) == ["brats", "cbis-ddsm", "chestxray14", "medmnist", "rsna-pneumonia"]
    for name in set(RECIPES) - {"medmnist"}:
        with pytest.raises(CohortError, match=r"the folder must hold|must be in the folder"):
            build_recipe(name, folder, images_to=tmp_path)
    with pytest.raises(ValueError, match="the recipe must be one of"):
        build_recipe("other", folder, images_to=tmp_path)
    with pytest.raises(ValueError, match="labels and sequence are for the recipe brats"):
        build_recipe("medmnist", folder, images_to=tmp_path, sequence="t1")
    with pytest.raises(ValueError, match="sequence must be one of"):
        build_recipe("brats", folder, images_to=tmp_path, sequence="t9")
