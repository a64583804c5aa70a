import copy
import json
import shutil

import numpy as np
import pytest
import torch
from scipy.special import softmax

from medproto.errors import ModelFileError
from pipelines.cases import explain_case
from pipelines.doubt import fit_doubt, read_doubt
from pipelines.evaluate import evaluate_run, load_split
from pipelines.inference import infer_similarities
from pipelines.runs import RunFolder
from pipelines.wording import doubts


def test_a_run_keeps_what_its_validation_images_say(tiny_run):
    stored = np.load(tiny_run.path / "scores.npz")
    table = tiny_run.cohort.table
    groups = table["group"].iloc[list(stored["val_rows"])].tolist()
    assert fit_doubt(tiny_run.network, tiny_run.path / "scores.npz", groups) == tiny_run.doubt
    assert read_doubt(tiny_run.path / "doubt.json") == tiny_run.doubt


def test_judgement_is_the_tempered_softmax(tiny_run):
    logits, scores = np.array([[1.0, 3.0]]), np.zeros((1, len(tiny_run.sources)))
    judged = tiny_run.doubt.judge(logits, scores)
    expected = softmax(logits / tiny_run.doubt.temperature.value, axis=1)
    np.testing.assert_allclose(judged.probabilities, expected)
    if judged.sets is not None:
        assert judged.abstained.tolist() == [bool(judged.sets[0].sum() != 1)]


def stored_scores(path, run, margin, count):
    """Scores of ``count`` images a class; the first prototype of each class speaks for it."""
    stored = dict(np.load(run.path / "scores.npz"))
    labels = np.arange(2 * count) % 2
    scores = np.random.default_rng(0).normal(size=(2 * count, len(run.sources)))
    owners = np.array([source.class_index for source in run.sources])
    scores += margin * (owners[None, :] == labels[:, None])
    np.savez(path, **{**stored, "val_scores": scores, "val_labels": labels})
    return [str(i) for i in range(2 * count)]


@pytest.mark.parametrize(("count", "enough"), [(4, False), (5, True)])
def test_sets_need_nine_groups(count, enough, tiny_run, tmp_path):
    # ceil((n + 1) 0.9) <= n from n = 9 on.
    groups = stored_scores(tmp_path / "scores.npz", tiny_run, 1.0, count)
    doubt = fit_doubt(tiny_run.network, tmp_path / "scores.npz", groups)
    judged = doubt.judge(np.zeros((1, 2)), np.ones((1, len(tiny_run.sources))))
    assert (judged.sets is not None) is (judged.abstained is not None) is enough
    assert judged.out_of_distribution is None  # 1 / 0.05 - 1 = 19 groups for that


@pytest.mark.parametrize(("margin", "calibrated"), [(1.5, True), (50.0, False)])
def test_separated_validation_images_calibrate_nothing(margin, calibrated, tiny_run, tmp_path):
    groups = stored_scores(tmp_path / "scores.npz", tiny_run, margin, 50)
    network = copy.deepcopy(tiny_run.network)
    network.reset_last_layer()  # +1 and -0.5, no bias
    doubt = fit_doubt(network, tmp_path / "scores.npz", groups)
    assert doubt.calibrated is calibrated
    assert calibrated or doubt.temperature.value == 1.0
    # Unlike everything, and the mean of the training images.
    scores = np.load(tmp_path / "scores.npz")["train_scores"]
    judged = doubt.judge(np.zeros((2, 2)), np.stack([scores.min(axis=0) - 9, scores.mean(axis=0)]))
    assert judged.novelty[0] > 1
    assert judged.novelty[1] == pytest.approx(0, abs=1e-9)


def test_logits_that_point_the_wrong_way_reach_the_upper_bound(tiny_run, tmp_path):
    stored = dict(np.load(tiny_run.path / "scores.npz"))
    weight = tiny_run.network.last_layer.weight.detach().double().numpy()
    toward = weight[1] - weight[0]
    wrong = np.where(stored["val_labels"][:, None] == 1, -1, 1) * toward
    stored["val_scores"] = 100 * wrong
    np.savez(tmp_path / "scores.npz", **stored)
    groups = [str(i) for i in range(len(stored["val_labels"]))]
    network = copy.deepcopy(tiny_run.network)
    network.floor.fill_(-torch.inf)
    doubt = fit_doubt(network, tmp_path / "scores.npz", groups)
    logits = np.zeros((2, 2))
    scores = np.zeros((2, len(toward)))
    summary = doubt.summary(logits, scores, np.array([0, 1]), ["a", "b"])
    assert (summary["temperature_bound"], doubt.calibrated) == ("upper", False)


def test_a_case_is_judged_by_what_lies_below_the_floor_too(tiny_run):
    table = tiny_run.cohort.table
    row = table.index[table["split"] == "test"][0]
    case = explain_case(tiny_run, tiny_run.cohort.image_path(row))
    images = load_split(tiny_run, tiny_run.cohort, [row])
    expected = infer_similarities(tiny_run.network, images)[0]
    np.testing.assert_allclose(case.similarities, expected, atol=1e-4)
    counted = np.maximum(expected - tiny_run.network.floor.numpy(), 0)
    shown = [evidence.similarity for evidence in case.explanation.evidence]
    np.testing.assert_allclose(shown, counted, atol=1e-4)


def test_constant_similarities_flag_nothing(tiny_run, tmp_path):
    stored = dict(np.load(tiny_run.path / "scores.npz"))
    stored["train_scores"] = np.ones_like(stored["train_scores"])
    np.savez(tmp_path / "scores.npz", **stored)
    groups = [str(i) for i in range(len(stored["val_labels"]))]
    doubt = fit_doubt(tiny_run.network, tmp_path / "scores.npz", groups)
    assert doubt.unusual is None
    judged = doubt.judge(np.zeros((1, 2)), np.ones((1, len(tiny_run.sources))))
    assert judged.out_of_distribution is None


def test_evaluation_says_what_the_sets_are_worth(tiny_run):
    summary = evaluate_run(tiny_run).summary["doubt"]
    assert (summary["coverage"] is None) is (summary["validation_groups"] < 9)
    assert json.loads(json.dumps(summary)) == summary


def test_an_altered_file_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    path = tmp_path / "run" / "doubt.json"
    path.write_text(path.read_text().replace('"alpha": 0.1', '"alpha": 0.9'))
    with pytest.raises(ModelFileError, match=r"doubt\.json must have the digest"):
        _ = RunFolder(tmp_path / "run").doubt
    path.write_text("{}")
    with pytest.raises(ModelFileError, match=r"doubt\.json must hold the calibration"):
        read_doubt(path)


UNUSUAL = "Unusual image: its similarities are unlike those of the training images."


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (
            (None, None, None),
            [
                "Not judged, for want of validation images: what cannot be ruled out and whether "
                "the image is unusual."
            ],
        ),
        (
            (["a"], False, None),
            ["Not judged, for want of validation images: whether the image is unusual."],
        ),
        ((["a"], False, False), []),
        ((["a", "b"], True, False), ["Abstained: a and b cannot be told apart here."]),
        (([], True, False), ["Abstained: no class is as probable as the true one usually is."]),
        ((["a"], False, True), [UNUSUAL]),
    ],
)
def test_doubts_in_words(judged, expected):
    assert doubts(*judged) == expected
