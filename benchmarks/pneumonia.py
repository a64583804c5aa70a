"""The default preset on PneumoniaMNIST, small chest films, with the splits that they come with.

    make bench NAME=pneumonia                           # train, and test once
    .venv/bin/python benchmarks/pneumonia.py --split val --set data.image_size=64   # a choice

The films of 28 pixels are enlarged for a network that halves its input four times. The file
`pneumoniamnist_28.npz` is found through the environment variable MEDPROTO_DATA. Published for a
ResNet-18 at 28 pixels (MedMNIST v2, Yang et al. 2023): AUC 0.944, accuracy 0.854.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from reporting import RESULTS, write_result
from scipy.stats import binomtest

from medproto.data import from_npz
from pipelines.config import load_config
from pipelines.evaluate import evaluate_run
from pipelines.provenance import provenance
from pipelines.train import train
from pipelines.wording import interval

CLASSES = ["normal", "pneumonia"]
SETTINGS = ["data.classes=[normal,pneumonia]", "data.image_size=112"]


def share(hits):
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return {"value": float(hits.mean()), "low": float(ends.low), "high": float(ends.high)}


def figures(run, split):
    """AUROC; accuracy where the likelier class is taken, and at the threshold of validation."""
    evaluation = evaluate_run(run, split=split)
    chances, labels = evaluation.probabilities[:, 1], evaluation.images.labels
    threshold = evaluation.summary["operating_point"]["threshold"]
    return {
        "n": len(labels),
        "auroc": evaluation.summary["auroc"],
        "accuracy": share((chances > 0.5) == labels),
        "accuracy_at_operating_point": share((chances >= threshold) == labels),
        "operating_point": evaluation.summary["operating_point"],
        "balanced_accuracy": evaluation.summary["balanced_accuracy"],
        "twin": evaluation.summary["twin"] and evaluation.summary["twin"]["auroc"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--twin", action="store_true", help="train the plain classifier, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", help="results/NAME.json; none is written for --split val")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = provenance()
    config = load_config(None, [*SETTINGS, *options.settings])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Path(os.environ["MEDPROTO_DATA"]) / "pneumoniamnist_28.npz"
        cohort, notes = from_npz(source, folder / "films", classes=CLASSES)
        started = time.perf_counter()
        run = train(cohort, folder / "run", config, twin=options.twin)
        seconds = round(time.perf_counter() - started)
        found = figures(run, options.split)
        history = json.loads(run.history.to_json(orient="records"))
    result = {
        "benchmark": "pneumonia",
        **made,
        "threads": options.threads,
        "split": options.split,
        "config_digest": run.card.config_digest,
        "config": run.config.model_dump(mode="json"),
        "dropped_rows": len(notes),
        "train_seconds": seconds,
        **found,
        "published": {"auroc": 0.944, "accuracy": 0.854},
        "history": history,
    }
    for key in ("auroc", "accuracy", "accuracy_at_operating_point", "balanced_accuracy"):
        sys.stderr.write(f"{options.split} {key:<28} {interval(found[key])}\n")
    if options.split == "test":
        write_result(RESULTS / f"{options.name or 'pneumonia'}.json", result)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
