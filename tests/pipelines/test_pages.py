import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from medproto.records import PixelBox
from pipelines.pages import (
    CasePage,
    ComparisonCase,
    ComparisonPage,
    ComparisonRow,
    RecordStamp,
    RunReport,
    case_page,
    comparison_page,
    run_report,
)
from pipelines.pages.run_view import _gallery

ATTACK = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        """Words joined by single spaces; signs of typography as on a keyboard."""
        signs = {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": "x"}
        text = re.sub(r"\s+", " ", " ".join(self.words)).translate(str.maketrans(signs))
        return re.sub(r" ([),.;])", r"\1", text)


@pytest.fixture
def case(explanation, image, pictures, maps):
    return CasePage(
        title="Row 12 of the cohort",
        explanation=explanation,
        image=image,
        prototypes=pictures,
        heat_maps=maps,
        grad_cams={1: maps[1]},
        grad_cam_layer="features",
        record=RecordStamp(12, "sha256:" + "ef" * 32, "2026-03-01T09:30:00Z", "station 2"),
        true_label="normal",
        synthetic=True,
        shown=3,
        created="2026-03-01T09:31:00Z",
    )


@pytest.fixture
def report(metrics, history, sources, pictures):
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([1, 1], 60)
    return RunReport(
        title="Run first",
        classes=("normal", "nodule"),
        metrics=metrics,
        history=history,
        sources=sources,
        pictures=pictures,
        weights=np.array([[-0.5, 0.5, 0.25, 0.0], [0.25, -0.75, 0.5, 0.0]]),
        probabilities=chances,
        labels=rng.integers(0, 2, 60),
        facts={"Digest of the model": "sha256:" + "cd" * 32, "Cohort": "480 images"},
        synthetic=True,
        created="2026-03-01T09:30:00Z",
    )


@pytest.fixture
def comparison(image, maps, explanation):
    rows = [
        ComparisonRow("prototype", "box", False, interval(0.8), interval(0.4)),
        ComparisonRow("Grad-CAM", "peak", False, interval(0.27), None),
        ComparisonRow("worse", "peak", False, interval(0.1), None),
        ComparisonRow("best constant location", "control", True, interval(0.25), None),
    ]
    cases = [
        ComparisonCase(
            title="Row 12",
            reference=explanation.prediction.reference,
            image=image,
            maps={"prototype": maps[0], "Grad-CAM": maps[1]},
            points={"prototype": (40.0, 50.0), "Grad-CAM": (80.5, 20.5)},
            boxes={"prototype": PixelBox((30, 38), (50, 62))},
            mask_box=PixelBox((31, 41), (50, 60)),
            note="predicted right",
        )
    ]
    return ComparisonPage(
        title="Methods", rows=rows, cases=cases, n=30, split="test", agreement=-0.41,
        facts={"Digest": "sha256:00"}, synthetic=True, created="2026-03-01",
    )  # fmt: skip


def interval(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def test_the_case_page_states_result_sum_and_record(case):
    text = Page(case_page(case)).text
    for part in (
        "nodule",
        "the prediction disagrees",
        "Not calibrated",
        "similarity 4.000 x weight -0.750 = -3.000 against",
        "similarity 8.000 x weight +0.250 = +2.000 for",
        "Sum of the other prototypes (1) +0.000",
        "Total = logit of “nodule” -0.500",
        "Recorded as number 12",
        "sha256:" + "ef" * 32,
        "medproto audit show LOG 12",
        "75 % of it stays",  # 6 of 8 with the outside blurred
        "25 % stays",
        "rows 30-49, columns 38-61; 4.0 x 4.8 mm",
        "captum LayerGradCam, ReLU on",
        "layer features",
        "target logit of class “nodule”",
        "at most 2.0e-07",
        "SYNTHETIC",
        "not a medical device",
    ):
        assert part in text, part


def test_pages_say_what_similarities_count_from(case, report):
    assert "floor" not in Page(case_page(case)).text
    assert "scores count from" not in Page(run_report(report)).text
    evidence = tuple(
        replace(e, source=replace(e.source, floor=5.25)) for e in case.explanation.evidence
    )
    floored = replace(case, explanation=replace(case.explanation, evidence=evidence))
    text = Page(case_page(floored)).text
    assert "The similarity is counted from the prototype's floor" in text
    assert "training images without its class reach as well; below that it is 0" in text
    gallery = replace(report, sources=[e.source for e in evidence])
    assert (
        "self-similarity 9.2103, scores count from 5.250; moved" in Page(run_report(gallery)).text
    )


def test_a_score_that_is_mostly_bias_is_said(case):
    assert "Most of this score is bias" not in Page(case_page(case)).text
    high = replace(case, explanation=replace(case.explanation, bias=(0.5, 6.5)))
    # 2, -3, 1 and 0 of the prototypes, 6 in absolute terms
    assert "Most of this score is bias: +6.500, in a total of +6.500." in Page(case_page(high)).text


def test_without_record_the_page_is_stamped(case):
    bare = replace(case, record=None, grad_cams={}, true_label=None, synthetic=False, heat_maps={})
    text = Page(case_page(bare)).text
    assert "NOT RECORDED" in text
    assert "Recorded as number" not in text
    assert "Grad-CAM" not in text
    assert "SYNTHETIC" not in text
    assert "No map drawn" in text


def test_plain_images_say_what_they_lack(case, explanation):
    prediction = explanation.prediction
    reference = replace(prediction.reference, spacing_mm=None, window=None, voi="full-range")
    evidence = tuple(replace(e, box_mm=None) for e in explanation.evidence)
    other = replace(
        explanation,
        evidence=evidence,
        prediction=replace(
            prediction, reference=replace(reference, inverted=True), calibrated=True
        ),
    )
    text = Page(case_page(replace(case, explanation=other, true_label="nodule"))).text
    for part in ("not in the file", "full range, MONOCHROME1 inverted once", "are calibrated"):
        assert part in text
    assert "the prediction agrees" in text
    assert " mm (height" not in text


def test_the_report_shows_figures_with_controls_and_provenance(report):
    text = Page(run_report(report)).text
    for part in (
        "0.931 (0.881 to 0.981)",
        "+0.006",
        "Control: best constant place 0.250 (0.200 to 0.300)",
        "Only the 27 correctly classified ones",
        "median 7.2",
        "threshold 0.438, chosen on validation images",
        "training row 20, group G0",
        "rows 10-39, columns 12-43; feature cell (0, 2)",
        "self-similarity 9.2103",
        "(not used)",  # prototype 3 has weight 0
        "0.12345678",
        "3.1e-07",
        "sha256:" + "cd" * 32,
        "sex F 30 15 0.940",
        "costs or gains. Probabilities are not calibrated",
        "NOT RECORDED",
        "SYNTHETIC",
    ):
        assert part in text, part


def test_a_report_without_optional_parts_says_so(report, metrics):
    few = {key: None for key in metrics} | {"n": 4, "groups": 4}
    bare = replace(
        report, metrics=few, pictures={}, weights=None, probabilities=None, labels=None,
        synthetic=False, created="",
    )  # fmt: skip
    text = Page(run_report(bare)).text
    for part in ("not computed", "No plain twin was trained", "was not judged", "no picture"):
        assert part in text
    assert "certificate" not in text


def test_the_comparison_judges_against_the_best_control(comparison):
    text = Page(comparison_page(comparison)).text
    for part in (
        "the best of them hits the finding in 25",
        "0.800 (0.750 to 0.850) 0.400 (0.350 to 0.450) better than the best control",
        "not computed not told apart from the best control",
        "worse than the best control",
        "-0.41",
        "Row 12 · predicted right",
        "NOT RECORDED",
    ):
        assert part in text, part
    recorded = replace(comparison, recorded=True, rows=comparison.rows[:1], agreement=None)
    assert "NOT RECORDED" not in Page(comparison_page(recorded)).text


@pytest.mark.parametrize("kind", ["case", "report", "comparison"])
def test_pages_hold_no_script_and_ask_nobody(kind, case, report, comparison):
    text = {
        "case": lambda: case_page(case),
        "report": lambda: run_report(report),
        "comparison": lambda: comparison_page(comparison),
    }[kind]()
    page = Page(text)
    assert not {"script", "iframe", "link", "object", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in text
    assert "http:" not in text and "https:" not in text  # noqa: PT018


def test_names_from_data_are_letters_and_no_markup(
    case, report, comparison, make_explanation, sources
):
    classes = ("normal", ATTACK)
    pages = [
        case_page(
            replace(
                case, title=ATTACK, explanation=make_explanation(classes), true_label=ATTACK,
                record=RecordStamp(1, ATTACK, ATTACK, ATTACK), grad_cam_layer=ATTACK,
            )
        ),
        run_report(
            replace(
                report, title=ATTACK, classes=classes, facts={ATTACK: ATTACK},
                sources=[replace(s, group=ATTACK, class_name=ATTACK) for s in sources],
                metrics={**report.metrics, "subgroups": {ATTACK: {ATTACK: {
                    "n": 1, "groups": 1, "auroc": None}}}},
            )
        ),
        comparison_page(
            replace(
                comparison, title=ATTACK,
                cases=[replace(comparison.cases[0], title=ATTACK, note=ATTACK, maps={
                    ATTACK: comparison.cases[0].maps["prototype"]}, points={ATTACK: (1, 1)})],
            )
        ),
    ]  # fmt: skip
    for text in pages:
        assert "script" not in Page(text).tags
        assert ATTACK not in text
        assert html.escape(ATTACK, quote=False) in text.replace("&#34;", '"')


def test_a_shown_prototype_without_a_picture_is_an_error(case):
    with pytest.raises(KeyError, match="1"):
        case_page(replace(case, prototypes={}))


def test_the_gallery_says_unused_only_of_prototypes_without_any_weight(sources):
    weights = np.zeros((2, len(sources)))
    weights[1 - sources[0].class_index, 0] = 0.75  # speaks for the other class alone
    report = SimpleNamespace(
        weights=weights, classes=("normal", "nodule"), pictures={}, sources=sources
    )
    cards = {
        item["source"].prototype: item for group in _gallery(report) for item in group["members"]
    }
    other = report.classes[1 - sources[0].class_index]
    assert cards[0]["elsewhere"] == {"name": other, "weight": 0.75}
    assert not cards[0]["unused"]
    assert cards[1]["elsewhere"] is None
    assert cards[1]["unused"]
