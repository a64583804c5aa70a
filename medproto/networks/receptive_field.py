"""Where a feature cell lies and how far it sees, from the windows that led to it.

Symbols: ``n`` axes, ``*S`` image, ``*G`` feature cells; positions in network pixels, pixel ``i``
of an axis is centred at ``i + 0.5``.

A layer with kernel ``k``, stride ``s``, dilation ``d`` and ``p`` zeros *before* the first value
turns (cells ``m``, stride ``j``, field ``r``, first centre ``c``) into

    c + j (d (k - 1) / 2 - p),   r + j d (k - 1),   j s,   (m + p + q - d (k - 1) - 1) // s + 1

with ``q`` zeros behind the last value [1]. Shortcuts of residual blocks have a 1x1 window or none,
so the longest path decides the field; the centre is the same along each path.

References:
    [1] Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks",
        Distill 2019. https://distill.pub/2019/computing-receptive-fields
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..records import CellGrid

__all__ = ["Window", "cell_grid", "window_of", "windows_of"]

_SLIDING = (
    nn.Conv2d,
    nn.Conv3d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool2d,
    nn.AvgPool3d,
)


@dataclass(frozen=True, slots=True)
class Window:
    """The sliding window of a convolution or pooling, each value per axis.

    Args:
        kernel: values covered, dilation not counted.
        stride: steps of the window.
        leading: zeros before the first value.
        trailing: zeros behind the last value.
        dilation: distance of neighbouring values covered.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    leading: tuple[int, ...]
    trailing: tuple[int, ...]
    dilation: tuple[int, ...]


def window_of(layer: nn.Module, dims: int, padding: nn.Module | None = None) -> Window:
    """Read the window of a convolution or pooling layer.

    Args:
        layer: a convolution, maximum or average pooling with ``dims`` axes, ``ceil_mode`` off.
        dims: ``n``.
        padding: a layer of constant padding in front of it, whose zeros are added; any other layer
            adds none.
    """
    values: Any = layer
    own = _per_axis(values.padding, dims)
    leading, trailing = list(own), list(own)
    pads = list(getattr(padding, "padding", [0] * 2 * dims))
    for axis in range(dims):
        # Constant padding lists the last axis first, each as (leading, trailing).
        before, behind = pads[2 * (dims - 1 - axis) : 2 * (dims - axis)]
        leading[axis] += before
        trailing[axis] += behind
    return Window(
        _per_axis(values.kernel_size, dims),
        _per_axis(values.stride, dims),
        tuple(leading),
        tuple(trailing),
        _per_axis(getattr(layer, "dilation", 1), dims),
    )


def windows_of(path: nn.Module, dims: int, *, skip: str | None = None) -> Iterator[Window]:
    """Yield the windows of all convolutions and poolings in ``path``, in order of registration.

    Args:
        path: modules that the image passes one after the other.
        dims: ``n``.
        skip: modules with this name, and all in them, lie beside the path.
    """
    for name, module in path.named_modules():
        if isinstance(module, _SLIDING) and skip not in name.split("."):
            yield window_of(module, dims)


def cell_grid(image_size: Sequence[int], windows: Iterable[Window]) -> CellGrid:
    """Return the true place of the cells behind ``windows``, for images ``*S``.

    The field is theoretical and not clipped to the image.

    Raises:
        ValueError: if no cell is left on an axis.

    Example:
        >>> window_3 = Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
        >>> cell_grid((8, 8), [window_3]).first_center
        (0.5, 0.5)
    """
    dims = len(image_size)
    shape, first = list(image_size), [0.5] * dims
    stride, field = [1] * dims, [1] * dims
    for window in windows:
        for axis in range(dims):
            reach = window.dilation[axis] * (window.kernel[axis] - 1)
            leading, trailing = window.leading[axis], window.trailing[axis]
            first[axis] += stride[axis] * (reach / 2 - leading)
            field[axis] += stride[axis] * reach
            shape[axis] = (shape[axis] + leading + trailing - reach - 1) // window.stride[axis] + 1
            stride[axis] *= window.stride[axis]
    if min(shape) < 1:
        raise ValueError(
            f"image_size must leave at least one feature cell on each axis, got {list(image_size)} "
            f"for cells of {stride} pixels. Use larger images or an earlier stage."
        )
    return CellGrid(
        tuple(shape), tuple(first), tuple(float(s) for s in stride), tuple(float(f) for f in field)
    )


def _per_axis(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)
