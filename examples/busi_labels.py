"""Write the labels table of the BUSI ultrasound images without the rows that are locked away.

A fifth of the groups of near-duplicates is set aside for one last measurement and takes part in no
table, no choice and no look. The README's tour of real images starts from the table this writes:

    python examples/busi_labels.py "$MEDPROTO_DATA/busi_512" busi_labels.csv
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd


def is_locked(group: object) -> bool:
    """Whether a group of near-duplicates belongs to the locked fifth."""
    return int(hashlib.sha256(str(group).encode()).hexdigest(), 16) % 5 == 0


def main(source: Path, out: Path) -> None:
    """Read ``labels.csv`` in ``source``, drop the locked groups, write ``out``."""
    table = pd.read_csv(source / "labels.csv")
    kept = table[~table["near_duplicate_group"].map(is_locked)]
    kept.to_csv(out, index=False)
    sys.stderr.write(f"{len(kept)} of {len(table)} rows written, the rest is locked.\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
