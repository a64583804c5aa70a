import base64
from types import SimpleNamespace

import numpy as np
import pytest

from dashboards.figures import case_data, gallery_data, prototype_card
from dashboards.queries import read_case, read_run


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


@pytest.fixture
def case(run, log_path):
    return read_case(str(log_path), run, 2)


@pytest.fixture
def rebuilt(pixel_map):
    def make(image, window=(2048.0, 4096.0), heat_maps=()):
        reference = SimpleNamespace(window=window, shape=image.shape)
        return SimpleNamespace(
            image=image,
            explanation=SimpleNamespace(prediction=SimpleNamespace(reference=reference)),
            heat_maps={p: pixel_map(heat) for p, heat in dict(heat_maps).items()},
            grad_cams={1: pixel_map(np.zeros_like(image))},
            largest_difference=0.0,
        )

    return make


def test_pixels_travel_as_sixteen_bits_in_rows(case, run, run_folder, rebuilt):
    image = np.zeros((256, 224), dtype=np.float32)
    image[1, 2] = 1.0
    image[3, 0] = 0.5
    data = case_data(case, rebuilt(image), run, run_folder)
    words = np.frombuffer(base64.b64decode(data["views"][0]["pixels"]), "<u2").reshape(256, 224)
    assert (words[1, 2], words[3, 0], words[0, 0]) == (65535, 32768, 0)
    assert (data["rows"], data["cols"]) == (256, 224)
    assert data["gray"] == {"center": 2048.0, "width": 4096.0}


def test_boxes_are_shares_of_the_image(case, run, run_folder, rebuilt):
    data = case_data(case, rebuilt(np.zeros((256, 224), np.float32)), run, run_folder)
    first = data["evidence"][0]
    assert data["views"][0]["boxes"][0] == [[66 / 256, 126 / 224, 118 / 256, 178 / 224]]
    assert first["sum"].endswith("= +6.000")
    assert (first["side"], data["evidence"][1]["side"]) == ("for", "against")
    assert first["heat"] is None


def test_a_large_image_is_averaged_down(case, run, run_folder, rebuilt):
    image = np.zeros((4096, 512), dtype=np.float32)
    image[::2] = 1
    data = case_data(case, rebuilt(image, window=None), run, run_folder)
    assert (data["rows"], data["cols"], data["fullRows"], data["fullCols"]) == (
        2048, 256, 4096, 512,
    )  # fmt: skip
    words = np.frombuffer(base64.b64decode(data["views"][0]["pixels"]), "<u2")
    assert set(np.unique(words)) == {32768}  # the mean of black and white
    assert data["gray"] is None


def test_a_map_is_scaled_to_its_own_range(case, run, run_folder, rebuilt):
    heat = np.full((256, 224), -2.0, dtype=np.float32)
    heat[:, :112] = 6.0
    data = case_data(case, rebuilt(np.zeros_like(heat), heat_maps={0: heat}), run, run_folder)
    sent = data["evidence"][0]["heat"]
    values = np.frombuffer(base64.b64decode(sent["values"]), np.uint8)
    values = values.reshape(sent["rows"], sent["cols"])
    assert (sent["rows"], sent["cols"]) == (160, 140)
    assert (values[0, 0], values[0, -1]) == (255, 0)


def test_the_gallery_has_the_prototypes_of_the_class(run, run_folder):
    data = gallery_data(run, run_folder, 1)
    assert [card["title"] for card in data["cards"]] == [
        f"Prototype {p}, class nodule" for p in (0, 2, 4, 6)
    ]
    assert all(card["crop"].startswith("data:image/png;base64,") for card in data["cards"])


def test_a_missing_picture_leaves_the_provenance(run, run_folder):
    (run_folder / "prototypes" / "p000_source.png").unlink()
    card = prototype_card(run_folder, run.sources[0], "class")
    assert (card["crop"], card["source"]) == (None, None)
    assert card["lines"][0] == "training row 0, group G0"
