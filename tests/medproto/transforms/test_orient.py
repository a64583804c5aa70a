import itertools

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medproto.data import read_image
from medproto.errors import ImageReadError
from medproto.transforms import FitImage, LoadRadiograph, OrientVolume

BLOCK = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
CODES = [
    "".join(code)
    for letters in itertools.permutations(["LR", "PA", "SI"])
    for code in itertools.product(*letters)
]


@pytest.fixture
def write_nifti(tmp_path):
    def write(code, *, spacing=(2.0, 3.0, 4.0)):
        """Write `BLOCK` with axes that run toward the sides of a code, a little obliquely."""
        signs = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "S": (2, 1), "I": (2, -1)}
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, letter in enumerate(code):
            side, sign = signs[letter]
            affine[side, axis] = sign * spacing[axis]
        turn = np.radians(5)
        oblique = np.eye(4)
        oblique[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        affine[:3, 3] = (-7, 11, 13)
        nibabel.save(nibabel.Nifti1Image(BLOCK, oblique @ affine), tmp_path / "a.nii.gz")
        return tmp_path / "a.nii.gz"

    return write


@pytest.mark.parametrize("code", CODES)
def test_a_volume_is_turned_as_nibabel_turns_it(write_nifti, code):
    path = write_nifti(code)
    image = LoadRadiograph("window:360,720")(path)
    turned = OrientVolume("PLS")(image)
    reference = nibabel.load(path)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(reference.affine), nibabel.orientations.axcodes2ornt("PLS")
    )
    expected = reference.as_reoriented(change)
    np.testing.assert_allclose(
        turned.as_tensor()[0], np.asarray(expected.dataobj) / 720.0, atol=1e-6
    )
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("code", CODES)
def test_the_placement_leads_back_to_the_stored_voxel_and_the_patient(write_nifti, code):
    path = write_nifti(code)
    stored = read_image(path, voi="window:360,720")
    turned = FitImage((16, 20, 24))(OrientVolume("PLS")(LoadRadiograph("window:360,720")(path)))
    placement = turned.meta["placement"]
    index = (2, 6, 7)
    position = tuple(i + 0.5 for i in index)
    there = placement.to_network(position)
    assert placement.to_stored(there) == pytest.approx(position)
    # MONAI's affine of the network's input and ours of the file say the same place.
    world = turned.affine.numpy() @ [*(p - 0.5 for p in there), 1]
    left, back, head = stored.reference.to_patient(position)
    assert world[:3] == pytest.approx([-left, -back, head], abs=1e-4)
    # Rows run to the back, columns to the left, slices to the head.
    for axis, side in enumerate([1, 0, 2]):
        further = list(there)
        further[axis] += 1
        ahead = stored.reference.to_patient(placement.to_stored(further))
        assert ahead[side] > (left, back, head)[side]


def test_the_letterbox_keeps_millimetres(write_nifti):
    # 8 x 9 x 10 voxels of 2 x 3 x 4 mm are 16 x 27 x 40 mm.
    fitted = FitImage((40, 40, 40))(LoadRadiograph("percentile")(write_nifti("PLS")))
    assert fitted.meta["placement"].scale == pytest.approx((2, 3, 4))
    assert fitted.meta["placement"].offset == (12, 6, 0)


def test_planes_pass_and_volumes_without_a_place_are_refused(write_nifti, tmp_path):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "a.png")
    plane = LoadRadiograph()(tmp_path / "a.png")
    assert OrientVolume()(plane) is plane
    path = write_nifti("LPS")
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(BLOCK, image.affine), tmp_path / "b.nii")
    content = bytearray((tmp_path / "b.nii").read_bytes())
    content[252:256] = bytes(4)
    (tmp_path / "b.nii").write_bytes(content)
    with pytest.raises(ImageReadError, match="must say how it lies in the patient"):
        OrientVolume()(LoadRadiograph("percentile")(tmp_path / "b.nii"))


@pytest.mark.parametrize("code", ["", "PL", "PLSS", "PPS", "PAS", "XYZ", "pls"])
def test_a_wrong_code_is_refused(code):
    with pytest.raises(ValueError, match="one letter of LR, one of PA and one of SI"):
        OrientVolume(code)


def test_the_volume_itself_is_not_changed(write_nifti):
    image = LoadRadiograph("percentile")(write_nifti("RAS"))
    before = image.clone()
    OrientVolume("PLS")(image)
    assert torch.equal(image.as_tensor(), before.as_tensor())
