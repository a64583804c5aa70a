import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medproto.networks.backbones import build_backbone
from medproto.networks.receptive_field import Window, cell_grid, window_of, windows_of

# ProtoPNet's published backbones at 224 px, each with 7 x 7 cells of 32 px.
PUBLISHED = {
    "vgg16": (212, 16.0),
    "vgg19": (268, 16.0),
    "resnet18": (435, 0.5),
    "resnet34": (899, 0.5),
    "resnet50": (427, 0.5),
    "resnet152": (1451, 0.5),
    "densenet121": (2071, 14.5),
    "densenet161": (2967, 14.5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_backbones(name):
    with torch.device("meta"):
        grid = build_backbone(name, 2, 3, image_size=(224, 224)).grid
    field, center = PUBLISHED[name]
    assert grid.shape == (7, 7)
    assert grid.stride == (32.0, 32.0)
    assert grid.receptive_field == (field, field)
    assert grid.first_center == (center, center)


def test_by_hand():
    # 8 values; kernel 3, one zero in front, two steps: cells at 0.5, 2.5, 4.5, 6.5, each 3 wide.
    # Then kernel 2 without padding, one step: between the cells, 3 + 2 wide.
    first = Window((3,), (2,), (1,), (0,), (1,))
    second = Window((2,), (1,), (0,), (0,), (1,))
    assert cell_grid((8,), [first]).shape == (4,)
    assert cell_grid((8,), [first]).first_center == (0.5,)
    grid = cell_grid((8,), [first, second])
    assert (grid.shape, grid.first_center, grid.stride) == ((3,), (1.5,), (2.0,))
    assert grid.receptive_field == (5.0,)


def covered(size, windows):
    """Naive: the set of image positions that each cell sees, zeros of the padding included."""
    cells = [{i} for i in range(size)]
    for kernel, stride, leading, trailing, dilation in windows:
        step = max(cells[0]) - min(cells[0]) + 1
        jump = min(cells[1]) - min(cells[0]) if len(cells) > 1 else step
        # The padding continues the row of cells to both sides.
        before = [{p - jump * k for p in cells[0]} for k in range(leading, 0, -1)]
        behind = [{p + jump * k for p in cells[-1]} for k in range(1, trailing + 1)]
        row = before + cells + behind
        span = dilation * (kernel - 1)
        cells = [
            set().union(*(row[i + dilation * k] for k in range(kernel)))
            for i in range(0, len(row) - span, stride)
        ]
        if len(cells) < 2:
            return cells
    return cells


WINDOW = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2)
)


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 70), st.lists(WINDOW, min_size=1, max_size=3))
def test_equals_the_counted_positions(size, windows):
    cells = covered(size, windows)
    if len(cells) < 2:
        return
    grid = cell_grid((size,), [Window(*((v,) for v in window)) for window in windows])
    assert grid.shape == (len(cells),)
    middles = [(min(c) + max(c) + 1) / 2 for c in cells]
    assert grid.first_center == (middles[0],)
    assert grid.stride == (middles[1] - middles[0],)
    assert grid.receptive_field == (max(cells[0]) - min(cells[0]) + 1,)


def test_padding_layers_list_the_last_axis_first():
    padding = nn.ConstantPad2d([1, 2, 3, 4], 0.0)  # left, right, top, bottom
    window = window_of(nn.Conv2d(1, 1, 3, stride=(2, 1), padding=1, dilation=2), 2, padding)
    assert window == Window((3, 3), (2, 1), (4, 2), (5, 3), (2, 2))


def test_skipped_modules_lie_beside_the_path():
    path = nn.Sequential()
    path.add_module("conv", nn.Conv3d(1, 1, 3))
    path.add_module("downsample", nn.Sequential(nn.Conv3d(1, 1, 5)))
    path.add_module("pool", nn.AvgPool3d(2))
    kernels = [window.kernel[0] for window in windows_of(path, 3, skip="downsample")]
    assert kernels == [3, 2]


def test_no_cell_is_left():
    with pytest.raises(ValueError, match="at least one feature cell"):
        cell_grid((4,), [Window((5,), (1,), (0,), (0,), (1,))])
