"""A drawing is found where it is, whatever file it comes in and whichever way that is stored."""

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from medproto.explain import explain
from medproto.networks import ProtoPNet
from medproto.records import PixelBox, PrototypeSource
from medproto.transforms import preprocessing

CORNER = (26, 64)  # of the drawing, in an image of 120 x 96
SIZE = (120, 96)
SIDE = 96


def drawing(dims=2):
    """An F with a dot, bright on gray: no turn and no mirror leaves it as it is."""
    figure = np.zeros((18, 14, 10)[:dims])
    figure[:, 0:4] = figure[0:4, :] = figure[8:11, :9] = 1
    figure[14:17, 10:13] = 1
    if dims == 3:
        figure[:, :, 7:] = 0
    return figure


def picture():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    image = 0.35 + 0.1 * np.sin(rows / 17) * np.cos(columns / 23)
    image[CORNER[0] : CORNER[0] + 18, CORNER[1] : CORNER[1] + 14] += 0.5 * drawing()
    return image


def png(path, image):
    Image.fromarray((255 * image).astype(np.uint8)).save(path, format="PNG")


def dicom(path, image, *, inverted=False):
    stored = (4095 * (1 - image if inverted else image)).astype(np.uint16)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PixelSpacing = [0.5, 0.5]
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def explained(network, path, size):
    image = preprocessing(size, voi="full-range")({"image": path})["image"]
    source = PrototypeSource(
        0, 1, "b", 0, "g", "sha256:1", (0,) * len(size), PixelBox((0,) * 2, (1,) * 2), 0.0, 10.0
    )
    return explain(
        network,
        image.as_tensor(),
        reference=image.meta["reference"],
        placement=image.meta["placement"],
        classes=("a", "b"),
        sources=(source,),
        model_digest="sha256:2",
        faithfulness=0,
    ), image


def taught(dims, size, path, at):
    """Return a network whose one prototype is the patch at stored position ``at`` of a file."""
    torch.manual_seed(0)
    network = ProtoPNet(
        dims,
        1,
        2,
        image_size=size,
        head="binary",
        prototypes_per_class=1,
        backbone="efficientnet_lite0" if dims == 2 else "resnet18",
        weights="package" if dims == 2 else None,
        stage=3 if dims == 2 else 1,
        margin=0,
    ).eval()
    with torch.no_grad():
        image = preprocessing(size, voi="full-range")({"image": path})["image"]
        features = network.features(image.as_tensor()[None])[0]
        grid, there = network.feature_grid, image.meta["placement"].to_network(at)
        cell = [
            round((p - first) / stride)
            for p, first, stride in zip(there, grid.first_center, grid.stride)
        ]
        network.prototype_layer.vectors[0] = features[(slice(None), *cell)].reshape(
            network.prototype_layer.vectors[0].shape
        )
    return network


CENTER = (CORNER[0] + 9, CORNER[1] + 7)
COPIES = {
    "PNG": (lambda path, image: png(path, image), CENTER),
    "DICOM": (lambda path, image: dicom(path, image), CENTER),
    "MONOCHROME1": (lambda path, image: dicom(path, image, inverted=True), CENTER),
    "letterboxed": (
        lambda path, image: png(path, np.pad(image, ((0, 0), (14, 10)))),
        (CENTER[0], CENTER[1] + 14),
    ),
    "cropped": (lambda path, image: dicom(path, image[10:, 20:]), (CENTER[0] - 10, CENTER[1] - 20)),
    "transposed": (lambda path, image: png(path, image.T), CENTER[::-1]),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("taught") / "a.png"
    png(path, picture())
    return taught(2, (SIDE, SIDE), path, CENTER)


@pytest.mark.parametrize("name", COPIES)
def test_the_same_place_in_every_copy(network, tmp_path, name):
    write, expected = COPIES[name]
    write(tmp_path / "copy", picture())
    explanation, image = explained(network, tmp_path / "copy", (SIDE, SIDE))
    (evidence,) = explanation.evidence
    cell = [
        stride / abs(scale)
        for stride, scale in zip(network.feature_grid.stride, image.meta["placement"].scale)
    ]
    off = [abs(a - b) for a, b in zip(evidence.box.center, expected)]
    assert all(distance <= one for distance, one in zip(off, cell)), (off, cell)


def volume():
    block = np.random.default_rng(0).uniform(0.3, 0.4, (60, 52, 40))
    block[8:26, 30:44, 22:32] += 0.5 * drawing(3)
    return (255 * block).astype(np.uint8)


AT = (17, 37, 26)


def nifti(path, block, code):
    """Store a block whose axes run to the back, the left and the head along another code."""
    image = nibabel.Nifti1Image(block, np.diag([-1.0, -1.0, 1.0, 1.0])[[1, 0, 2, 3]])
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(code))
    )
    nibabel.save(image.as_reoriented(change), path)


@pytest.fixture(scope="module")
def network_3d(tmp_path_factory):
    path = tmp_path_factory.mktemp("taught") / "a.nii"
    nifti(path, volume(), "PLS")
    return taught(3, (64, 64, 64), path, AT)


@pytest.mark.parametrize("code", ["PLS", "LPS", "RAS", "SAR", "IRA"])
def test_the_same_place_in_a_volume_whichever_way_it_is_stored(network_3d, tmp_path, code):
    nifti(tmp_path / "a.nii", volume(), code)
    explanation, image = explained(network_3d, tmp_path / "a.nii", (64, 64, 64))
    (evidence,) = explanation.evidence
    # The place in the patient is the same; in the stored block it is where the code puts it.
    reference = image.meta["reference"]
    center = network_3d.feature_grid.center(evidence.cell)
    found = reference.to_patient(image.meta["placement"].to_stored(center))
    expected = (AT[1] - 0.5, AT[0] - 0.5, AT[2] - 0.5)  # left, back, head; 1 mm voxels
    cell = network_3d.feature_grid.stride[0] / abs(image.meta["placement"].scale[0])
    assert max(abs(a - b) for a, b in zip(found, expected)) <= cell
    # The box of a network that never learned is wide, and lies around that place.
    corners = [reference.to_patient(corner) for corner in (evidence.box.start, evidence.box.stop)]
    for low, high, place in zip(*corners, expected):
        assert min(low, high) <= place <= max(low, high)
