"""What does the out-of-distribution flag of a trained network catch?

    make bench NAME=detection

Small networks, each trained on its own synthetic cohort (the clinical preset, 128 pixels, a third
of the patients each for training, validation and test). The flag is the run's own, from its
doubt.json. It is raised on the test images as they are, and changed as no image of the cohort is:
inverted, turned, upside down, mirrored, constant. With MEDPROTO_DATA set, ultrasound images (BUSI)
and real chest films (PneumoniaMNIST) join them, without the rows that the project keeps locked.

One image a patient, so that the exact binomial interval of a rate holds. Beside the rate stands the
AUROC of the novelty against the unchanged images, which needs no threshold. Intervals of one
network say nothing of the next one: the table shows every network, and the pooled counts. Writes
benchmarks/results/detection.json.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import RESULTS, write_result
from scipy.stats import binomtest
from ultrasound import GROUP, is_locked

from medproto.data import Cohort, from_dicom, split_cohort
from medproto.data.phantom import make_phantom_cohort
from medproto.metrics import auroc, bootstrap
from pipelines.cases import load_case
from pipelines.config import load_config
from pipelines.doubt import FALSE_ALARM
from pipelines.evaluate import load_split
from pipelines.inference import pooled_similarities
from pipelines.provenance import provenance
from pipelines.train import train

PATIENTS, SIZE = 180, 192
VALIDATION, TEST = 1 / 2, 1 / 3  # of the patients that are not for test, and of all
SETTINGS = ("data.image_size=128", "training.features_epochs=4", "training.joint_epochs=4")
STRANGE = 60  # images of each other modality
GRAYS = 20  # constant images
UNCHANGED = "unchanged"


def make_cohort(folder, seed, patients):
    labels = make_phantom_cohort(folder / "data", patients=patients, size=SIZE, seed=seed)
    # A key, or the pseudonyms and with them the split would be others each time.
    cohort, _ = from_dicom(folder / "data", labels=labels, key="benchmark")
    cohort = split_cohort(cohort, seed=seed, val_fraction=VALIDATION, test_fraction=TEST)
    cohort.save(folder / "cohort.csv")
    return Cohort.read(folder / "cohort.csv")


def one_a_patient(run):
    """The network's input [N, 1, *S] of the first test image of each patient."""
    table = run.cohort.table
    rows = table.index[(table["split"] == "test") & ~table["group"].duplicated()].tolist()
    images = load_split(run, run.cohort, rows)
    return torch.stack([images.image(i) for i in range(len(images))])


def changed(images):
    """Kind -> images [N, 1, *S] that the cohort has not."""
    grays = torch.linspace(0, 1, GRAYS)[:, None, None, None]
    return {
        "inverted": 1 - images,
        "rotated by 90 degrees": torch.rot90(images, dims=(2, 3)),
        "upside down": images.flip(2),
        "mirrored, left to right": images.flip(3),
        "blank": grays.expand(-1, *images.shape[1:]),
    }


def other_modalities(run, folder, data, seed):
    """Kind -> images, or the reason why there are none."""
    random = np.random.default_rng(seed)
    kinds = {}
    table = None if data is None else data / "busi_512" / "labels.csv"
    if table is None or not table.exists():
        kinds["ultrasound (BUSI)"] = "not measured: no busi_512/ in MEDPROTO_DATA"
    else:
        with table.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if not is_locked(row[GROUP])]
        groups = {row[GROUP]: table.parent / row["image"] for row in rows}
        paths = random.choice(list(groups.values()), STRANGE, replace=False)
        kinds["ultrasound (BUSI)"] = stack(run, paths)
    films = None if data is None else data / "pneumoniamnist_28.npz"
    if films is None or not films.exists():
        kinds["real chest films, 28 px"] = "not measured: no pneumoniamnist_28.npz in MEDPROTO_DATA"
    else:
        pixels = np.load(films)["train_images"].squeeze()
        paths = [folder / f"film_{i}.png" for i in range(STRANGE)]
        for path, i in zip(paths, random.choice(len(pixels), STRANGE, replace=False), strict=True):
            Image.fromarray(pixels[i]).save(path)
        kinds["real chest films, 28 px"] = stack(run, paths)
    return kinds


def stack(run, paths):
    return torch.stack([load_case(run, path).as_tensor() for path in paths])


