"""Synthetic cohorts of several findings and of grades; that of two classes stays what it was."""

import csv
import json
from collections import Counter

import numpy as np
import pydicom
import pytest

from medproto.data import Cohort, check_cohort, from_dicom, read_image, read_mask, split_cohort
from medproto.data.phantom import draw_phantom, make_phantom_cohort
from medproto.data.phantom_anatomy import Anatomy, Pose, draw_scene
from medproto.data.phantom_findings import plant
from medproto.data.phantom_tasks import GRADES, deal

FINDINGS = ("nodule", "effusion")
COLUMNS = (*FINDINGS, "no_finding")


def rows_of(labels):
    with labels.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    out = tmp_path_factory.mktemp("several")
    labels = make_phantom_cohort(
        out, patients=40, size=64, seed=3, shortcut=True, task="multilabel"
    )
    return out, rows_of(labels)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    out = tmp_path_factory.mktemp("graded")
    labels = make_phantom_cohort(out, patients=24, size=64, seed=3, task="ordinal")
    return out, rows_of(labels)


def scene_of(seed, n):
    rng = np.random.default_rng(seed)
    return draw_scene(Anatomy.draw(rng), Pose.draw(rng), n)


def boxes(text):
    return [[int(v) for v in part.split(",")] for part in filter(None, text.split(";"))]


