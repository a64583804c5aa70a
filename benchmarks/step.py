"""Training step of the prototype network against the bare classifier on the same features.

    make bench NAME=step

Both run in turn in one process, same images, dtype, memory format and threads; the ratio is taken
pair by pair, so that it holds when the machine's speed drifts.
"""

import argparse
import json
import statistics
import sys
import time

import torch

from medproto.networks import PlainClassifier, ProtoPNet
from pipelines.objective import classifier_step, prototype_step


def seconds(step, model, images, labels):
    started = time.perf_counter()
    model.zero_grad(set_to_none=True)
    step(images, labels)["loss"].backward()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    size = (options.size, options.size)
    network = ProtoPNet(2, 1, 2, image_size=size, stage=5, weights="package")
    network = network.to(memory_format=torch.channels_last).train()
    network.last_layer.requires_grad_(False)
    classifier = PlainClassifier(network).train()
    images = torch.rand(options.batch, 1, *size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(options.batch) % 2
    own = prototype_step(network, cluster=0.2, separation=0.05, class_weights=None)
    bare = classifier_step(classifier, None)
    for step, model in ((own, network), (bare, classifier)):
        seconds(step, model, images, labels)
    pairs = [
        (seconds(own, network, images, labels), seconds(bare, classifier, images, labels))
        for _ in range(options.pairs)
    ]
    ratios = [a / b for a, b in pairs]
    result = {
        "size": options.size,
        "batch": options.batch,
        "prototype_step_s": statistics.median(a for a, _ in pairs),
        "classifier_step_s": statistics.median(b for _, b in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    for name, value in result.items():
        sys.stderr.write(f"{name:<20} {value:.3f}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
