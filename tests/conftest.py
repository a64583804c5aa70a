"""Guards and fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_environment_leaks():
    before = dict(os.environ)
    yield
    changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
    changed -= {"PYTEST_CURRENT_TEST"}
    # Set once by libraries when they are first imported.
    changed -= {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "CUDA_MODULE_LOADING"}
    changed -= {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUBLAS_WORKSPACE_CONFIG"}
    changed -= {"GDCM_RESOURCES_PATH"}
    assert not changed, f"environment variables were left changed: {changed}"


@pytest.fixture(scope="session")
def pixel_map():
    """Return a function that makes a map with a cell for each pixel."""
    from medproto.explain import CellMap
    from medproto.records import CellGrid, Placement

    def make(values):
        ones, halves = (1.0,) * values.ndim, (0.5,) * values.ndim
        grid = CellGrid(values.shape, halves, ones, ones)
        return CellMap(values, grid, Placement.identity(values.shape))

    return make


@pytest.fixture(scope="session")
def real_data():
    """Folder of real images; tests that need it skip where it is absent."""
    folder = os.environ.get("MEDPROTO_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEDPROTO_DATA does not name the folder of real images")
    return Path(folder)


HEAD_CLASSES = {
    "multiclass": ("normal", "nodule", "effusion"),
    "binary": ("normal", "nodule"),
    "multilabel": ("nodule", "effusion", "edema"),
    "ordinal": ("none", "mild", "severe"),
}


@pytest.fixture(scope="session")
def explain_head():
    """Explain an image by an untrained network of a head, its biases set for wanted logits."""
    known = {}

    def explain(head, logits, *, image=None, digest="sha256:" + "ab" * 32):
        key = (head, tuple(logits), digest, None if image is None else image.tobytes())
        if key not in known:
            known[key] = _explain_head(head, logits, image, digest)
        return known[key]

    return explain


def _explain_head(head, logits, image, digest):
    import numpy as np
    import torch

    from medproto.explain import explain
    from medproto.networks import ProtoPNet
    from medproto.records import ImageReference, PixelBox, Placement, PrototypeSource

    classes = HEAD_CLASSES[head]
    counts = [0, 3] if head == "binary" else 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ProtoPNet(
            2, 1, len(logits), image_size=(96, 96), stage=3, head=head, prototypes_per_class=counts
        ).eval()
    pixels = np.random.default_rng(0).random((96, 80)) if image is None else image
    tensor = torch.as_tensor(np.pad(pixels, ((0, 0), (8, 8))), dtype=torch.float32)[None]
    with torch.no_grad():
        shift = torch.tensor(logits) - network(tensor[None])[0]
        network.last_layer.bias += shift
        if head == "binary":
            network.last_layer.bias[0] = 0
    sources = [
        PrototypeSource(
            prototype=p,
            class_index=k,
            class_name=classes[k],
            row=20 + p,
            group=f"G{p}",
            pixel_digest=f"sha256:{p:064x}",
            cell=(p, 2),
            box=PixelBox((10 + p, 12), (40 + p, 44)),
            distance=0.125,
            similarity=10.0,
        )
        for p, k in enumerate(network.prototype_class.tolist())
    ]
    reference = ImageReference(digest, (96, 80), "DX", 12, window=(2048.0, 4096.0), synthetic=True)
    return explain(
        network,
        tensor,
        reference=reference,
        placement=Placement((96, 80), (96, 96), (1.0, 1.0), (0.0, 8.0)),
        classes=classes,
        sources=sources,
        model_digest="sha256:" + "cd" * 32,
    )
