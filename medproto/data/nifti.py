"""NIfTI volumes through nibabel: values, spacing and the way to patient coordinates.

Symbols: ``*S`` the three axes of the file in its own order; which way they run says the affine.

A NIfTI file has neither a modality nor, as a rule, a gray range: its numbers are Hounsfield units,
or whatever the scanner gave. So the range is the file's ``cal_min`` and ``cal_max`` where these are
set, or must be named.

References:
    [1] The NIfTI-1 data format, https://nifti.nimh.nih.gov/nifti-1
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from medproto.data.frames import chosen_frame
from medproto.data.gray import GrayPolicy, GrayValues, Voi, apply_range
from medproto.data.stored import (
    MIN_SIDE,
    check_bytes,
    check_voxels,
    pixel_digest,
    quietly,
    refusing,
)
from medproto.errors import ImageReadError
from medproto.records import ImageReference

__all__ = ["read_nifti", "read_nifti_stored"]

_LEAST_VOLUME = 0.1
"""Of the unit cube along the file's axes: 1 for right angles, 0 for axes in one plane."""

_MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


def read_nifti(
    path: Path, *, policy: GrayPolicy, frame: int | None = None
) -> tuple[NDArray[np.float32], ImageReference]:
    """Return gray values ``[*S]`` in [0, 1] and what is known of the volume.

    Args:
        policy: with ``"voi"`` the range is ``cal_min`` to ``cal_max`` of the file.
        frame: zero-based volume along the fourth axis; ``None`` for a file of a single one.

    Raises:
        ImageReadError: if the file is damaged, has other than three axes in space, too many
            voxels, values that are no finite real numbers, or no gray range where it is needed.
    """
    with quietly(), refusing("the NIfTI volume"), _opened(path) as stream:
        image = _image(stream)
        stored = _stored(image, frame)
        if min(stored.shape[:2]) < MIN_SIDE:
            raise ImageReadError(
                f"a volume must have at least {MIN_SIDE} x {MIN_SIDE} x 1 voxels, got "
                f"{' x '.join(map(str, stored.shape))}."
            )
        gray = _to_gray(stored, image, policy)
        affine, spacing = _geometry(image)
        reference = ImageReference(
            pixel_digest=pixel_digest(stored),
            shape=stored.shape,
            modality="NIFTI",
            bits_stored=8 * stored.dtype.itemsize,
            spacing_mm=spacing,
            spacing_kind="none" if spacing is None else "affine",
            voi=gray.kind,
            window=gray.window,
            frame=frame,
            affine=affine,
        )
        return gray.pixels.astype(np.float32), reference


def read_nifti_stored(path: Path, *, frame: int | None = None) -> NDArray[Any]:
    """Return the stored values ``[*S]``, before the file's scale and offset.

    Raises:
        ImageReadError: as `read_nifti`.
    """
    with quietly(), refusing("the NIfTI volume"), _opened(path) as stream:
        return _stored(_image(stream), frame)


def _opened(path: Path) -> BinaryIO:
    """Open a file, compressed or not: what it holds decides, not its name."""
    check_bytes(path)
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path) if compressed else path.open("rb"))


def _image(stream: BinaryIO) -> Any:
    """Return the image, its values not yet read."""
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(0, io.SEEK_SET)
    second = size in (540, int.from_bytes((540).to_bytes(4, "big"), "little"))
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    return kind.from_stream(stream)


def _stored(image: Any, frame: int | None) -> NDArray[Any]:
    shape = tuple(int(side) for side in image.shape)
    if len(shape) < 3 or any(side != 1 for side in shape[4:]):
        raise ImageReadError(f"a NIfTI volume must have 3 axes in space, got {list(shape)}.")
    check_voxels(shape[:3])
    index = chosen_frame(shape[3] if len(shape) > 3 else 1, frame, what="volume")
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ImageReadError("a NIfTI volume must hold real numbers of at most 64 bits.")
    data = image.dataobj
    wanted = (slice(None), slice(None), slice(None), index, *[0] * (len(shape) - 4))
    stored = np.asarray(data.get_unscaled() if len(shape) == 3 else _unscaled(data, wanted))
    if not np.isfinite(stored).all():
        raise ImageReadError("values must be finite, got NaN or infinity.")
    return stored


def _unscaled(data: Any, wanted: tuple[Any, ...]) -> NDArray[Any]:
    """Read one volume of several; the slices of nibabel's proxy come scaled."""
    plain = type(data)(data.file_like, (data.shape, data.dtype, data.offset, 1.0, 0.0))
    return np.asarray(plain[wanted]).astype(data.dtype)


def _to_gray(stored: NDArray[Any], image: Any, policy: GrayPolicy) -> Voi:
    # Not the header's: nibabel clears these once it has read them.
    slope, offset = float(image.dataobj.slope), float(image.dataobj.inter)
    values = stored.astype(np.float64) * slope + offset
    if policy.kind == "voi":
        low, high = (float(image.header[key]) for key in ("cal_min", "cal_max"))
        if not np.isfinite([low, high]).all() or not low < high:
            raise ImageReadError(
                "a NIfTI volume without cal_min and cal_max has no gray range of its own: name one "
                "(window:CENTER,WIDTH, in Hounsfield units of a CT), or take the policy percentile."
            )
        window = ((low + high) / 2, high - low)
        return apply_range(GrayValues(values, 0, 0), GrayPolicy("window", window))._replace(
            kind="window"
        )
    low, high = -np.inf, np.inf
    if stored.dtype.kind in "iu":
        ends = np.iinfo(stored.dtype)
        low, high = sorted((ends.min * slope + offset, ends.max * slope + offset))
    return apply_range(GrayValues(values, low, high), policy)


def _geometry(
    image: Any,
) -> tuple[tuple[tuple[float, ...], ...] | None, tuple[float, ...] | None]:
    """Return the affine to DICOM's patient axes and the spacing; ``None`` where it is not given."""
    header = image.header
    unit = _MILLIMETRES[header.get_xyzt_units()[0]]
    known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    if not known:
        steps = [float(v) * unit for v in header.get_zooms()[:3]]
        valid = all(1e-3 <= step <= 100 for step in steps)
        return None, tuple(steps) if valid else None
    # NIfTI counts to the right and the front, DICOM to the left and the back.
    affine = np.diag([-unit, -unit, unit]) @ np.asarray(image.affine, np.float64)[:3]
    steps = np.linalg.norm(affine[:, :3], axis=0)
    if not np.isfinite(affine).all() or not ((steps >= 1e-3) & (steps <= 100)).all():
        raise ImageReadError("the affine must give plausible distances, and does not.")
    if abs(np.linalg.det(affine[:, :3] / steps)) < _LEAST_VOLUME:
        raise ImageReadError(
            "the axes of the affine must point three ways in the patient, and lie in a plane."
        )
    return (
        tuple(tuple(float(v) for v in row) for row in affine),
        tuple(float(step) for step in steps),
    )
