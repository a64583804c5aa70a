import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import Compose, MapTransform
from PIL import Image

from medproto.errors import ImageReadError
from medproto.transforms import (
    FitImage,
    FitImaged,
    LoadRadiograph,
    LoadRadiographd,
    augmentation,
    preprocessing,
)

torch.set_num_threads(1)


@pytest.fixture
def paths(tmp_path):
    found = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 12 + number), dtype=np.uint8)
        found.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(found[-1])
    return found


def test_dictionary_forms_equal_the_array_forms(paths):
    data = {"image": paths[0], "label": 1}
    loaded = LoadRadiographd("image")(data)
    fitted = FitImaged("image", (16, 16), "stretch")(loaded)
    expected = FitImage((16, 16), "stretch")(LoadRadiograph()(paths[0]))
    assert data == {"image": paths[0], "label": 1}
    assert fitted["label"] == 1
    torch.testing.assert_close(fitted["image"].as_tensor(), expected.as_tensor())
    assert fitted["image"].meta["placement"] == expected.meta["placement"]


def test_missing_keys_follow_monai(paths):
    assert LoadRadiographd("other", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    assert FitImaged("other", (8, 8), allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="other"):
        LoadRadiographd("other")({"image": paths[0]})


def test_preprocessing_survives_the_cache_and_is_deterministic(paths):
    data = [{"image": path, "label": 0} for path in paths]
    steps = Compose([preprocessing((16, 16)), augmentation(seed=0)])
    dataset = CacheDataset(data, steps.flatten(), num_workers=2, progress=False)
    again = preprocessing((16, 16))
    for item, cached in zip(data, dataset._cache, strict=True):
        expected = again(item)["image"]
        assert isinstance(cached["image"], MetaTensor)
        torch.testing.assert_close(cached["image"].as_tensor(), expected.as_tensor())
        assert cached["image"].meta["reference"] == expected.meta["reference"]
        assert cached["image"].meta["placement"].network_shape == (16, 16)
    first, second = dataset[0]["image"], dataset[0]["image"]
    assert not torch.equal(first, second)


def test_a_loader_stacks_the_images(paths):
    dataset = CacheDataset(
        [{"image": path} for path in paths], preprocessing((16, 16)), progress=False
    )
    stack = torch.stack([item["image"].as_tensor() for item in dataset])
    loader = DataLoader(dataset, batch_size=4, collate_fn=lambda items: stack)
    assert next(iter(loader)).shape == (4, 1, 16, 16)


def test_a_bad_file_is_the_cause_of_monais_error(tmp_path):
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        preprocessing((16, 16))({"image": str(tmp_path / "none.png")})
    assert isinstance(caught.value.__cause__, ImageReadError)


def test_the_key_is_free(paths):
    assert preprocessing((8, 8), key="xray")({"xray": paths[0]})["xray"].shape == (1, 8, 8)


def test_monai_contract():
    for transform in (LoadRadiographd("image"), FitImaged("image", (8, 8))):
        assert isinstance(transform, MapTransform)
