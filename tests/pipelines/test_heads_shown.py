"""A prediction of every head on its page, in its record and in the terminal."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from audit.prediction import read_prediction
from medproto.explain import CellMap
from medproto.metrics import probabilities
from medproto.networks import ModelCard
from medproto.records import CellGrid, PixelBox, Placement, PrototypeSource
from pipelines.cases import judge_prediction
from pipelines.doubt import Judgement
from pipelines.events import prediction_payload
from pipelines.pages import (
    CasePage,
    NearestPatch,
    PrototypeCard,
    PrototypePage,
    case_page,
    prototype_page,
)
from pipelines.pictures import PrototypePicture
from pipelines.prediction_summary import summary_lines
from pipelines.wording import doubts, recorded_doubts, side

CASES = {
    "multiclass": [0.5, 2.0, -1.0],
    "binary": [0.0, 1.5],
    "binary negative": [0.0, -1.5],
    "multilabel": [1.0, 2.0, -1.0],
    "multilabel none": [-3.0, -2.0, -1.0],
    "ordinal": [1.5, -0.5],
    "ordinal lowest": [-0.5, -1.5],
    "ordinal highest": [2.5, 0.5],
}
LABELS = {
    "multiclass": "nodule",
    "binary": "nodule",
    "binary negative": "normal",
    "multilabel": "nodule, effusion",
    "multilabel none": "none of the findings",
    "ordinal": "mild",
    "ordinal lowest": "none",
    "ordinal highest": "severe",
}
SHOWN = {
    "multiclass": [1],
    "binary": [1],
    "binary negative": [1],
    "multilabel": [0, 1],
    "multilabel none": [2],
    "ordinal": [0],
    "ordinal lowest": [0],
    "ordinal highest": [1],
}


@pytest.fixture(scope="module")
def explanations(explain_head, image):
    return {
        name: explain_head(name.partition(" ")[0], logits, image=image)
        for name, logits in CASES.items()
    }


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def explained(explanations, name):
    return explanations[name]


@pytest.fixture
def payload(explained):
    """As it comes back from a log."""
    card = ModelCard(classes=explained.prediction.classes, preprocessing={})
    return json.loads(json.dumps(prediction_payload(explained, card)))


class Words(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.words = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split()).replace("\N{MINUS SIGN}", "-")

    def handle_data(self, data):
        self.words.append(data)


def page_of(explanation, image, **changes):
    count = len(explanation.evidence)
    whole = PrototypePicture(image[10:40, 12:44], image, (explanation.evidence[0].source.box,))
    ones = (1.0, 1.0)
    grid = CellGrid(image.shape, (0.5, 0.5), ones, ones)
    drawn = CellMap(image, grid, Placement.identity(image.shape))
    options = {
        "title": "Row 12",
        "explanation": explanation,
        "image": image,
        "prototypes": dict.fromkeys(range(count), whole),
        "heat_maps": dict.fromkeys(range(count), drawn),
        "grad_cams": dict.fromkeys(explanation.prediction.shown_logits, drawn),
        "grad_cam_layer": "backbone stage 2",
        "shown": 3,
    }
    return case_page(CasePage(**options | changes))


def test_the_record_says_what_was_predicted(payload, name):
    prediction = read_prediction(payload)
    assert payload["label"] == prediction.label == LABELS[name]
    assert list(prediction.shown) == SHOWN[name]
    assert payload["logits"] == pytest.approx(CASES[name], abs=1e-4)
    assert len(payload["logit_names"]) == len(payload["logits"])
    assert len(payload["probabilities"]) == len(payload["classes"])
    present = [payload["classes"][k] for k in prediction.present]
    assert payload["present"] == present
    assert ", ".join(present) in (LABELS[name], "")


def test_what_a_record_leaves_out_follows_from_its_logits(payload):
    prediction = read_prediction(payload)
    for key in ("present", "logit_names", "shown_logit"):
        del payload[key]
    assert read_prediction(payload) == prediction


def test_boxes_of_every_shown_sum_are_measured(explained):
    for k in explained.prediction.shown_logits:
        largest = sorted(explained.evidence, key=lambda e: -abs(e.contributions[k]))[:5]
        assert all(e.faithfulness is not None for e in largest)


def test_the_terminal_has_a_sum_for_each_shown_logit(payload, name):
    lines = summary_lines("a.png", payload, record="7, sha256:00")
    assert [line for line in lines if line.startswith("  logit of")] == [
        f"  logit of {payload['logit_names'][k]}: {payload['logits'][k]:+.3f}" for k in SHOWN[name]
    ]
    assert "  record 7, sha256:00" in lines
    # By hand: 1 / (1 + exp(-2)) = 0.8808, 1 / (1 + exp(-1)) = 0.7311, 1 / (1 + exp(1)) = 0.2689.
    first = {
        "multilabel": "a.png: nodule 73.1%, effusion 88.1% (not calibrated)",
        "multilabel none": "a.png: none of the findings; edema at most, 26.9% (not calibrated)",
        # 1 / (1 + exp(-1.5)) = 0.8176, the same below: 0.3775 of "above mild" goes to "severe".
        "binary": "a.png: nodule (81.8%, not calibrated)",
        "binary negative": "a.png: normal (81.8%, not calibrated)",
        "ordinal": "a.png: mild (44.0%, not calibrated)",
    }
    assert lines[0] == first.get(name, lines[0])
    if name == "ordinal":
        assert "  grades: none 18.2%, mild 44.0%, severe 37.8%" in lines
        assert lines[-1] == (
            "  all thresholds: above none +1.500 (passed), above mild -0.500 (not passed)"
        )


def test_a_payload_that_is_no_prediction_is_refused():
    with pytest.raises(ValueError, match="must be that of a prediction"):
        summary_lines("a.png", {"label": "x"}, record="")


def test_the_page_sums_up_each_shown_logit(explained, name, image):
    text = Words(page_of(explained, image)).text
    prediction = explained.prediction
    for k in range(len(prediction.logits)):
        total = f"Total = logit of “{prediction.logit_names[k]}” {prediction.logits[k]:+.3f}"
        assert (total in text) is (k in SHOWN[name])
    assert LABELS[name] in text
    assert text.count("A second opinion: Grad-CAM") == len(SHOWN[name])


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("multiclass", ["Predicted class", "softmax of the logits"]),
        (
            "binary",
            ["The logit of “normal” is 0 always", "below 0 for “normal”", "a patch of class"],
        ),
        ("binary negative", ["Predicted class normal", "The score of “nodule” is a sum"]),
        (
            "multilabel",
            [
                "Findings present nodule, effusion",
                "sigmoids of the logits; read",
                "This looks like that: “effusion”, 88.1",
                "This looks like that: “nodule”, 73.1",
                "one box for each finding",
                "Finding Probability Logit (score) Present",
                "a patch of finding",
            ],
        ),
        (
            "multilabel none",
            ["Findings present none of the findings", "“edema” is a sum", "this one comes closest"],
        ),
        (
            "ordinal",
            [
                "Predicted grade mild",
                "Grade Probability none 18.2",
                "Threshold Evidence Bias Logit (score) Passed above none",
                "+1.500 yes above mild",
                "-0.500 no",
                "It is the last threshold that this image passes",
            ],
        ),
        ("ordinal lowest", ["lowest threshold, and this image does not pass it"]),
        ("ordinal highest", ["Predicted grade severe", "“above mild” is a sum"]),
    ],
)
def test_the_page_uses_the_words_of_the_head(explanations, image, case, parts):
    text = Words(page_of(explanations[case], image)).text
    for part in parts:
        assert part in text, part


def test_findings_stand_by_the_size_of_their_logits(explanations, image):
    text = Words(page_of(explanations["multilabel"], image)).text
    assert text.index("like that: “effusion”") < text.index("like that: “nodule”")


def test_a_page_without_maps_says_so(explanations, image):
    text = Words(page_of(explanations["multilabel"], image, heat_maps={}, grad_cams={})).text
    assert "No map drawn" in text
    assert "Grad-CAM" not in text


def prototypes(head, outputs, weights, own):
    source = PrototypeSource(
        0, own, "mild", 7, "G1", "sha256:0", (0, 0), PixelBox((0, 0), (4, 4)), 0.0, 10.0
    )
    hit = NearestPatch(
        row=7, group="G1", label="mild", agrees=True, distance=0.0, similarity=10.0,
        itself=True, where="data:,", crop="data:,",
    )  # fmt: skip
    other = replace(hit, agrees=False, itself=False)
    card = PrototypeCard(
        source=source, crop="data:,", picture="data:,", weights=weights, stray=None,
        train=[hit, other], test=[replace(other, agrees=None)],
    )  # fmt: skip
    page = PrototypePage(
        title="t", outputs=outputs, prototypes=[card], images={"train": 2, "test": 1}, tau=1,
        model_digest="sha256:0", synthetic=False, created="", head=head,
    )  # fmt: skip
    return Words(prototype_page(page)).text


def test_a_prototype_of_grades_has_one_weight():
    text = prototypes("ordinal", ("above none", "above mild"), (0.25, 0.25), 1)
    assert "Prototype Grade Training images Test images Weight Remark" in text
    assert "1 of 2 0 of 1 +0.250" in text
    assert "weight for all thresholds +0.250" in text
    for part in ("Prototype 0, grade “mild”", "same grade", "other grade", "grade not known"):
        assert part in text, part


def test_of_many_findings_the_weights_that_matter_are_named():
    names = tuple(f"f{k}" for k in range(14))
    weights = [0.0] * 14
    weights[2], weights[5], weights[9] = 1.5, -0.25, 0.5
    text = prototypes("multilabel", names, tuple(weights), 2)
    assert "Weight, own finding Largest other weight Remark" in text
    assert "+1.500 +0.500 (f9)" in text
    assert "weight for “f2” +1.500 weight for “f9” +0.500 weight for “f5” -0.250" in text
    assert "“f0”" not in text
    assert "not this finding" in text
    alone = [0.0] * 14
    alone[2] = 1.5
    assert "+1.500 none" in prototypes("multilabel", names, tuple(alone), 2)


class _Judge:
    """Stands for the doubt of a run: nodule certain, effusion open, edema neither."""

    calibrated = True

    def __init__(self, sets):
        self._sets = None if sets is None else np.array([sets])

    def judge(self, logits, scores):
        abstained = None if self._sets is None else self._sets.sum(axis=-1) != 1
        return Judgement(
            probabilities(logits, head="multilabel"), self._sets, abstained, None, None
        )


def test_findings_that_cannot_be_told_are_named(explanations):
    prediction = explanations["multilabel"].prediction
    absent_present = [[False, True], [True, True], [False, False]]
    judged = judge_prediction(prediction, [1.0], _Judge(absent_present))
    assert judged.prediction_set == ("nodule", "effusion")
    assert judged.undecided == ("effusion", "edema")
    assert judged.abstained is True
    said = doubts(judged.prediction_set, judged.abstained, False, judged.undecided)
    assert said == ["Abstained for effusion and edema: present or not cannot be told here."]
    sure = judge_prediction(judged, [1.0], _Judge([[False, True], [True, False], [True, False]]))
    assert (sure.undecided, sure.abstained, sure.prediction_set) == ((), False, ("nodule",))
    none = judge_prediction(judged, [1.0], _Judge(None))
    assert (none.undecided, none.abstained, none.prediction_set) == (None, None, None)


@pytest.mark.parametrize(
    ("payload", "lines"),
    [
        ({"abstained": True, "prediction_set": ["a", "b", "c"]}, ["a, b and c cannot be told"]),
        ({"abstained": True, "prediction_set": []}, ["no class is as probable"]),
        ({"abstained": True, "prediction_set": ["a"], "undecided": ["b"]}, ["Abstained for b:"]),
        ({"abstained": True, "prediction_set": [1], "undecided": "ab"}, ["no class is as"]),
        ({"abstained": False, "out_of_distribution": True}, ["Unusual image"]),
        ({"abstained": "no"}, ["what cannot be ruled out"]),
        ({"abstained": False, "out_of_distribution": 0}, ["whether the image is unusual"]),
    ],
    ids=str,
)
def test_doubts_of_any_record_are_said(payload, lines):
    found = recorded_doubts({"out_of_distribution": False} | payload)
    assert len(found) == len(lines)
    assert all(part in line for part, line in zip(lines, found))


def test_a_contribution_of_zero_speaks_for_nothing(explanations, image):
    assert [side(points) for points in (0.5, -0.5, 0.0)] == ["for", "against", "adds nothing"]
    assert "+0.000 adds nothing" in Words(page_of(explanations["multilabel"], image, shown=5)).text
