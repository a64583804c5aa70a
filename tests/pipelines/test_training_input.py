"""What a training refuses before it begins."""

from types import SimpleNamespace

import numpy as np
import pytest

from medproto.errors import CohortError
from pipelines.training_input import check_groups


def images(labels, groups):
    return SimpleNamespace(labels=np.array(labels), groups=tuple(groups))


def test_each_class_has_a_patient_to_itself():
    check_groups(images([0, 1, 1, 0], "aabb"), [0, 0, 1], ("normal", "nodule"))
    check_groups(images([0, 1, 1], "aab"), [1, 1], ("normal", "nodule"))  # the positive class alone


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1], "aa", "nodule must have a training patient .* it has 1, which other classes need"),
        ([0, 0], "ab", "nodule must have .* it has 0"),
    ],
)
def test_a_class_that_shares_its_only_patient_is_refused(labels, groups, message):
    with pytest.raises(CohortError, match=message):
        check_groups(images(labels, groups), [0, 1], ("normal", "nodule"))


def test_findings_share_patients():
    """Two findings in one patient, one of them in a second, too: it takes that one."""
    both = [[1.0, 1.0, 0.0], [np.nan, 1.0, 0.0], [0.0, 0.0, 1.0]]
    check_groups(images(both, "abc"), [0, 0, 1, 1], ("nodule", "effusion", "no finding"))
    with pytest.raises(CohortError, match="effusion must have"):
        check_groups(images(both[:1] + both[2:], "ac"), [0, 1], ("nodule", "effusion", "none"))
