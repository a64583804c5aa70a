"""Do marks move the evidence? Masks, and forbidden patches, on synthetic radiographs.

    make bench NAME=annotations                                   # both parts, three seeds
    .venv/bin/python benchmarks/annotations.py forbidden --seeds 0

Part `masks`: phantoms with nodules, without marks and with the nodules' masks (fine annotation).

Part `forbidden`: into 95 % of the images with a nodule and 5 % of the normal ones an electrode (a
bright ring) is burned, so that a network can be right for the wrong reason; without marks, and with
the electrodes of ten training images forbidden to the nodule prototypes.

Measured on other patients, who have no electrode in either part: AUROC, and the pointing game
(largest contribution inside the nodule) beside the best constant location. With an electrode burned
into each of these images: the largest similarity of a nodule prototype to it, and the share of
images where no other place is more similar to one. Writes results/annotations_PART.json.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from reporting import RESULTS, write_result

from medproto.data import Cohort, read_image, split_cohort
from medproto.data.phantom import make_phantom_cohort
from pipelines.config import load_config
from pipelines.evaluate import evaluate_run, load_split
from pipelines.patch_cost import cells_under
from pipelines.provenance import provenance
from pipelines.train import train

SIZE, PATIENTS, TEST_PATIENTS = 256, 100, 80
FORBIDDEN = 10  # patches
SETTINGS = ("data.image_size=128", "training.batch_size=8", "training.features_epochs=12")
RATES = {
    "masks": {"nodule": 0.0, "normal": 0.0},
    "forbidden": {"nodule": 0.95, "normal": 0.05},
}
MARKED = {"masks": "training.fine_annotation=0.1", "forbidden": "training.forbid=0.1"}


def burn_electrode(pixels, random):
    """A bright ring somewhere in the upper part of the image; returns its box."""
    radius = 0.05 * SIZE
    center = random.uniform((0.1, 0.15), (0.2, 0.85)) * SIZE
    distance = np.hypot(*(np.mgrid[:SIZE, :SIZE] + 0.5 - center[:, None, None]))
    pixels[(distance < radius) & (distance > radius / 2)] = 1.0
    return [*np.floor(center - radius).astype(int), *np.ceil(center + radius).astype(int)]


def draw_cohort(folder, name, patients, seed, rates):
    """A cohort of PNG files, and the box of the electrode of each image, or None.

    The phantoms and the places of the electrodes depend on the seed alone.
    """
    labels = make_phantom_cohort(folder / f"{name}_dicom", patients=patients, size=SIZE, seed=seed)
    table, random = pd.read_csv(labels, dtype=str).fillna(""), np.random.default_rng([seed, 7])
    (folder / name).mkdir()
    boxes, rows = [], []
    for number, row in table.iterrows():
        pixels = read_image(labels.parent / row["image"]).pixels
        with_electrode = pixels.copy()
        box = burn_electrode(with_electrode, random)
        shown = random.random() < rates[row["label"]]
        boxes.append(box if shown else None)
        stored = np.round(255 * (with_electrode if shown else pixels)).astype(np.uint8)
        Image.fromarray(stored).save(folder / name / f"{number:03d}.png")
        mask = row["mask"] and f"{name}_dicom/{row['mask']}"
        patient = f"P{row['image'].split('_')[1]}"
        rows.append((f"{name}/{number:03d}.png", row["label"], patient, mask))
    own = pd.DataFrame(rows, columns=["image", "label", "patient_id", "mask"])
    split_cohort(Cohort(own, folder), folds=None, seed=seed).save(folder / f"{name}.csv")
    return Cohort.read(folder / f"{name}.csv"), boxes


def write_patches(path, cohort, boxes):
    table = cohort.table
    lines = [
        f'{table["image"][row]},"{",".join(map(str, box))}",nodule,forbid'
        for row, box in enumerate(boxes)
        if box and table["split"][row] == "train" and table["label"][row] == "nodule"
    ]
    path.write_text("\n".join(["image,box,class,verdict", *lines[:FORBIDDEN]]) + "\n")


def at_electrodes(run, cohort, boxes):
    """Mean largest similarity there, and the share of images where it is the largest of all."""
    network, images = run.network, load_split(run, cohort, range(len(boxes)))
    there, anywhere = [], []
    for position, box in enumerate(boxes):
        place = images.placement(position)
        under = cells_under(network.grid, place.to_network(box[:2]), place.to_network(box[2:]))
        with torch.no_grad():
            maps = network.evidence(images.image(position)[None]).similarities[0]
        own = maps[network.prototype_class == 1]
        there.append(own[:, under].max().item())
        anywhere.append(own.max().item())
    share = np.mean(np.array(there) == np.array(anywhere))
    return {"similarity_at_electrode": float(np.mean(there)), "largest_there": float(share)}


def measure(part, seed):
    """Train without and with marks, and yield the figures of each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort, boxes = draw_cohort(folder, "training", PATIENTS, seed, RATES[part])
        clean, _ = draw_cohort(folder, "clean", TEST_PATIENTS, seed + 1000, RATES["masks"])
        always = {"nodule": 1.0, "normal": 1.0}
        other = draw_cohort(folder, "electrode", TEST_PATIENTS, seed + 1000, always)
        marks = [MARKED[part]]
        if part == "forbidden":
            write_patches(folder / "patches.csv", cohort, boxes)
            marks.append(f"data.patches={folder / 'patches.csv'}")
        for used, settings in ((False, []), (True, marks)):
            started = time.perf_counter()
            config = load_config(None, [f"seed={seed}", *SETTINGS, *settings])
            run = train(cohort, folder / f"run_{used}", config)
            seconds = time.perf_counter() - started
            summary = evaluate_run(run, cohort=clean).summary
            place = summary["localization"]
            joint = run.history[run.history["segment"] == "joint"]
            costs = [key for key in ("fine_annotation", "forbid") if key in joint]
            yield {
                "seed": seed,
                "marks": used,
                "auroc": summary["auroc"],
                **{key: place[key] for key in ("n", "pointing_game", "constant_location", "area")},
                **at_electrodes(run, *other),
                "cost_by_joint_epoch": {key: joint[key].round(3).tolist() for key in costs},
                "train_seconds": round(seconds, 1),
            }