@torch.no_grad()
def similarities(network, images):
    """Pooled similarities [N, P]."""
    parts = [pooled_similarities(network, batch) for batch in images.split(32)]
    return torch.cat(parts).numpy()


def rate(flags):
    ends = binomtest(int(flags.sum()), len(flags)).proportion_ci(method="exact")
    return {"value": float(flags.mean()), "low": float(ends.low), "high": float(ends.high)}


def measure(seed, data, options):
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = make_cohort(folder, seed, options.patients)
        config = load_config(None, [f"seed={seed}", *SETTINGS, *options.settings])
        run = train(cohort, folder / "run", config)
        unusual, figures = run.doubt.unusual, run.metrics  # read while the folder is there
        if unusual is None:
            sys.exit("the flag needs 19 validation patients or more; pass more --patients.")
        usual = one_a_patient(run)
        kinds = {UNCHANGED: usual, **changed(usual), **other_modalities(run, folder, data, seed)}
        scores = {
            kind: similarities(run.network, images)
            for kind, images in kinds.items()
            if not isinstance(images, str)
        }
    own = unusual.novelty(scores[UNCHANGED])
    counts = run.cohort.table["split"].value_counts()
    return {
        "seed": seed,
        "config_digest": run.card.config_digest,
        "images": {split: int(counts[split]) for split in ("train", "val", "test")},
        "validation_patients": unusual.groups,
        "auroc_of_the_classifier": figures["auroc"],
        "seconds": round(time.perf_counter() - started),
        "kinds": {kind: judge(unusual, own, found) for kind, found in scores.items()},
        "left_out": {kind: why for kind, why in kinds.items() if isinstance(why, str)},
    }


def judge(unusual, own, scores):
    novelty = unusual.novelty(scores)
    labels = np.repeat([0, 1], [len(own), len(novelty)])
    area = bootstrap(auroc, np.concatenate([own, novelty]), labels, groups=range(len(labels)))
    return {
        "n": len(novelty),
        "flagged": rate(unusual.flag(scores)),
        "auroc": area.to_dict(),
        "median_novelty_over_threshold": float(np.median(novelty) / unusual.threshold),
    }


def summarize(networks):
    """All networks' images together, and the range over the networks."""
    summary = {}
    for kind in networks[0]["kinds"]:
        found = [network["kinds"][kind] for network in networks]
        hits = [np.arange(f["n"]) < round(f["n"] * f["flagged"]["value"]) for f in found]
        areas = [f["auroc"]["value"] for f in found]
        summary[kind] = {
            "n": sum(f["n"] for f in found),
            "flagged": rate(np.concatenate(hits)),
            "flagged_by_network": [f["flagged"]["value"] for f in found],
            "auroc": float(np.mean(areas)),
            "auroc_by_network": areas,
        }
    return summary


def report(networks, summary):
    lines = [
        f"network {n['seed']}: {n['images']}, AUROC {n['auroc_of_the_classifier']['value']:.3f}, "
        f"{n['validation_patients']} validation patients, {n['seconds']} s"
        for n in networks
    ]
    lines.append(f"\nstated false-alarm rate {FALSE_ALARM:.2f}; flagged: all networks' images")
    lines.append(f"{'':<26}{'n':>5}{'flagged':>9}{'95 % interval':>16}{'AUROC':>8}   by network")
    for kind, s in summary.items():
        f = s["flagged"]
        by = " ".join(f"{value:.2f}" for value in s["flagged_by_network"])
        span = f"{f['low']:.2f} to {f['high']:.2f}"
        lines.append(f"{kind:<26}{s['n']:>5}{f['value']:>9.2f}{span:>16}{s['auroc']:>8.3f}   {by}")
    lines += [f"{kind:<26}{why}" for kind, why in networks[0]["left_out"].items()]
    sys.stdout.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--out", type=Path, default=RESULTS / "detection.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stamp = provenance()  # before the result changes what git sees
    data = Path(os.environ["MEDPROTO_DATA"]) if os.environ.get("MEDPROTO_DATA") else None
    seeds = range(options.first_seed, options.first_seed + options.networks)
    networks = [measure(seed, data, options) for seed in seeds]
    summary = summarize(networks)
    report(networks, summary)
    result = {
        **stamp,
        "seconds": sum(network["seconds"] for network in networks),
        "false_alarm": FALSE_ALARM,
        "patients": options.patients,
        "image_px": SIZE,
        "settings": [*SETTINGS, *options.settings],
        "summary": summary,
        "networks": networks,
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
