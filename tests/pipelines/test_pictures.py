import io

import numpy as np
import pytest
from PIL import Image

from pipelines.pictures import grad_cam_figure, plain_text, reasoning_figure, to_png_bytes


def words(figure):
    """All text of a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def rectangles(ax):
    return [patch.get_bbox().bounds for patch in ax.patches]


def test_the_reasoning_table_holds_the_sum(explanation, image, pictures, maps):
    figure = reasoning_figure(explanation, image, prototypes=pictures, heat_maps=maps, rows=2)
    text = "\n".join(words(figure))
    # nodule: 2 - 3 + 1 + 0 - 0.5 = -0.5; the two largest are -3 and +2.
    assert "= -3.000  against" in text
    assert "= +2.000  for" in text
    assert "similarity 4.000\nx weight -0.750" in text
    assert "sum of the 2 shown" in text
    assert "sum of the other prototypes (2)" in text
    for value in ("-1.000", "+1.000", "-0.500"):
        assert value in words(figure)
    assert "total = logit of nodule" in text


def test_against_is_drawn_as_large_as_for(explanation, image, pictures, maps):
    figure = reasoning_figure(explanation, image, prototypes=pictures, heat_maps=maps, rows=2)
    against, speaking = figure.axes[0], figure.axes[5]
    assert against.images[0].get_extent() == speaking.images[0].get_extent()
    # Prototype 1 has the box (31, 38) to (51, 62): left, top, width, height, half a pixel off.
    assert rectangles(against)[1] == (37.5, 30.5, 24, 20)


def test_another_class_and_a_missing_map(explanation, image, pictures):
    figure = reasoning_figure(
        explanation, image, prototypes=pictures, heat_maps={}, class_index=0, rows=1
    )
    assert "= -4.000  against" in words(figure)  # 8 x -0.5
    assert not figure.axes[3].images


def test_a_shown_prototype_needs_its_picture(explanation, image, maps):
    with pytest.raises(KeyError, match="1"):
        reasoning_figure(explanation, image, prototypes={}, heat_maps=maps, rows=1)


def test_grad_cam_names_method_layer_and_target(explanation, image, maps):
    figure = grad_cam_figure(
        image, maps[0].values, maps[1].values, layer="features", class_name="no$dule", prototype=0,
        box=explanation.evidence[0].box,
    )  # fmt: skip
    text = " ".join(words(figure))
    for part in ("captum LayerGradCam, ReLU on", "layer features", "target logit of no\\$dule"):
        assert part in text
    assert len(rectangles(figure.axes[0])) == 2
    assert not rectangles(figure.axes[2])


def test_equal_figures_are_equal_bytes(explanation, image, pictures, maps):
    made = [
        to_png_bytes(
            reasoning_figure(explanation, image, prototypes=pictures, heat_maps=maps, rows=1),
            dpi=40,
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert np.asarray(Image.open(io.BytesIO(made[0]))).std() > 0


def test_a_dollar_starts_no_formula():
    assert plain_text("$x$") == r"\$x\$"
