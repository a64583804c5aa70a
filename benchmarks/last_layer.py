"""The last layer: one pass for the scores and the solution, against the 20 published passes.

    make bench NAME=last-layer
    .venv/bin/python benchmarks/last_layer.py --images 500 --passes 20

Same images, loader, network, dtype, memory format and threads. Of the published passes (Adam over
the last layer, the whole network forward at each step) some are run and multiplied; `--passes 20`
runs them all. Scores of the validation images and the files of a run are in neither.
"""

import copy

import numpy as np
import torch
from published import PASSES, Published, last_layer_passes
from reporting import publish, speed_options, stamp
from synthetic import NETWORKS, image_set, prototype_network
from timing import row, table, timed_pairs

from medproto.last_layer import replace_source_scores, score_floors, solve_head
from medproto.projection import project_prototypes
from pipelines.allocator import keep_freed_memory
from pipelines.config_sections import LastLayerConfig
from pipelines.inference import BATCH, infer_similarities
from pipelines.last_layer_fit import class_weights

CONFIG = LastLayerConfig()


def solve(network, images, positions):
    """Scores and solution, as pipelines.last_layer_fit has them; returns the solution."""
    owners = network.prototype_class.numpy()
    similarities = infer_similarities(network, images)
    floors = score_floors(similarities, images.labels, owners, quantile=CONFIG.floor)
    counted = np.maximum(similarities - floors, 0)
    scores = replace_source_scores(counted, images.labels, owners, positions)
    return solve_head(
        network.head,
        scores,
        images.labels,
        owners,
        num_classes=network.num_classes,
        class_weights=class_weights(images.labels, network.num_classes),
        l1=CONFIG.l1,
        ridge=CONFIG.ridge,
    )


def add_options(parser):
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--passes", type=int, default=1, help=f"of the {PASSES} that are run")
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet_lite0")


def main(arguments=None):
    parser = speed_options(__doc__, pairs=5)
    add_options(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result = stamp("last_layer", options)
    images = image_set(options.images, options.size)
    network = prototype_network(options.network, options.size, prototypes=options.prototypes).eval()
    published = Published(copy.deepcopy(network))
    matches = project_prototypes(network, images.batches(BATCH), images.image).matches
    positions = [match.row for match in matches]

    def own():
        result["converged"] = solve(network, images, positions).converged

    def reference():
        last_layer_passes(published, lambda: images.batches(BATCH), options.passes)

    pairs = timed_pairs(own, reference, options.pairs)
    name = f"scores and solution, {options.images} images"
    times = PASSES / options.passes
    result["rows"] = [row(name, pairs, reference_times=times, at_most=0.10)]
    lines = table(result["rows"], own="solved", reference="published")
    lines.append(f"published: {options.passes} of {PASSES} passes run, times {times:g}.")
    publish(result, lines, save=options.save)
    return result


if __name__ == "__main__":
    main()
