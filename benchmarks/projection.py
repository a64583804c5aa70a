"""Projection against one plain forward pass over the same images.

    make bench NAME=projection
    .venv/bin/python benchmarks/projection.py --images 100 --size 64 --repetitions 1   # a trial

Twice in turn a forward pass and a projection, of the nearest patches and of those that keep the
prototypes' scores, with all that belongs to it: search, assignment, reading of the chosen images
and self-check. Same images, decoded and in memory, same batches, dtype, memory format and threads;
ratios are taken pair by pair, so that they hold when the machine's speed drifts. Writes
benchmarks/results/projection.json.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch.nn import functional

from medproto.networks import ProtoPNet
from medproto.projection import project_prototypes
from pipelines.provenance import provenance

RESULTS = Path(__file__).parent / "results"
BATCH = 32
LIMITS = {"nearest": 1.10, "function-preserving": 2.3}


def draw_images(count, size):
    """Smooth gray textures with a little noise, ``[count, 1, size, size]``."""
    coarse = functional.interpolate(torch.rand(count, 1, size // 12, size // 12), (size, size))
    noise = torch.rand(count, 1, size, size)
    images = (0.8 * coarse + 0.2 * noise).clamp(0, 1)
    return images.contiguous(memory_format=torch.channels_last)


def batches(images):
    for start in range(0, len(images), BATCH):
        rows = list(range(start, min(start + BATCH, len(images))))
        yield images[start : start + BATCH], [r % 2 for r in rows], rows, [str(r) for r in rows]


@torch.no_grad()
def start(network, images):
    """Centres of own-class patches, as training starts with."""
    for k in range(2):
        features = network.features(images[k:200:2]).flatten(2)  # [B, D, N]
        points = features.transpose(1, 2).flatten(0, 1)[::7]
        members = (network.prototype_class == k).nonzero().flatten()
        means = KMeans(len(members), n_init=1, random_state=0).fit(points.numpy())
        network.prototype_layer.vectors[members] = torch.from_numpy(means.cluster_centers_)


@torch.no_grad()
def forward(network, images):
    started = time.perf_counter()
    for batch, *_ in batches(images):
        network(batch)
    return time.perf_counter() - started


def project(network, images, vectors, choice):
    network.prototype_layer.vectors.data.copy_(vectors)
    started = time.perf_counter()
    result = project_prototypes(
        network, lambda: batches(images), lambda row: images[row], choice=choice
    )
    return time.perf_counter() - started, result


def measure(options):
    torch.manual_seed(0)
    size = (options.size, options.size)
    network = ProtoPNet(
        2,
        1,
        2,
        image_size=size,
        stage=5,
        weights="package",
        prototypes_per_class=options.prototypes // 2,
        similarity=options.similarity,
        top_k=options.top_k,
    )
    network = network.to(memory_format=torch.channels_last).eval()
    images = draw_images(options.images, options.size)
    start(network, images)
    vectors = network.prototype_layer.vectors.detach().clone()
    forward(network, images[: 2 * BATCH])
    pairs = {choice: [] for choice in LIMITS}
    correlations = []
    for _ in range(options.repetitions):
        for choice, seconds in pairs.items():
            plain = forward(network, images)
            own, result = project(network, images, vectors, choice)
            seconds.append((own, plain))
            correlations = [m.correlation for m in result.matches if m.correlation is not None]
    return {
        "benchmark": "projection",
        **provenance(),
        "threads": torch.get_num_threads(),
        **{name: value for name, value in vars(options).items() if name not in ("out", "threads")},
        "backbone": "efficientnet_lite0, stage 5",
        "cells": list(network.grid.shape),
        "channels": vectors.shape[1],
        "forward_s": statistics.median(p for own in pairs.values() for _, p in own),
        "choices": {choice: summary(seconds, choice) for choice, seconds in pairs.items()},
        "median_correlation": statistics.median(correlations),
    }


def summary(seconds, choice):
    ratios = [own / plain for own, plain in seconds]
    return {
        "seconds": statistics.median(own for own, _ in seconds),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "limit": LIMITS[choice],
    }


def show(result):
    lines = [
        f"{result['images']} images of {result['size']} px, {result['prototypes']} prototypes, "
        f"{result['threads']} threads: one forward pass {result['forward_s']:.2f} s",
        f"{'choice':<22}{'seconds':>9}{'ratio':>8}{'min':>8}{'max':>8}{'limit':>8}",
    ]
    for choice, row in result["choices"].items():
        ratios = "".join(
            f"{row[name]:>8.3f}" for name in ("ratio_median", "ratio_min", "ratio_max", "limit")
        )
        lines.append(f"{choice:<22}{row['seconds']:>9.2f}{ratios}")
    sys.stderr.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--similarity", default="cosine")
    parser.add_argument("--top-k", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options)
    show(result)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (options.out / "projection.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
