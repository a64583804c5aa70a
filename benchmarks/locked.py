"""The locked rows of the breast ultrasound images: trained on the others, tested on them, once.

    make bench NAME=locked                                  # benign against malignant
    make bench NAME=locked ARGS="--classes normal benign malignant --name three_classes"

A fifth of the groups of near-duplicates took part in no choice. They say what the preset is worth
as long as nobody chooses by them, so a result that exists is not measured again. The images are
found through the environment variable MEDPROTO_DATA.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from reporting import RESULTS, write_result
from ultrasound import CLASSES, with_locked_as_test

from pipelines.config import load_config
from pipelines.provenance import provenance
from pipelines.train import train
from pipelines.wording import interval


def measure(options):
    config = load_config(None, [f"data.classes=[{','.join(options.classes)}]"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = with_locked_as_test(options.classes)
        run = train(cohort, folder / "run", config, twin=True)
        counts = run.cohort.table["split"].value_counts()
        metrics = run.metrics
        return {
            "config_digest": run.card.config_digest,
            "config": run.config.model_dump(mode="json"),
            "images": {split: int(counts[split]) for split in ("train", "val", "test")},
            **metrics,
        }


def report(result):
    place, twin = result["localization"], result["twin"]
    rows = {
        "AUROC": result["auroc"],
        "AUROC of the twin": twin["auroc"],
        "difference": twin["difference"],
        "evidence in the lesion": place["pointing_game"],
        "best constant place": place["constant_location"],
        "energy in the lesion": place["energy_inside"],
    }
    sys.stderr.write(f"{result['images']}\n")
    sys.stderr.writelines(f"{name:<24}{interval(figure)}\n" for name, figure in rows.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", nargs="+", default=CLASSES, help="the reference class first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="busi", help="results/locked_NAME.json")
    options = parser.parse_args()
    out = RESULTS / f"locked_{options.name}.json"
    if out.exists():
        sys.exit(f"the locked rows were measured: {out.name} exists, and they are measured once.")
    torch.set_num_threads(options.threads)
    made = provenance()
    result = {"benchmark": "locked", "threads": options.threads, **made, **measure(options)}
    report(result)
    write_result(out, result)
    sys.stdout.write(json.dumps({"auroc": result["auroc"], "images": result["images"]}) + "\n")


if __name__ == "__main__":
    main()