HEAD = (
    f"{'seed':>4} {'marks':>6}{'AUROC':>23}{'on the nodule':>23}{'constant':>10}"
    f"{'electrode: similarity':>23}{'largest there':>15}{'s':>6}"
)


def line(result):
    def text(figure):
        return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"

    return (
        f"{result['seed']:>4} {'yes' if result['marks'] else 'no':>6}{text(result['auroc']):>23}"
        f"{text(result['pointing_game']):>23}{result['constant_location']['value']:>10.3f}"
        f"{result['similarity_at_electrode']:>23.2f}{result['largest_there']:>15.2f}"
        f"{result['train_seconds']:>6.0f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*MARKED, []], help="default: both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts or MARKED:
        sys.stdout.write(f"\n{part}: {MARKED[part]}\n{HEAD}\n")
        results = []
        for seed in options.seeds:
            for result in measure(part, seed):
                results.append(result)
                sys.stdout.write(line(result) + "\n")
                sys.stdout.flush()
        document = {
            **provenance(),
            "threads": torch.get_num_threads(),
            "part": part,
            "marks": MARKED[part],
            "settings": SETTINGS,
            "patients": {"training": PATIENTS, "test": TEST_PATIENTS},
            "image_px": SIZE,
            "electrode_rates": RATES[part],
            "forbidden_patches": FORBIDDEN if part == "forbidden" else 0,
            "results": results,
        }
        path = options.out / f"annotations_{part}.json"
        write_result(path, document)


if __name__ == "__main__":
    main()