# ---- effusion


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_an_effusion_changes_the_density_inside_its_mask_only(grade):
    scene = scene_of(0, 192)
    added, mask = plant("effusion", scene, np.random.default_rng(1), grade=grade)
    assert mask.any()
    assert not added[~mask].any()
    assert added[mask].mean() > 0.05
    assert (scene.air[mask] > 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_an_effusion_lies_at_the_bottom_of_one_lung_with_a_meniscus(seed):
    n = 256
    scene = scene_of(seed, n)
    _, mask = plant("effusion", scene, np.random.default_rng(seed), grade=3)
    right = (mask & scene.right).any()
    assert right != (mask & ~scene.right).any()
    lung = scene.lungs & (scene.right if right else ~scene.right)
    assert np.nonzero(mask)[0].max() >= np.nonzero(lung)[0].max()
    cols = np.flatnonzero(mask.any(axis=0))
    surface = np.array([np.flatnonzero(mask[:, col]).min() for col in cols])
    outward = surface if right else surface[::-1]
    # Highest at the chest wall (after the wall's own slope), lower a third of the way in.
    assert outward[: len(outward) // 5].min() < outward[len(outward) // 3] - 0.03 * n


@pytest.mark.parametrize("n", [64, 160])
def test_the_heights_of_two_grades_never_meet(n):
    """Of the mask, which the surface's soft edge and the lung's own slope make a little taller."""
    heights = {1: [], 2: [], 3: []}
    for seed in range(12):
        scene = scene_of(seed, n)
        for grade, found in heights.items():
            _, mask = plant("effusion", scene, np.random.default_rng(seed), grade=grade)
            rows = np.flatnonzero(mask.any(axis=1))
            found.append((rows.max() + 1 - rows.min()) / n)
    assert min(heights[1]) > 0.04
    assert max(heights[1]) < min(heights[2])
    assert max(heights[2]) < min(heights[3])
    assert max(heights[3]) < 0.36


def test_two_findings_do_not_overlap_and_the_rest_of_the_picture_stays():
    anatomy = Anatomy.draw(np.random.default_rng(4))
    well = draw_phantom(anatomy, (), size=128, seed=8)
    assert not well.mask.any()
    assert well.masks == {}
    np.testing.assert_array_equal(
        well.pixels, draw_phantom(anatomy, "normal", size=128, seed=8).pixels
    )
    for seed in range(8):
        well = draw_phantom(anatomy, (), size=128, seed=seed)
        both = draw_phantom(anatomy, FINDINGS, size=128, seed=seed)
        assert set(both.masks) == set(FINDINGS)
        assert not (both.masks["nodule"] & both.masks["effusion"]).any()
        np.testing.assert_array_equal(both.mask, both.masks["nodule"] | both.masks["effusion"])
        changed = np.abs(both.pixels.astype(int) - well.pixels.astype(int))
        for mask in both.masks.values():
            assert changed[mask].mean() > 5 * changed[~both.mask].mean()


def test_a_grade_is_an_effusion_of_that_size():
    anatomy = Anatomy.draw(np.random.default_rng(4))
    images = [draw_phantom(anatomy, f"grade {k}", size=128, seed=8) for k in range(4)]
    areas = [image.mask.sum() for image in images]
    assert areas[0] == 0
    assert areas == sorted(areas)
    assert len(set(areas)) == 4
    assert set(images[3].masks) == {"effusion"}


# ---- several findings


def test_every_set_of_findings_occurs_and_masks_say_which(several):
    """An uncertain cell hides what the boxes still tell: what was drawn."""
    out, rows = several
    drawn = Counter(tuple(bool(row[f"box_{name}"]) for name in FINDINGS) for row in rows)
    assert set(drawn) == {(False, False), (False, True), (True, False), (True, True)}
    for row in rows:
        for name in FINDINGS:
            assert row[name] in ("-1", str(int(bool(row[f"box_{name}"]))))
        each = [box for name in FINDINGS for box in boxes(row[f"box_{name}"])]
        assert sorted(boxes(row["box"])) == sorted(each)
        assert bool(row["mask"]) == bool(each)
        if row["mask"]:
            outside = read_mask(out / row["mask"])
            for row0, col0, row1, col1 in each:
                assert outside[row0:row1, col0:col1].any()
            for row0, col0, row1, col1 in each:
                outside[row0:row1, col0:col1] = False
            assert not outside.any()


def test_a_tenth_of_the_cells_is_uncertain_and_no_finding_keeps_the_secret(several):
    _, rows = several
    assert list(rows[0])[:4] == ["image", *COLUMNS]
    for name in FINDINGS:
        assert sum(row[name] == "-1" for row in rows) == round(0.1 * len(rows))
    for row in rows:
        cells = {row[name] for name in FINDINGS}
        expected = "0" if "1" in cells else "-1" if "-1" in cells else "1"
        assert row["no_finding"] == expected


def test_the_cohort_of_several_findings_is_sound(several):
    out, _ = several
    built = from_dicom(out, labels=out / "labels.csv", key="k", label_columns=COLUMNS).cohort
    cohort = split_cohort(built, seed=0)
    report = check_cohort(cohort)
    assert report.ok, report.problems[:3]
    assert report.summary["contradictions"] == []
    direct = Cohort.read(out / "labels.csv", label_columns=COLUMNS)
    np.testing.assert_array_equal(direct.targets(), cohort.targets())


# ---- grades


def test_grades_are_dealt_evenly_and_their_size_is_in_the_mask(graded):
    out, rows = graded
    patients = {row["image"][10:14]: row["label"] for row in rows}
    assert Counter(patients.values()) == {f"grade {k}": 6 for k in range(4)}
    height = {f"grade {k}": [] for k in range(4)}
    for row in rows:
        tall = [(box[2] - box[0]) / 64 for box in boxes(row["box"])]
        height[row["label"]] += tall or [0.0]
    for low, high in ((0, 1), (1, 2), (2, 3)):
        assert max(height[f"grade {low}"]) < min(height[f"grade {high}"])
    cohort = from_dicom(out, labels=out / "labels.csv", key="k").cohort
    assert cohort.classes == ("grade 0", "grade 1", "grade 2", "grade 3")
    assert check_cohort(split_cohort(cohort, seed=0)).ok


# ---- no leak


def test_neither_number_order_nor_header_tells_what_is_shown(tmp_path):
    labels = make_phantom_cohort(
        tmp_path, patients=64, images_per_patient=(1, 1), size=64, seed=1, task="multilabel"
    )
    shown, flags = [], []
    for number, row in enumerate(rows_of(labels)):
        ds = pydicom.dcmread(tmp_path / row["image"], stop_before_pixels=True)
        shown.append([bool(row[f"box_{name}"]) for name in FINDINGS])
        flags.append(
            [number % 2, number % 4 > 1, number >= 32, ds.Modality == "DX", ds.PatientSex == "F",
             ds.PhotometricInterpretation == "MONOCHROME1", "WindowCenter" in ds,
             int(ds.StudyDate) > 20130901, int(ds.PatientAge[:3]) > 57]
        )  # fmt: skip
    flags = np.array(flags, dtype=float)
    for there in np.array(shown).T:
        assert there.sum() == 32
        # Of two halves of 32, 0.4 is 3.2 standard errors.
        assert (np.abs(flags[there].mean(axis=0) - flags[~there].mean(axis=0)) < 0.4).all()


def test_grades_come_in_no_order():
    grades = [GRADES.index(name) for name in deal("ordinal", GRADES, 400, seed=0)]
    assert Counter(grades) == dict.fromkeys(range(4), 100)
    number = np.arange(400)
    # Of 400 pairs without a relation the correlation has a standard error of 0.05.
    for order in (number, number % 2, number % 4, number // 2 % 2):
        assert abs(np.corrcoef(order, grades)[0, 1]) < 0.15
    assert grades != [GRADES.index(name) for name in deal("ordinal", GRADES, 400, seed=1)]


def test_the_shortcut_goes_with_any_finding(several):
    out, rows = several
    points = json.loads((out / "landmarks.json").read_text())
    marked = {True: [], False: []}
    for row in rows:
        marked[bool(row["mask"])].append("shortcut" in points[row["image"]])
    assert np.mean(marked[True]) > 0.8
    assert np.mean(marked[False]) < 0.2


# ---- the cohort of two classes


def test_the_cohort_of_two_classes_is_that_of_the_release_before(tmp_path):
    """Table, identifiers and gray values of the version that knew no other task."""
    labels = make_phantom_cohort(tmp_path, patients=4, size=64, seed=9)
    assert labels.read_text().splitlines() == [
        "image,label,mask,box,synthetic",
        "dicom/img_0000_0.dcm,normal,,,1",
        "dicom/img_0000_1.dcm,normal,,,1",
        'dicom/img_0001_0.dcm,nodule,masks/img_0001_0.png,"19,36,27,43",1',
        "dicom/img_0002_0.dcm,normal,,,1",
        "dicom/img_0002_1.dcm,normal,,,1",
        "dicom/img_0002_2.dcm,normal,,,1",
        'dicom/img_0003_0.dcm,nodule,masks/img_0003_0.png,"17,40,22,45",1',
        'dicom/img_0003_1.dcm,nodule,masks/img_0003_1.png,"20,14,25,19",1',
    ]
    before = {
        "0000_0": [1655, 3171, 3698],
        "0001_0": [1642, 1603, 3614],
        "0002_2": [1477, 1536, 3508],
        "0003_1": [1844, 2332, 3931],
    }
    for name, expected in before.items():
        pixels = read_image(tmp_path / f"dicom/img_{name}.dcm", voi="full-range").pixels * 4095
        found = [pixels[place] for place in ((32, 20), (40, 44), (60, 32))]
        # One gray value of 4096: mathematical libraries differ in the last bit.
        np.testing.assert_allclose(found, expected, atol=1.01)
    uid = pydicom.dcmread(tmp_path / "dicom/img_0003_1.dcm").SOPInstanceUID
    assert uid == "1.2.826.0.1.3680043.8.498.40924889554023338820786547838960366605"


@pytest.mark.parametrize("task", ["multilabel", "ordinal"])
def test_same_seed_same_bytes(tmp_path, task):
    for name in ("a", "b"):
        make_phantom_cohort(tmp_path / name, patients=8, size=64, seed=9, task=task)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "task must be one of multiclass, multilabel, ordinal, got"),
        ({"task": "multilabel", "patients": 7}, "two a set of findings, 8 in all, got 7"),
        ({"task": "multilabel", "classes": ("normal", "nodule")}, "nodule, reticular, effusion"),
        ({"task": "ordinal", "patients": 7}, "two a class, 8 in all, got 7"),
        ({"task": "ordinal", "classes": ("mild", "severe")}, "two or more of grade 0, grade 1"),
    ],
)
def test_arguments_out_of_range(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_phantom_cohort(tmp_path / "x", **change)
    assert not (tmp_path / "x").exists()
