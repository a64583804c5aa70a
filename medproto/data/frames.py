"""One frame of a DICOM object as if it were a file of its own.

An enhanced object says most of what belongs to a frame in functional groups: those that all frames
share, and those of each. Here they are laid flat, so that what reads a plain image reads a frame.

References:
    [1] DICOM PS3.3, C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from medproto.errors import ImageReadError

__all__ = ["MAX_FRAMES", "chosen_frame", "frame_count", "frame_dataset"]

MAX_FRAMES = 20_000
"""Most frames of one object; the largest enhanced series have some thousands."""

_SHARED, _OWN = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# The groups whose elements mean the same as the ones of a plain image.
_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
)


def frame_count(dataset: Dataset) -> int:
    """Return ``NumberOfFrames``, 1 where it is absent.

    Raises:
        ImageReadError: if it is no number in 1..`MAX_FRAMES`.
    """
    try:
        count = int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise ImageReadError("NumberOfFrames must be a whole number, and is not.") from None
    if not 1 <= count <= MAX_FRAMES:
        raise ImageReadError(f"NumberOfFrames must lie in 1..{MAX_FRAMES}, got {count}.")
    return count


def chosen_frame(count: int, frame: int | None, *, what: str = "frame") -> int:
    """Return the zero-based frame to read: the one that was named, or the only one.

    Args:
        count: of frames in the file.
        what: how one of them is called.

    Raises:
        ImageReadError: if none is named of several, or there is no such frame.
    """
    if frame is None and count > 1:
        raise ImageReadError(
            f"an image must be one {what}, the file holds {count}: name one, counted from 0, in "
            "the column 'frame' (of a single file by --frame)."
        )
    if frame is not None and not 0 <= frame < count:
        raise ImageReadError(f"the frame must lie in 0..{count - 1}, got {frame}.")
    return frame or 0


def frame_dataset(dataset: Dataset, frame: int) -> Dataset:
    """Return the elements that hold for one zero-based frame, without pixels; [1].

    Of an object without functional groups these are all elements. What a frame says goes before
    what all share, and that before the object's own elements.
    """
    if _SHARED not in dataset and _OWN not in dataset:
        return dataset
    flat = Dataset()
    implicit, little = dataset.original_encoding
    flat.set_original_encoding(implicit, little, dataset.original_character_set)
    for element in dataset:
        if element.keyword not in (_SHARED, _OWN, "PixelData"):
            flat.add(element)
    for item in _items(dataset, frame):
        for name in _GROUPS:
            group = item.get(name)
            for element in group[0] if group else ():
                flat.add(element)
    return flat


def _items(dataset: Dataset, frame: int) -> Iterator[Dataset]:
    shared = dataset.get(_SHARED)
    if shared:
        yield shared[0]
    own = dataset.get(_OWN)
    if own:
        if frame >= len(own):
            raise ImageReadError(
                f"every frame must have its functional groups: there are {len(own)}, and frame "
                f"{frame} is asked for."
            )
        yield own[frame]
