import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from medproto.metrics import OutOfDistribution, conformal_quantile


def similarities(random, images, prototypes=6):
    common = random.normal(size=(images, 1))
    return 0.6 + 0.05 * (common + random.normal(size=(images, prototypes)))


def test_by_pencil():
    # Means 1 and 2, deviations sqrt(2) and 2 sqrt(2); the two rows are z = -+(1, 1) / sqrt(2), so
    # that the correlations [[1, 1], [1, 1]] / 2 have no sampling error and are shrunk by the least.
    reference = [[0.0, 0.0], [2.0, 4.0]]
    validation = [[1.0, 2.0], [-1.0, -2.0], [3.0, -2.0]]
    fitted = OutOfDistribution.fit(validation, reference=reference, false_alarm=0.5)
    assert fitted.means == (1.0, 2.0)
    # Variance 0.995 along (1, 1) and 0.005 along (1, -1). z: 0; -sqrt(2) (1, 1); sqrt(2) (1, -1).
    np.testing.assert_allclose(fitted.novelty(validation), [0.0, 2 / 0.995, 2 / 0.005])
    assert fitted.threshold == pytest.approx(2 / 0.995)  # ceil(4 x 0.5) = second of three
    assert fitted.flag(validation).tolist() == [False, False, True]
    assert (fitted.cases, fitted.groups) == (3, 3)


def test_usual_similarities_in_an_unusual_combination():
    random = np.random.default_rng(4)
    common = random.normal(size=(2, 80, 1))
    usual, fresh = 0.6 + 0.05 * common + 0.005 * random.normal(size=(2, 80, 5))
    fitted = OutOfDistribution.fit(fresh, reference=usual)
    strange = 0.6 + 0.05 * np.array([[1.0, -1, 1, -1, 1]])
    assert (np.abs(strange - usual.mean(axis=0)) < 2 * usual.std(axis=0)).all()
    assert fitted.flag(strange).all()


def naive_shrinkage(z):
    """Ledoit and Wolf 2004, section 3.3, as written there."""
    images, prototypes = z.shape
    sample = sum(np.outer(row, row) for row in z) / images
    scale = np.trace(sample) / prototypes
    distance = ((sample - scale * np.eye(prototypes)) ** 2).sum()
    error = sum(((np.outer(row, row) - sample) ** 2).sum() for row in z) / images**2
    share = min(error, distance) / distance
    return share * scale * np.eye(prototypes) + (1 - share) * sample


def test_too_few_validation_images_never_raise_the_flag():
    random = np.random.default_rng(0)
    reference, validation = similarities(random, 30), similarities(random, 18)
    few = OutOfDistribution.fit(validation, reference=reference, false_alarm=0.05)
    assert few.threshold == math.inf
    assert not few.flag([[-1e6] * 6]).any()


def test_the_threshold_is_the_conformal_quantile_over_patients():
    random = np.random.default_rng(1)
    reference, validation = similarities(random, 50), similarities(random, 90)
    patients = random.integers(35, size=90)
    fitted = OutOfDistribution.fit(
        validation, reference=reference, false_alarm=0.1, groups=patients
    )
    mean, deviation = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    covariance = naive_shrinkage((reference - mean) / deviation)
    rows = (validation - mean) / deviation
    novelty = [z @ np.linalg.solve(covariance, z) / 6 for z in rows]
    expected = conformal_quantile(novelty, 0.1, groups=patients)
    assert fitted.threshold == pytest.approx(expected)
    assert fitted.groups == len(set(patients.tolist()))


def test_false_alarms_of_twenty_cohorts_are_beta_binomial():
    n, m, rate = 199, 200, 0.05
    low, high = betabinom.interval(0.99, m, 10, 190)  # 200 - ceil(200 x 0.95) = 10 exceed
    alarms, caught = [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        fitted = OutOfDistribution.fit(
            similarities(random, n), reference=similarities(random, 100), false_alarm=rate
        )
        alarms.append(int(fitted.flag(similarities(random, m)).sum()))
        caught.append(fitted.flag(similarities(random, m) - 0.4).mean())
    assert sum(low <= count <= high for count in alarms) >= 18
    assert np.mean(alarms) / m == pytest.approx(rate, abs=0.02)
    assert np.mean(caught) > 0.95  # eight deviations off


def test_prototypes_that_always_agree_leave_the_novelty_finite():
    one = np.random.default_rng(3).normal(size=(2, 50, 1))
    usual, fresh = np.repeat(one, 3, axis=2)
    fitted = OutOfDistribution.fit(fresh, reference=usual)
    assert np.isfinite(fitted.novelty(fresh)).all()
    assert not fitted.flag(usual).all()


def test_a_prototype_that_never_changes_does_not_drown_the_others():
    random = np.random.default_rng(2)
    reference, validation = similarities(random, 60), similarities(random, 60)
    # Constant up to the rounding of float32.
    for values in (reference, validation):
        values[:, 0] = 1 + 1e-7 * random.normal(size=60)
    strange = validation - [0.0, *[0.5] * 5]
    fitted = OutOfDistribution.fit(validation, reference=reference)
    assert fitted.flag(strange).all()
    assert fitted.deviations[0] == pytest.approx(1e-3 * max(fitted.deviations))


@given(
    threshold=st.floats(0, 1e6) | st.just(math.inf),
    means=st.lists(st.floats(-1, 1), min_size=1, max_size=4),
)
def test_record_round_trip(threshold, means):
    precision = ((0.25,) * len(means),) * len(means)
    fitted = OutOfDistribution(
        tuple(means), (0.1,) * len(means), precision, threshold, 0.05, 40, 30
    )
    text = json.dumps(fitted.to_dict(), allow_nan=False)
    assert OutOfDistribution.from_dict(json.loads(text)) == fitted


def test_wrong_arguments():
    fit = OutOfDistribution.fit
    good = [[0.1, 0.2], [0.3, 0.1]]
    with pytest.raises(ValueError, match=r"similarities must have shape \[images, 2\], got \[1, 3"):
        fit([[1.0, 2.0, 3.0]], reference=good)
    with pytest.raises(ValueError, match=r"prototypes >= 1\], got \[2\]"):
        fit(good, reference=[1.0, 2.0])
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        fit(good, reference=good[:1])
    with pytest.raises(ValueError, match="differ between images"):
        fit(good, reference=[[1.0, 1.0]] * 5)
    with pytest.raises(ValueError, match="similarities must be finite"):
        fit([[math.nan, 1.0]], reference=good)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        fit(good, reference=good, false_alarm=0.0)
