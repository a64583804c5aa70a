"""The default preset against its plain twin, cross-validated on breast ultrasound.

    make bench NAME=accuracy                                    # four grouped folds, half an hour
    .venv/bin/python benchmarks/accuracy.py --set last_layer.ridge=0.001 --name ridge

Benign against malignant. The images are found through the environment variable MEDPROTO_DATA;
their locked rows take no part. With `--out FOLDER` the runs stay there, and a second call goes on.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from reporting import RESULTS, write_result
from ultrasound import unlocked

from medproto.data import split_cohort
from pipelines.config import load_config
from pipelines.crossvalidate import crossvalidate
from pipelines.provenance import provenance
from pipelines.wording import interval

CLASSES = "data.classes=[benign,malignant]"


def show(row):
    hits = row["localization"]
    sys.stderr.write(
        f"fold {row['fold']}  AUROC {interval(row['auroc'])}  twin {interval(row['twin'])}  "
        f"evidence {interval(hits['pointing_game'])}  "
        f"best constant place {interval(hits['constant_location'])}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="busi", help="results/accuracy_NAME.json")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = provenance()
    config = load_config(None, [CLASSES, *options.settings])
    with tempfile.TemporaryDirectory() as folder:
        cohort = split_cohort(unlocked(Path(folder)), folds=options.folds, seed=0)
        out = options.out or Path(folder) / "runs"
        summary = crossvalidate(cohort, out, config, twin=True, after_fold=show)
    for name, figure in summary["mean"].items():
        if name != "localization":
            sys.stderr.write(f"mean {name:<18} {interval(figure)}\n")
    for name, figure in summary["mean"]["localization"].items():
        sys.stderr.write(f"mean {name:<18} {interval(figure)}\n")
    result = {"benchmark": "accuracy", **made, **summary}
    write_result(RESULTS / f"accuracy_{options.name}.json", result)
    sys.stdout.write(json.dumps(summary["mean"]) + "\n")


if __name__ == "__main__":
    main()
