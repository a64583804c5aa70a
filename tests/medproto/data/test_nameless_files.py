import gzip
import io

import nibabel
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medproto.data import nameless_files, read_image
from medproto.data.nameless_files import copy_nameless
from medproto.errors import ImageReadError

BLOCK = np.arange(9 * 10 * 11, dtype=np.int16).reshape(9, 10, 11)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_copy_has_its_values_and_no_text(tmp_path, kind, name):
    image = kind(BLOCK, np.diag([1, 2, 3, 1]))
    image.header["descrip"] = b"PLANTED Jane"
    image.header["aux_file"] = b"PLANTED.hdr"
    image.header["intent_name"] = b"PLANTED"
    if kind is nibabel.Nifti1Image:
        image.header["db_name"] = b"PLANTED"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"PLANTED ext"))
    nibabel.save(image, tmp_path / f"PLANTED-{name}")
    copy_nameless(tmp_path / f"PLANTED-{name}", tmp_path / "b", kind="NIfTI")
    content = (tmp_path / "b").read_bytes()
    assert b"PLANTED" not in content
    if name.endswith(".gz"):
        assert b"PLANTED" not in gzip.decompress(content)
    before = read_image(tmp_path / f"PLANTED-{name}", voi="percentile")
    after = read_image(tmp_path / "b", voi="percentile")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_a_png_copy_has_its_pixels_and_no_text(tmp_path, mode):
    gray = Image.fromarray((np.arange(96, dtype=np.uint16) * 300).reshape(8, 12))
    image = (
        gray
        if mode == "I;16"
        else Image.fromarray((np.arange(96) % 250).astype(np.uint8).reshape(8, 12)).convert(mode)
    )
    text = PngInfo()
    text.add_text("Author", "PLANTED Jane")
    text.add_itxt("Comment", "PLANTED")
    image.save(tmp_path / "a.png", pnginfo=text)
    copy_nameless(tmp_path / "a.png", tmp_path / "b.png", kind="PNG")
    assert b"PLANTED" in (tmp_path / "a.png").read_bytes()
    assert b"PLANTED" not in (tmp_path / "b.png").read_bytes()
    before, after = read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png")
    assert after.reference == before.reference
    np.testing.assert_array_equal(after.pixels, before.pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_copy_has_its_pixels_and_no_text(tmp_path, mode, progressive):
    noise = np.random.default_rng(0).integers(0, 255, (40, 32, 4), dtype=np.uint8)
    image = Image.fromarray(noise[..., :3]).convert(mode)
    exif = Image.Exif()
    exif[0x013B] = "PLANTED Jane"  # Artist
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"PLANTED comment", progressive=progressive)
    copy_nameless(tmp_path / "a.jpg", tmp_path / "b.jpg", kind="JPEG")
    assert b"PLANTED" in (tmp_path / "a.jpg").read_bytes()
    assert b"PLANTED" not in (tmp_path / "b.jpg").read_bytes()
    before, after = (np.asarray(Image.open(tmp_path / f"{k}.jpg")) for k in "ab")
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("kind", ["NIfTI", "PNG", "JPEG"])
def test_a_damaged_file_is_refused_and_leaves_nothing(tmp_path, kind):
    whole = io.BytesIO()
    if kind == "NIfTI":
        whole.write(nibabel.Nifti1Image(BLOCK, np.eye(4)).to_bytes()[:200])
    else:
        Image.fromarray(np.zeros((50, 50), np.uint8)).save(whole, format=kind)
        whole = io.BytesIO(whole.getvalue()[:60])
    (tmp_path / "a").write_bytes(whole.getvalue())
    with pytest.raises(ImageReadError, match=rf"{kind}"):
        copy_nameless(tmp_path / "a", tmp_path / "out" / "b", kind=kind)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("most", "whole"), [(BLOCK.nbytes, True), (BLOCK.nbytes - 1, False)])
def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, most, whole):
    monkeypatch.setattr(nameless_files, "MAX_BYTES", most)
    monkeypatch.setattr(nameless_files, "_PART", 100)
    nibabel.save(nibabel.Nifti1Image(BLOCK, np.eye(4)), tmp_path / "a.nii.gz")
    target = tmp_path / "out" / "b.nii.gz"
    if whole:
        copy_nameless(tmp_path / "a.nii.gz", target, kind="NIfTI")
        np.testing.assert_array_equal(np.asarray(nibabel.load(target).dataobj), BLOCK)
        return
    with pytest.raises(ImageReadError, match="at most 1979 bytes unpacked, and have more"):
        copy_nameless(tmp_path / "a.nii.gz", target, kind="NIfTI")
    assert not list((tmp_path / "out").iterdir())
