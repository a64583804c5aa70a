"""A network trained on a GPU, in bfloat16 too, obeys the rules of its numbers."""

import pytest
import torch

from pipelines.evaluate import load_split
from pipelines.inference import pooled_similarities
from pipelines.runs import RunFolder
from pipelines.train import train


def on_their_own_sources(run, device):
    """Pooled similarity of each prototype on the image that it is from, file and all read anew."""
    network = RunFolder(run.path).network.eval().to(device)
    rows = [source.row for source in run.sources]
    images = load_split(run, run.cohort, rows)
    with torch.inference_mode():
        batch = torch.stack([images.image(k) for k in range(len(rows))]).to(device)
        one = torch.cat([pooled_similarities(network, image[None]) for image in batch])
        together = pooled_similarities(network, batch)
    return [found.diagonal().tolist() for found in (one.cpu(), together.cpu())]


def test_prototypes_have_their_bound_on_their_own_sources(tiny_run):
    """Projection and prediction prepare an image alike, one at a time or many."""
    one, together = on_their_own_sources(tiny_run, "cpu")
    assert one == pytest.approx([10.0] * 6, abs=1e-3)
    assert together == pytest.approx([10.0] * 6, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_those_of_a_training_on_a_gpu_do_on_both_devices(
    tiny_cohort, tiny_config, tmp_path, precision
):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    training = tiny_config.training.model_copy(update={"precision": precision})
    config = tiny_config.model_copy(update={"training": training})
    run = train(tiny_cohort, tmp_path / "run", config, twin=True, device="cuda")
    assert run.metrics["prototypes"]["self_similarity_min"] >= 0.9999 * 10
    for device in ("cpu", "cuda"):
        for found in on_their_own_sources(run, device):
            assert found == pytest.approx([10.0] * len(found), abs=1e-3)
