"""The unlocked rows of the breast ultrasound images (BUSI), as a cohort: benign and malignant."""

import os
import subprocess
import sys
from pathlib import Path

from medproto.data import from_folder

ROOT = Path(__file__).parent.parent
GROUP = "near_duplicate_group"


def unlocked(folder):
    """The cohort, not split; `folder` takes the table of its labels.

    The images are found through the environment variable MEDPROTO_DATA.
    """
    source = Path(os.environ["MEDPROTO_DATA"]) / "busi_512"
    labels = folder / "labels.csv"
    subprocess.run([sys.executable, ROOT / "examples/busi_labels.py", source, labels], check=True)
    cohort, _ = from_folder(source, labels=labels, group=GROUP)
    return cohort.select(("benign", "malignant"))
