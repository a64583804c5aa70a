"""Do abstention and the out-of-distribution flag keep their stated rates, and what is flagged?

    make bench NAME=doubt

Twenty phantom cohorts, seeded independently, with features that cost next to nothing: a bank of
fixed filters on the cells of an image. Logistic regression on cells inside and outside the masks
gives the logits, cosine to k-means prototypes the similarities. The rates are promised for any
network, so a cheap one tests them as well; the detection table is of *these* features and says
nothing of a trained network.

Of each cohort: coverage of conformal sets over patients (mean logits of their images, temperature
fitted on the same calibration patients), false alarms of the flag over one image a patient, and
both over all images with the patient as group. Then the same for a temperature fitted on its own
half, and the share of strange images flagged. Writes benchmarks/results/doubt.json.

With MEDPROTO_DATA set, ultrasound images (BUSI) and real chest films (PneumoniaMNIST) join the
strange ones.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import RESULTS, write_result
from scipy import ndimage
from scipy.stats import betabinom
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from ultrasound import GROUP, is_locked

from medproto.data import read_image, read_mask
from medproto.data.phantom import make_phantom_cohort
from medproto.metrics import (
    ConformalSets,
    OutOfDistribution,
    abstention_rate,
    aggregate,
    conformal_quantile,
    fit_temperature,
    probabilities,
    set_coverage,
)
from pipelines.provenance import provenance

CLASSES = ("normal", "nodule", "reticular")
SIZE, CELL = 96, 8
TRAIN, CALIBRATION, TEST = 90, 119, 120  # patients
ALPHA, FALSE_ALARM = 0.1, 0.05
PROTOTYPES_PER_CLASS = 10
STRANGE = 60  # images of each kind and cohort
HEAD = "multiclass"
FLAGS = ("flagged", "flagged_by_shortfall", "flagged_by_largest_similarity")


def draw_cohort(seed):
    """Images and masks [N, SIZE, SIZE], labels [N], patients [N], the three parts [N] each."""
    with tempfile.TemporaryDirectory() as folder:
        table = make_phantom_cohort(
            Path(folder),
            patients=TRAIN + CALIBRATION + TEST,
            images_per_patient=(1, 2),
            classes=CLASSES,
            size=SIZE,
            seed=seed,
        )
        with table.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        images = np.stack([read_image(table.parent / row["image"]).pixels for row in rows])
        masks = np.zeros(images.shape, dtype=bool)
        for mask, row in zip(masks, rows, strict=True):
            if row["mask"]:
                mask[:] = read_mask(table.parent / row["mask"])
    labels = np.array([CLASSES.index(row["label"]) for row in rows])
    patients = np.array([int(row["image"].split("_")[1]) for row in rows])
    # Classes are dealt in turn: without the shuffle the parts would not be exchangeable.
    order = np.random.default_rng(seed).permutation(TRAIN + CALIBRATION + TEST)
    parts = np.split(order, [TRAIN, TRAIN + CALIBRATION])
    return images, masks, labels, patients, [np.isin(patients, part) for part in parts]


def cells(images):
    """Feature vectors [N, cells, features]: mean and largest response of fixed filters."""
    features = []
    for image in images:
        maps = [image, 1 - image]
        for scale in (1.0, 2.0, 4.0):
            responses = [4 * scale**2 * ndimage.gaussian_laplace(image, scale)]
            for order in ((1, 0), (0, 1)):
                responses.append(2 * scale * ndimage.gaussian_filter(image, scale, order=order))
            maps += [np.maximum(sign * r, 0) for r in responses for sign in (1, -1)]
        side = SIZE // CELL
        blocks = np.stack(maps).reshape(-1, side, CELL, side, CELL)
        pooled = np.concatenate([blocks.mean(axis=(2, 4)), blocks.max(axis=(2, 4))])
        features.append(pooled.reshape(len(pooled), -1).T)
    return np.stack(features)


def unit(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def classify(features, masks, labels, train, seed):
    """Logits [N, classes] of the strongest cell for each finding."""
    side = SIZE // CELL
    share = masks.reshape(-1, side, CELL, side, CELL).mean(axis=(2, 4)).reshape(len(masks), -1)
    target = np.where(share > 0.5, labels[:, None], 0)[train].ravel()
    # Cells at the border of a mask are neither; of those outside a fifth is enough.
    rare = np.random.default_rng(seed).random(target.shape) < 0.2
    kept = (target > 0) | ((share[train].ravel() == 0) & rare)
    shown = features[train].reshape(-1, features.shape[-1])
    by_cell = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    by_cell.fit(shown[kept], target[kept])
    scores = by_cell.decision_function(features.reshape(-1, features.shape[-1]))
    scores = (scores[:, 1:] - scores[:, :1]).reshape(*features.shape[:2], -1).max(axis=1)
    by_image = make_pipeline(StandardScaler(), LogisticRegression())
    return by_image.fit(scores[train], labels[train]).decision_function(scores)


def choose_prototypes(features, labels, seed):
    """Real cells [P, features] nearest to the k-means centers of each class."""
    chosen = []
    for label in range(len(CLASSES)):
        own = features[labels == label].reshape(-1, features.shape[-1])[::5]
        means = KMeans(PROTOTYPES_PER_CLASS, n_init=1, random_state=seed).fit(own).cluster_centers_
        chosen.append(own[(own @ means.T).argmax(axis=0)])
    return np.concatenate(chosen)


def strange_images(images, seed, data):
    """Kind -> images that do not belong to the cohort."""
    random = np.random.default_rng(seed)
    some = images[:STRANGE]
    noise = random.normal(size=(STRANGE, SIZE, SIZE))
    texture = np.stack([ndimage.gaussian_filter(field, 1.5) for field in noise])
    kinds = {
        "inverted": 1 - some,
        "blank": np.broadcast_to(np.linspace(0, 1, 11)[:, None, None], (11, SIZE, SIZE)),
        "rotated by 90 degrees": np.rot90(some, axes=(1, 2)),
        "upside down": some[:, ::-1],
        "texture": np.clip(0.5 + 0.2 * texture / texture.std(), 0, 1),
    }
    if data is not None:
        kinds["ultrasound (BUSI)"] = read_ultrasound(data / "busi_512", random)
        films = np.load(data / "pneumoniamnist_28.npz")["train_images"]
        picked = films[random.choice(len(films), STRANGE, replace=False)].squeeze()
        kinds["real chest films, 28 px"] = np.stack([fit(Image.fromarray(f)) for f in picked])
    return kinds


def read_ultrasound(folder, random):
    with (folder / "labels.csv").open(newline="") as stream:
        rows = [row["image"] for row in csv.DictReader(stream) if not is_locked(row[GROUP])]
    picked = random.choice(rows, STRANGE, replace=False)
    return np.stack([fit(Image.open(folder / name).convert("L")) for name in picked])


def fit(image):
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) / 255.0


def measure(seed, data):
    images, masks, labels, patients, (train, calibration, test) = draw_cohort(seed)
    features = cells(images)
    logits = classify(features, masks, labels, train, seed)
    prototypes = choose_prototypes(unit(features[train]), labels[train], seed)

    def similarities(of):
        return (unit(of) @ prototypes.T).max(axis=1)  # [N, P]

    scores = similarities(features)
    result = {"seed": seed, **doubt(logits, labels, patients, calibration, test)}

    reference = scores[train]
    first = np.flatnonzero(np.append(True, patients[1:] != patients[:-1]))
    ones, fresh = (np.intersect1d(first, np.flatnonzero(part)) for part in (calibration, test))
    flag = OutOfDistribution.fit(scores[ones], reference=reference, false_alarm=FALSE_ALARM)
    pooled = OutOfDistribution.fit(
        scores[calibration],
        reference=reference,
        false_alarm=FALSE_ALARM,
        groups=patients[calibration],
    )
    alarms = pooled.flag(scores[test])
    result["false_alarms"] = int(flag.flag(scores[fresh]).sum())
    result["image_false_alarm_rate"] = by_patient(alarms, patients[test])
    # Simpler: what each similarity falls short of its mean by itself, and the largest one alone.
    mean, deviation = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    simpler = {
        "shortfall": lambda s: (np.minimum((s - mean) / deviation, 0) ** 2).mean(axis=1),
        "largest_similarity": lambda s: -s.max(axis=1),
    }
    strange = {
        kind: similarities(cells(of))
        for kind, of in strange_images(images[fresh], seed, data).items()
    }
    result["flagged"] = {kind: float(flag.flag(s).mean()) for kind, s in strange.items()}
    for name, novelty in simpler.items():
        limit = conformal_quantile(novelty(scores[ones]), FALSE_ALARM)
        result[f"flagged_by_{name}"] = {
            kind: float((novelty(s) > limit).mean()) for kind, s in strange.items()
        }
    return result


def doubt(logits, labels, patients, calibration, test):
    old, new = (
        aggregate(logits[part], patients[part], head=HEAD, labels=labels[part])
        for part in (calibration, test)
    )
    temperature = fit_temperature(old.logits, old.labels, head=HEAD).value
    half = len(old.labels) // 2
    own_half = fit_temperature(old.logits[:half], old.labels[:half], head=HEAD).value

    def sets(rows, value, **options):
        chances = probabilities(old.logits[rows], head=HEAD, temperature=value)
        fitted = ConformalSets.fit(chances, old.labels[rows], head=HEAD, alpha=ALPHA, **options)
        return fitted.sets(probabilities(new.logits, head=HEAD, temperature=value))

    chosen = sets(slice(None), temperature)
    chances = probabilities(logits, head=HEAD, temperature=temperature)
    by_image = ConformalSets.fit(
        chances[calibration],
        labels[calibration],
        head=HEAD,
        alpha=ALPHA,
        groups=patients[calibration],
    ).sets(chances[test])
    inside = by_image[np.arange(len(by_image)), labels[test]]
    single = chosen.sum(axis=1) == 1
    right = chosen[np.arange(len(chosen)), new.labels]
    return {
        "temperature": temperature,
        "accuracy": float(np.mean(new.logits.argmax(axis=1) == new.labels)),
        "covered": round(TEST * set_coverage(chosen, new.labels)),
        "abstention_rate": abstention_rate(chosen),
        "accuracy_without_abstained": float(right[single].mean()) if single.any() else None,
        "coverage_temperature_on_own_half": set_coverage(
            sets(slice(half, None), own_half), new.labels
        ),
        "image_coverage": by_patient(inside, patients[test]),
    }


def by_patient(hits, patients):
    """Mean over the patients of the share of their images."""
    return float(np.mean([hits[patients == patient].mean() for patient in np.unique(patients)]))


def same_cases_twice(rounds=2000, cases=59, fresh=1000):
    """Mean coverage over many draws, temperature from the calibration cases and from none."""
    random = np.random.default_rng(0)
    coverage = np.zeros((rounds, 2))
    for row in coverage:
        labels = random.integers(4, size=cases + fresh)
        logits = 3 * (random.normal(size=(len(labels), 4)) + 1.2 * np.eye(4)[labels])
        fitted = fit_temperature(logits[:cases], labels[:cases], head=HEAD).value
        for column, temperature in enumerate((fitted, 1.0)):
            chances = probabilities(logits, head=HEAD, temperature=temperature)
            sets = ConformalSets.fit(chances[:cases], labels[:cases], head=HEAD, alpha=ALPHA)
            row[column] = set_coverage(sets.sets(chances[cases:]), labels[cases:])
    return {
        "calibration_cases": cases,
        "rounds": rounds,
        "coverage_temperature_from_the_same_cases": coverage[:, 0].mean(),
        "coverage_without_temperature": coverage[:, 1].mean(),
        "standard_error": coverage.std(axis=0, ddof=1).max() / np.sqrt(rounds),
    }


def summarize(cohorts):
    def mean(name):
        return float(np.mean([c[name] for c in cohorts if c[name] is not None]))

    def table(name):
        kinds = cohorts[0][name]
        return {kind: float(np.mean([c[name][kind] for c in cohorts])) for kind in kinds}

    summary = {}
    # Failures are BetaBinomial(m, n + 1 - k, k) with n + 1 - k = (n + 1) x rate, a whole number.
    for name, rate in (("covered", ALPHA), ("false_alarms", FALSE_ALARM)):
        beyond = round((CALIBRATION + 1) * rate)
        low, high = betabinom.interval(0.99, TEST, beyond, CALIBRATION + 1 - beyond)
        if name == "covered":
            low, high = TEST - high, TEST - low
        counts = [cohort[name] for cohort in cohorts]
        summary[name] = {
            "nominal": 1 - rate if name == "covered" else rate,
            "mean": float(np.mean(counts)) / TEST,
            "interval_99": [int(low), int(high)],
            "of": TEST,
            "cohorts_inside": int(sum(low <= count <= high for count in counts)),
            "cohorts": len(cohorts),
        }
    others = ("accuracy", "abstention_rate", "accuracy_without_abstained", "image_coverage")
    others += ("coverage_temperature_on_own_half", "image_false_alarm_rate", "temperature")
    summary |= {name: mean(name) for name in others}
    summary |= {name: table(name) for name in FLAGS}
    return summary


def report(summary, twice):
    lines = []
    for name in ("covered", "false_alarms"):
        s = summary[name]
        lines.append(
            f"{name:<13} nominal {s['nominal']:.3f}  mean {s['mean']:.4f}  99 % interval "
            f"{s['interval_99'][0]}..{s['interval_99'][1]} of {s['of']}  inside "
            f"{s['cohorts_inside']} of {s['cohorts']} cohorts"
        )
    lines += [f"{k:<34}{v:.4f}" for k, v in summary.items() if isinstance(v, float)]
    lines += [f"{k:<42}{v:.4f}" for k, v in twice.items()]
    lines.append(f"\n{'share flagged':<26}{'novelty':>9}{'shortfall':>11}{'largest':>9}")
    for kind in summary["flagged"]:
        by, shortfall, largest = (summary[name][kind] for name in FLAGS)
        lines.append(f"{kind:<26}{by:>9.2f}{shortfall:>11.2f}{largest:>9.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "doubt.json")
    options = parser.parse_args()
    data = Path(os.environ["MEDPROTO_DATA"]) if os.environ.get("MEDPROTO_DATA") else None
    started = time.perf_counter()
    cohorts = [measure(seed, data) for seed in range(options.cohorts)]
    twice = same_cases_twice()
    summary = summarize(cohorts)
    report(summary, twice)
    result = {
        **provenance(),
        "seconds": round(time.perf_counter() - started),
        "alpha": ALPHA,
        "false_alarm": FALSE_ALARM,
        "patients": {"train": TRAIN, "calibration": CALIBRATION, "test": TEST},
        "image_px": SIZE,
        "summary": summary,
        "same_cases_twice": twice,
        "by_cohort": cohorts,
    }
    write_result(options.out, result)


if __name__ == "__main__":
    main()
