"""The breast ultrasound images (BUSI) as cohorts; a fifth of their groups is locked away.

The images are found through the environment variable MEDPROTO_DATA.
"""

import hashlib
import os
import sys
from pathlib import Path

from medproto.data import Cohort, from_folder, split_of_fold

GROUP = "near_duplicate_group"
CLASSES = ("benign", "malignant")


def is_locked(group):
    """Whether a group belongs to the fifth that takes part in no choice and no look."""
    return int(hashlib.sha256(str(group).encode()).hexdigest(), 16) % 5 == 0


def unlocked(classes=CLASSES):
    """The unlocked rows of these classes, not split."""
    everything = _all(classes)
    kept = everything.table[~everything.table[GROUP].map(is_locked)].reset_index(drop=True)
    return Cohort(kept, everything.root, GROUP)


def with_locked_as_test(classes=CLASSES):
    """All rows of these classes: the locked are the test split, of the others a sixth validates."""
    everything = _all(classes)
    locked = everything.table[GROUP].map(is_locked)
    table = everything.table.assign(fold=(~locked).astype(int))
    return split_of_fold(Cohort(table, everything.root, GROUP), 0, seed=0)


def _all(classes):
    if "MEDPROTO_DATA" not in os.environ:
        sys.exit("MEDPROTO_DATA must name the folder that holds busi_512.")
    cohort, _ = from_folder(Path(os.environ["MEDPROTO_DATA"]) / "busi_512", group=GROUP)
    return cohort.select(classes)
