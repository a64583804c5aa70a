"""The published schedule on synthetic radiographs and on one grouped fold of breast ultrasound.

    make bench NAME=paper                                     # both, with the settings below
    .venv/bin/python benchmarks/paper.py phantoms --set data.repeats=2

Loss and validation AUROC by epoch, and the AUROC of the chosen model with its bootstrap interval
over groups, on the validation images and on the held-out fold. The ultrasound images are found
through the environment variable MEDPROTO_DATA; their locked rows take no part.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from reporting import RESULTS, write_result
from ultrasound import GROUP, unlocked

from medproto.data import Cohort, from_dicom, split_cohort
from medproto.data.phantom import make_phantom_cohort
from pipelines.config import load_config
from pipelines.evaluate import evaluate_run
from pipelines.provenance import provenance
from pipelines.train import train

SETTINGS = {
    # Two projections; smaller images and batches, and a fifteenth of the published copies.
    "phantoms": (
        "data.image_size=128",
        "data.repeats=2",
        "training.batch_size=20",
        "training.epochs=21",
    ),
    # Up to the first projection and its 20 passes over the last layer.
    "busi": ("data.repeats=1", "training.epochs=11", "data.classes=[benign,malignant]"),
}
SHOWN = ("segment", "epoch", "loss", "cross_entropy", "cluster", "separation", "val_auroc",
         "val_loss")  # fmt: skip


def phantoms(folder, options):
    labels = make_phantom_cohort(folder / "data", patients=options.patients, size=320, seed=0)
    # A key, or the pseudonyms and with them the split would be others each time.
    cohort, _ = from_dicom(folder / "data", labels=labels, key="benchmark")
    split_cohort(cohort, folds=None, seed=0).save(folder / "cohort.csv")
    return Cohort.read(folder / "cohort.csv")


def busi(folder, options):
    cohort = unlocked()
    if options.limit is not None:
        table = cohort.table.groupby("label").head(options.limit // 2).reset_index(drop=True)
        cohort = Cohort(table, cohort.root, GROUP)
    split_cohort(cohort, folds=None, seed=0).save(folder / "cohort.csv")
    return Cohort.read(folder / "cohort.csv", group=GROUP)


COHORTS = {"phantoms": phantoms, "busi": busi}


def measure(part, folder, options):
    cohort = COHORTS[part](folder, options)
    config = load_config(None, [*SETTINGS[part], *options.settings], preset="paper")
    started = time.perf_counter()
    run = train(cohort, folder / "run", config)
    seconds = time.perf_counter() - started
    counts = run.cohort.table["split"].value_counts()
    training, data = run.config.training, run.config.data
    steps = training.steps_per_epoch
    steps = steps or math.ceil(counts["train"] * data.repeats / training.batch_size)
    return run, {
        "benchmark": "paper",
        "part": part,
        **provenance(),
        "threads": torch.get_num_threads(),
        "config_digest": run.card.config_digest,
        "config": run.config.model_dump(mode="json"),
        "images": {name: int(counts[name]) for name in ("train", "val", "test")},
        "repeats": data.repeats,
        "steps_per_epoch": steps,
        "train_seconds": round(seconds, 1),
        "auroc": {
            "val": evaluate_run(run, split="val").summary["auroc"],
            "test": run.metrics["auroc"],
        },
        "prototypes": run.metrics["prototypes"],
        "history": json.loads(run.history.to_json(orient="records")),
    }


def show(result, history):
    print(f"\n{result['part']}: {result['images']}, "
          f"repeats {result['repeats']}, {result['steps_per_epoch']} steps an epoch, "
          f"{result['train_seconds']:.0f} s")  # fmt: skip
    with pd.option_context("display.width", 120, "display.max_rows", None):
        print(history[list(SHOWN)].to_string(index=False, float_format="%.4f", na_rep=""))
    for name, value in result["auroc"].items():
        print(f"AUROC {name:<4} {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
    print(result["prototypes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*COHORTS, []], help="default: all")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--patients", type=int, default=150, help="of the phantoms")
    parser.add_argument("--limit", type=int, help="a trial with so many ultrasound images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    for part in options.parts or COHORTS:
        with tempfile.TemporaryDirectory() as folder:
            run, result = measure(part, Path(folder), options)
            show(result, run.history)
        write_result(options.out / f"paper_{part}.json", result)


if __name__ == "__main__":
    main()
