"""Build a cohort table from a MedMNIST archive: images and labels with a ready-made split.

References:
    [1] Yang et al., "MedMNIST v2", Scientific Data 10 (2023) 41. https://medmnist.com
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from medproto.data.builders import BuiltCohort
from medproto.data.cohort import Cohort
from medproto.data.stored import MIN_SIDE, pixel_digest
from medproto.errors import CohortError

__all__ = ["from_npz"]

# In the order in which a split keeps an image that recurs: the later ones lose it.
_SPLITS = ("test", "val", "train")


def from_npz(source: Path, out_dir: Path, *, classes: Sequence[str] | None = None) -> BuiltCohort:
    """Build a cohort from ``{train,val,test}_{images,labels}`` of an ``.npz`` file, see [1].

    Images are written as lossless PNG under ``out_dir/images``. An image whose pixels recur in
    another split leaks: it stays in ``test``, else in ``val``, and each row dropped is named in the
    notes. Identical images within a split stay; they form one group.

    Args:
        source: archive with ``uint8`` or ``uint16`` images ``[n, rows, columns]`` (``uint8`` also
            ``[n, rows, columns, 3]``) and whole-number labels ``[n]`` or ``[n, 1]``.
        out_dir: folder of the images, and root of the cohort.
        classes: names of the labels 0, 1, …; ``None`` takes the numbers themselves.

    Raises:
        CohortError: if the archive is unreadable or of another layout, or ``classes`` are too few.
    """
    arrays = _load(Path(source))
    out_dir = Path(out_dir)
    seen: dict[str, tuple[str, int]] = {}
    rows: list[dict[str, Any]] = []
    dropped: list[str] = []
    for split in _SPLITS:
        images, labels = arrays[split]
        for number, image in enumerate(images):
            digest = pixel_digest(image)
            where = seen.setdefault(digest, (split, number))
            if where[0] != split:
                dropped.append(
                    f"{split} image {number} has the same pixels as {where[0]} image {where[1]} "
                    f"and was dropped from {split}."
                )
                continue
            name = f"images/{split}_{number:06d}.png"
            label = _name(int(labels[number]), classes)
            rows.append({"image": name, "label": label, "split": split, "source_row": number})
    rows.sort(key=lambda row: (-_SPLITS.index(row["split"]), row["source_row"]))
    (out_dir / "images").mkdir(parents=True, exist_ok=True)
    for row in rows:
        Image.fromarray(arrays[row["split"]][0][row["source_row"]]).save(out_dir / row["image"])
    return BuiltCohort(Cohort(pd.DataFrame(rows), out_dir), tuple(dropped))


def _load(source: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return images and labels of each split, checked before anything is written."""
    keys = [f"{split}_{part}" for split in _SPLITS for part in ("images", "labels")]
    try:
        # Pickles would run code of the file.
        with np.load(source, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            arrays = {key: archive[key] for key in keys if not missing}
    except Exception as cause:  # zipfile, zlib and numpy each have their own errors
        raise CohortError(
            f"the archive cannot be read ({type(cause).__name__}): it must be an .npz file of "
            "plain arrays."
        ) from None
    if missing:
        raise CohortError(f"the archive must have the arrays {keys}; {missing} missing.")
    return {
        split: _checked(split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
        for split in _SPLITS
    }


def _checked(
    split: str, images: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    shape = images.shape
    gray = len(shape) == 3 and images.dtype in (np.uint8, np.uint16)
    color = len(shape) == 4 and shape[3] == 3 and images.dtype == np.uint8
    if not (gray or color) or min(shape[1:3]) < MIN_SIDE:
        raise CohortError(
            f"{split}_images must be 8- or 16-bit [n, rows, columns], or 8-bit and [.., 3], "
            f"with sides of at least {MIN_SIDE}, got {images.dtype.name} {list(shape)}."
        )
    single = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    if not single or labels.shape[0] != shape[0] or labels.dtype.kind not in "iu":
        raise CohortError(
            f"{split}_labels must be {shape[0]} whole numbers, one an image, got "
            f"{labels.dtype.name} {list(labels.shape)}."
        )
    return images, labels.reshape(-1)


def _name(label: int, classes: Sequence[str] | None) -> str:
    if classes is None:
        return str(label)
    if not 0 <= label < len(classes):
        raise CohortError(f"classes must name every label, got {len(classes)} names for {label}.")
    return classes[label]
