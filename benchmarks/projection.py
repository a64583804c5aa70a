"""Projection against one plain forward pass over the same images.

    make bench NAME=projection
    .venv/bin/python benchmarks/projection.py --images 100 --size 64 --pairs 1   # a trial

Of the nearest patches, and of those that keep the prototypes' scores, with all that belongs to it:
search, assignment, reading of the chosen images and self-check. Images are decoded and in memory.
"""

import statistics

import torch
from reporting import publish, speed_options, stamp
from synthetic import image_set, prototype_network
from timing import row, table, timed_pairs

from medproto.networks import PlainClassifier
from medproto.projection import project_prototypes
from pipelines.allocator import keep_freed_memory
from pipelines.initialization import start_prototypes

BATCH = 32
LIMITS = {"nearest": 1.10, "function-preserving": 2.3}


class Work:
    """What is measured, each over all images.

    Args:
        network: in evaluation mode; its prototypes are set back before each projection.
        images: an image set.
    """

    def __init__(self, network, images):
        self.network, self.images = network, images
        self.vectors = network.prototype_layer.vectors.detach().clone()
        self.correlations = []

    @torch.no_grad()
    def forward(self):
        for batch, *_ in self.images.batches(BATCH):
            self.network(batch)

    def project(self, choice):
        self.network.prototype_layer.vectors.data.copy_(self.vectors)
        result = project_prototypes(
            self.network, lambda: self.images.batches(BATCH), self.images.image, choice=choice
        )
        self.correlations = [m.correlation for m in result.matches if m.correlation is not None]


def main(arguments=None):
    parser = speed_options(__doc__, pairs=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--similarity", default="cosine")
    parser.add_argument("--top-k", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result = stamp("projection", options)
    images = image_set(options.images, options.size)
    network = prototype_network(
        "efficientnet_lite0",
        options.size,
        prototypes=options.prototypes,
        similarity=options.similarity,
    ).eval()
    network.top_k = options.top_k
    start_prototypes(network, PlainClassifier(network), images, seed=0)
    work = Work(network.eval(), images)
    result["rows"] = [
        row(
            f"{choice}, {options.images} images",
            timed_pairs(lambda choice=choice: work.project(choice), work.forward, options.pairs),
            at_most=limit,
        )
        for choice, limit in LIMITS.items()
    ]
    result["median_correlation"] = statistics.median(work.correlations)
    lines = table(result["rows"], own="projection", reference="forward pass")
    lines.append(f"median correlation with the prototype: {result['median_correlation']:.3f}")
    publish(result, lines, save=options.save)
    return result


if __name__ == "__main__":
    main()
