"""Projection and last layer, per projection, against the published push and its 20 passes.

    make bench NAME=schedule
    .venv/bin/python benchmarks/schedule.py --images 100 --pairs 1

Same images, loader, network, dtype, memory format and threads. The second row puts the whole
published schedule together from parts measured here (a training step of the warm and the joint
stage, a projection with its last layer), for both sides with the same epochs and projections.
"""

import copy

import torch
from last_layer import add_options, solve
from published import PASSES, Published, last_layer_passes, push, training_step
from reporting import publish, speed_options, stamp
from step import batch, prototype_trainer
from synthetic import image_set, prototype_network
from timing import row, seconds, table, timed_pairs

from medproto.projection import project_prototypes
from pipelines.allocator import keep_freed_memory
from pipelines.config import load_config
from pipelines.inference import BATCH
from pipelines.schedule import Step

PAPER = load_config(None, [], preset="paper").training


def projections(network, images, options):
    """Seconds of a projection with its last layer: own, published."""
    start = network.prototype_layer.vectors.detach().clone()
    published = Published(copy.deepcopy(network))
    push_s, passes_s = [], []

    def own():
        network.prototype_layer.vectors.data.copy_(start)
        matches = project_prototypes(network, images.batches(BATCH), images.image).matches
        solve(network, images, [match.row for match in matches])

    def reference():
        published.vectors.data.copy_(start)
        push_s.append(seconds(lambda: push(published, images.batches(BATCH))))
        passes = seconds(
            lambda: last_layer_passes(published, lambda: images.batches(BATCH), options.passes)
        )
        passes_s.append(passes * PASSES / options.passes)

    pairs = timed_pairs(own, reference, options.pairs)
    full = [a + b for a, b in zip(push_s, passes_s, strict=True)][1:]  # the first is thrown away
    return [(mine, theirs) for (mine, _), theirs in zip(pairs, full, strict=True)]


def steps(network, name, options):
    """Seconds of a training step of a stage: own, published."""
    images, labels = batch(options.size, options.batch)
    step = Step(0, name, 1, published=True)
    mine, published = copy.deepcopy(network), Published(copy.deepcopy(network))
    optimizer = published.warm_optimizer() if name == "warm" else published.joint_optimizer()

    def reference():
        published.train()
        for module in step.frozen(published.network):
            module.eval()
        training_step(published, optimizer, images, labels)

    own = prototype_trainer(mine, images, labels, "float32", step=step)
    return timed_pairs(own, reference, options.pairs)


def whole(parts, images, options):
    """Seconds of the published schedule from its parts, pair by pair: own, published."""
    per_epoch = -(-images // options.batch)
    warm, joint = PAPER.warm_epochs, PAPER.epochs - PAPER.warm_epochs
    times = (per_epoch * warm, per_epoch * joint, len(PAPER.projection_epochs()))
    return [
        tuple(sum(n * pair[side] for n, pair in zip(times, pairs)) for side in (0, 1))
        for pairs in zip(*parts, strict=True)
    ]


def main(arguments=None):
    parser = speed_options(__doc__, pairs=5)
    add_options(parser)
    parser.add_argument("--batch", type=int, default=16, help="of the training steps")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result = stamp("schedule", options)
    images = image_set(options.images, options.size)
    network = prototype_network(options.network, options.size, prototypes=options.prototypes).eval()
    each = projections(network, images, options)
    warm, joint = (steps(network, name, options) for name in ("warm", "joint"))
    count = len(PAPER.projection_epochs())
    result["rows"] = [
        row("projection and last layer", each, times_faster=True, at_least=8),
        row("warm step", warm, times_faster=True),
        row("joint step", joint, times_faster=True),
        row(
            f"whole: {PAPER.epochs} epochs, {count} projections (from parts)",
            whole((warm, joint, each), options.images, options),
            times_faster=True,
            target_at_least=2,
        ),
    ]
    lines = table(result["rows"], own="own", reference="published")
    lines.append(f"published: {options.passes} of {PASSES} passes run, the rest multiplied.")
    publish(result, lines, save=options.save)
    return result


if __name__ == "__main__":
    main()
