"""The default preset against its plain twin, cross-validated on breast ultrasound.

    make bench NAME=accuracy                                    # four grouped folds, half an hour
    make bench NAME=accuracy ARGS="--classes normal benign malignant --name three_classes"
    .venv/bin/python benchmarks/accuracy.py --set last_layer.ridge=0.001 --name ridge

The images are found through the environment variable MEDPROTO_DATA; their locked rows take no
part. With `--out FOLDER` the runs stay there, and a second call goes on. The loss of AUROC between
the joint epochs and the solved last layer is that of the same images.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import torch
from reporting import RESULTS, write_result
from ultrasound import CLASSES, unlocked

from medproto.data import split_cohort
from medproto.metrics import mean_over_folds, probabilities
from pipelines.config import load_config
from pipelines.crossvalidate import crossvalidate
from pipelines.discrimination import ranking_metric
from pipelines.evaluate import load_split
from pipelines.inference import infer_logits
from pipelines.provenance import provenance
from pipelines.runs import RunFolder
from pipelines.wording import interval


def show(row):
    hits = row["localization"]
    sys.stderr.write(
        f"fold {row['fold']}  AUROC {interval(row['auroc'])}  twin {interval(row['twin'])}  "
        f"evidence {interval(hits['pointing_game'])}  "
        f"best constant place {interval(hits['constant_location'])}\n"
    )


def stages(run):
    """Probabilities of the test images before projection and at the end, labels, groups.

    The checkpoint is that of the last epoch trained by gradient: the network before projection.
    """
    cohort = run.cohort
    images = load_split(run, cohort, cohort.table.index[cohort.table["split"] == "test"].tolist())
    stored = torch.load(run.path / "checkpoints" / "progress.pt", weights_only=True)["modules"]
    before = copy.deepcopy(run.network)
    before.load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in stored.items()
            if name.startswith("network.")
        }
    )
    found = [
        probabilities(infer_logits(network.eval(), images), head=network.head)
        for network in (before, run.network)
    ]
    return [*found, images.labels], list(images.groups)


def cost_of_projection(runs):
    """AUROC before projection, and how much less it is at the end, means over the folds."""
    measure = ranking_metric(runs[0].network.head)
    arrays, groups = zip(*(stages(run) for run in runs), strict=True)

    def loss(before, after, labels):
        left, right = measure(before, labels), measure(after, labels)
        return None if left is None or right is None else left - right

    befores = [[before, labels] for before, _, labels in arrays]
    return {
        "before_projection": mean_over_folds(measure, befores, groups=groups, name="before"),
        "loss": mean_over_folds(loss, arrays, groups=groups, name="loss"),
        "before_projection_by_fold": [measure(*fold) for fold in befores],
        "loss_by_fold": [loss(*fold) for fold in arrays],
    }


def place(folds):
    """Means over the folds of the figures that stand beside the hits."""
    names = {
        "energy_inside": "value",
        "area": "value",
        "box_area": "median",
        "image_center": "value",
    }
    found = [fold["localization"] for fold in folds]
    return {
        f"{name}_{key}": sum(fold[name][key] for fold in found) / len(found)
        for name, key in names.items()
    }


def as_document(figures):
    return {
        name: figure.to_dict() if hasattr(figure, "to_dict") else figure
        for name, figure in figures.items()
    }


def measure(options):
    config = load_config(None, [f"data.classes=[{','.join(options.classes)}]", *options.settings])
    with tempfile.TemporaryDirectory() as folder:
        cohort = unlocked(options.classes)
        cohort = split_cohort(cohort, folds=options.folds, seed=0)
        out = options.out or Path(folder) / "runs"
        summary = crossvalidate(cohort, out, config, twin=True, after_fold=show)
        runs = [RunFolder(out / f"fold-{row['fold']}") for row in summary["folds"]]
        projection = as_document(cost_of_projection(runs))
    return {**summary, "projection": projection, "place": place(summary["folds"])}


def report(result):
    mean = result["mean"]
    rows = {name: mean[name] for name in ("auroc", "twin", "difference")}
    place = mean["localization"]
    rows |= {name: place[name] for name in ("pointing_game", "constant_location")}
    rows["hits above the constant"] = place["difference"]
    rows |= {name: result["projection"][name] for name in ("before_projection", "loss")}
    lines = [f"mean {name:<24} {interval(figure)}" for name, figure in rows.items()]
    lines += [f"mean {name:<24} {value:.3f}" for name, value in result["place"].items()]
    sys.stderr.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", nargs="+", default=CLASSES, help="the reference class first")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a.b=c")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="busi", help="results/accuracy_NAME.json")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = provenance()
    summary = measure(options)
    result = {"benchmark": "accuracy", "threads": options.threads, **made, **summary}
    report(result)
    write_result(RESULTS / f"accuracy_{options.name}.json", result)
    sys.stdout.write(json.dumps(summary["mean"]) + "\n")


if __name__ == "__main__":
    main()
