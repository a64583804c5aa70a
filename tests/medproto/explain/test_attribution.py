"""Where a value rests, against sums that can be written down."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medproto.explain import attribute_place


@pytest.mark.parametrize("shape", [(24, 17), (12, 9, 10)])
def test_a_weighted_sum_rests_on_weight_times_what_the_blur_takes(shape):
    torch.manual_seed(0)
    images, weights = torch.rand(2, 1, *shape), torch.randn(1, *shape)
    place = attribute_place(
        lambda x: (x * weights).flatten(1).sum(dim=1), images, stride=4, window=0
    )
    for image, found in zip(images[:, 0].numpy(), place.numpy(), strict=True):
        blurred = ndimage.gaussian_filter(image, 3.0, mode="constant", truncate=4.0)
        blurred /= ndimage.gaussian_filter(np.ones(shape), 3.0, mode="constant", truncate=4.0)
        np.testing.assert_allclose(found, weights[0].numpy() * (image - blurred), atol=0.01)


def test_values_of_a_window_are_averaged():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1

    def middle(x):
        return x[:, 0, 4, 4]

    one = attribute_place(middle, image, stride=2, window=0)
    three = attribute_place(middle, image, stride=2, window=1)  # 2 pixels, rounded up to odd
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = one[0, 4, 4] / 9
    torch.testing.assert_close(three[0], expected)


def test_all_attributions_sum_to_what_the_blur_took():
    """Completeness: also of a value that is no sum of pixels, and with arguments for each image."""
    torch.manual_seed(0)
    images, powers = torch.rand(3, 2, 16, 16), torch.tensor([1.0, 2.0, 3.0])

    def value(x, power):
        return x.flatten(1).square().sum(dim=1).pow(power / 4)

    place = attribute_place(value, images, powers, stride=8, window=0)
    blurred = torch.stack(
        [
            torch.from_numpy(
                ndimage.gaussian_filter(i.double().numpy(), (0, 6, 6), mode="constant")
                / ndimage.gaussian_filter(np.ones((2, 16, 16)), (0, 6, 6), mode="constant")
            )
            for i in images
        ]
    ).float()
    torch.testing.assert_close(
        place.sum(dim=(1, 2)), value(images, powers) - value(blurred, powers), rtol=0.02, atol=0.02
    )


def test_nothing_rests_on_an_even_image_up_to_its_edge():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten())

    def value(x):
        return network(x).sum(dim=1)

    place = attribute_place(value, torch.full((2, 1, 12, 12), 0.7), stride=4, window=1)
    torch.testing.assert_close(place, torch.zeros(2, 12, 12), rtol=0, atol=1e-6)
    assert all(p.grad is None for p in network.parameters())
