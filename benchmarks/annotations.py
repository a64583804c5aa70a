"""Do marks move the evidence? Masks, and forbidden patches, on synthetic radiographs.

    make bench NAME=annotations

Three trainings a seed on phantoms with nodules: without marks; with the nodules' masks (fine
annotation); and with forbidden patches. Those are what a reader of the first run would forbid: the
source boxes of its nodule prototypes that have no nodule in them. Measured on other patients: AUROC
and the pointing game (largest contribution inside the nodule) beside the best constant location;
and on the forbidden patches the similarity of the nodule prototypes to them (mean over patches of
the largest one under the box), before and after. Writes results/annotations.json.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from medproto.data import Cohort, from_dicom, read_mask, split_cohort
from medproto.data.phantom import make_phantom_cohort
from pipelines.config import load_config
from pipelines.evaluate import evaluate_run, load_split
from pipelines.patch_cost import cells_under
from pipelines.train import train

SIZE, PATIENTS, TEST_PATIENTS = 256, 100, 80
SETTINGS = ("data.image_size=128", "training.batch_size=8", "training.features_epochs=12")
MARKS = {
    "no marks": (),
    "masks": ("training.fine_annotation=0.1",),
    "forbidden": ("training.forbid=0.1",),
}


def draw_cohort(folder, name, patients, seed):
    labels = make_phantom_cohort(folder / name, patients=patients, size=SIZE, seed=seed)
    cohort, _ = from_dicom(folder / name, labels=labels)
    split_cohort(cohort, folds=None, seed=seed).save(folder / f"{name}.csv")
    return Cohort.read(folder / f"{name}.csv")


def off_nodule(run):
    """Row and box of each source of a nodule prototype whose box has no nodule in it."""
    found = set()
    for source in run.sources:
        if source.class_name == "nodule":
            mask = read_mask(run.cohort.mask_path(source.row))
            box = source.box
            if not mask[tuple(map(slice, box.start, box.stop))].any():
                found.add((source.row, box))
    return sorted(found, key=lambda entry: (entry[0], entry[1].to_list()))


def write_patches(path, cohort, patches):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "box", "class", "verdict"))
        for row, box in patches:
            place = ",".join(map(str, box.to_list()))
            writer.writerow((cohort.image_path(row).resolve(), place, "nodule", "forbid"))


def similarity_to(run, patches):
    """Mean over patches of the largest similarity of a nodule prototype under the box."""
    network, largest = run.network, []
    images = load_split(run, run.cohort, [row for row, _ in patches])
    for position, (_, box) in enumerate(patches):
        place = images.placement(position)
        under = cells_under(network.grid, place.to_network(box.start), place.to_network(box.stop))
        with torch.no_grad():
            maps = network.evidence(images.image(position)[None]).similarities[0]
        largest.append(maps[network.prototype_class == 1][:, under].max().item())
    return float(np.mean(largest))


def measure(seed):
    with tempfile.TemporaryDirectory() as name:
        folder, patches = Path(name), []
        table = folder / "patches.csv"
        cohort = draw_cohort(folder, "training", PATIENTS, seed)
        test = draw_cohort(folder, "test", TEST_PATIENTS, seed + 1000)
        for marks, settings in MARKS.items():
            if marks == "forbidden":
                settings = (*settings, f"data.patches={table}")
            started = time.perf_counter()
            config = load_config(None, [f"seed={seed}", *SETTINGS, *settings])
            run = train(cohort, folder / marks, config)
            seconds = time.perf_counter() - started
            if marks == "no marks":
                patches = off_nodule(run)
                write_patches(table, run.cohort, patches)
            figures = describe(run, test, patches)
            yield {"seed": seed, "marks": marks, **figures, "train_seconds": round(seconds, 1)}
            if not patches:
                return  # nothing to correct


def describe(run, test, patches):
    summary = evaluate_run(run, cohort=test).summary
    place = summary["localization"]
    joint = run.history[run.history["segment"] == "joint"]
    costs = [key for key in ("fine_annotation", "forbid") if key in joint]
    return {
        "auroc": summary["auroc"],
        **{key: place[key] for key in ("n", "pointing_game", "constant_location", "area")},
        "prototypes_off_nodule": len(off_nodule(run)),
        "nodule_prototypes": int((run.network.prototype_class == 1).sum()),
        "forbidden_patches": len(patches),
        "similarity_to_them": similarity_to(run, patches) if patches else None,
        "cost_by_joint_epoch": {key: joint[key].round(3).tolist() for key in costs},
    }


def text(figure):
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def line(result):
    similarity = result["similarity_to_them"]
    return (
        f"{result['seed']:>4}  {result['marks']:<10}{text(result['auroc']):>22}"
        f"{text(result['pointing_game']):>22}{result['constant_location']['value']:>9.2f}"
        f"{result['prototypes_off_nodule']:>8}/{result['nodule_prototypes']:<3}"
        f"{'-' if similarity is None else format(similarity, '.2f'):>11}"
        f"{result['train_seconds']:>6.0f}"
    )


HEAD = (
    f"{'seed':>4}  {'marks':<10}{'AUROC':>22}{'on the nodule':>22}{'constant':>9}"
    f"{'off nodule':>12}{'similarity':>11}{'s':>6}"
)


def facts():
    def git(*words):
        command = ["git", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "numpy")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "annotations.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(HEAD + "\n")
    results = []
    for seed in options.seeds:
        for result in measure(seed):
            results.append(result)
            sys.stdout.write(line(result) + "\n")
            sys.stdout.flush()
    document = {
        **facts(),
        "patients": {"training": PATIENTS, "test": TEST_PATIENTS},
        "image_px": SIZE,
        "settings": SETTINGS,
        "marks": MARKS,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
