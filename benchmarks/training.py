"""One whole training of the default preset: 500 images of 224 pixels, warm start counted.

    make bench NAME=training
    make bench NAME=training ARGS="--device cuda --twin --images 2000 --save"   # training_cuda.json

From the cohort table to the finished run folder: reading, checking, features, warm and joint
epochs, projection, last layer, evaluation on 50 further images, report. Without the twin, which is
there for comparison; with `--twin` the joint epochs are compared with its own: images a second,
augmentation and validation counted. The images are synthetic and written as PNG files first, which
is not counted.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from reporting import publish, stamp
from synthetic import Drawn

from medproto.data import Cohort
from pipelines.config import load_config
from pipelines.train import train

AT_MOST = 900
AT_LEAST = 0.90


def cohort_of(folder, count, size):
    """`count` images to learn from, a tenth more to validate, and as many to test."""
    tenth = max(count // 10, 10)
    splits = ["train"] * count + ["val"] * tenth + ["test"] * tenth
    drawn = Drawn(len(splits), size)
    for i in range(len(splits)):
        pixels = (drawn[i][0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    table = {
        "image": [f"{i}.png" for i in range(len(splits))],
        "label": ["disc" if i % 2 else "none" for i in range(len(splits))],
        "patient_id": [f"P{i}" for i in range(len(splits))],
        "split": splits,
    }
    return Cohort(pd.DataFrame(table), folder)


def throughput(history, images):
    """Images a second of each segment, by its median epoch: the first one warms up."""
    return {
        segment: images / float(rows["seconds"].iloc[min(1, len(rows) - 1) :].median())
        for segment, rows in history.groupby("segment", sort=False)
    }


def measure(options, config):
    with tempfile.TemporaryDirectory() as name:
        cohort = cohort_of(Path(name), options.images, options.size)
        started = time.perf_counter()
        run = train(cohort, Path(name) / "run", config, twin=options.twin, device=options.device)
        seconds = time.perf_counter() - started
        rates = throughput(run.history, options.images)
        result = {
            "seconds": round(seconds, 1),
            "epochs": run.history.groupby("segment", sort=False).size().to_dict(),
            "images_per_second": rates,
            "auroc": run.metrics["auroc"],
        }
    if options.twin:
        return result | {"joint_to_twin": rates["joint"] / rates["twin"], "at_least": AT_LEAST}
    return result | {"at_most": AT_MOST}


def report(result, options):
    rates = result["images_per_second"]
    lines = [
        f"{options.images} images of {options.size} px, {options.threads} threads, "
        f"{options.device}, epochs {result['epochs']}",
        "images a second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()),
    ]
    if not options.twin:
        return [*lines, f"{result['seconds']:.0f} s   <= {AT_MOST}"]
    return [*lines, f"joint to twin {result['joint_to_twin']:.3f}   >= {AT_LEAST} on a GPU"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--twin", action="store_true", help="train it, too, and compare")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--save", action="store_true", help="write results/training.json, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    result = stamp("training" if options.device == "cpu" else "training_cuda", options)
    # All epochs: the discs are learned at once, and a segment would stop early.
    settings = [f"data.image_size={options.size}", "training.patience=100", *options.settings]
    if options.device == "cuda":
        result["gpu"] = torch.cuda.get_device_name()
    result |= measure(options, load_config(None, settings))
    publish(result, report(result, options), save=options.save)
    return result


if __name__ == "__main__":
    main()
