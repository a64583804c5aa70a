"""Time of the prototype layer by number of prototypes and cells, in a table and on one figure.

    make bench NAME=scaling
    .venv/bin/python benchmarks/scaling.py --prototypes 10 100 --sides 7 14 --pairs 2

Distances and similarities of features [16, 112, side, side]: forward, and forward with the backward
pass. The reference is the published form (distance by three convolutions, log similarity). With
`--save` the figure lies beside the JSON file; `--figure` draws it elsewhere.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from published import EPSILON, Published
from reporting import RESULTS, publish, speed_options, stamp
from timing import row, table, timed_pairs

from medproto.networks.prototype_layer import PrototypeLayer
from pipelines.allocator import keep_freed_memory

CHANNELS, BATCH = 112, 16
KINDS = ("cosine", "log")
COLORS = {"cosine": "#0072b2", "log": "#d55e00", "published": "#52606d"}
MARKERS = "osD^v"


class PublishedLayer(torch.nn.Module):
    """The published distance and similarity alone, of the same prototypes."""

    def __init__(self, layer):
        super().__init__()
        self.vectors = layer.vectors
        self.register_buffer("ones", torch.ones(*layer.vectors.shape, 1, 1))

    def forward(self, features):
        distances = Published.distances(self, features)
        return torch.log((distances + 1) / (distances + EPSILON))


def work(similarities, features, backward):
    """Forward without gradients, or forward and backward, of features to similarities."""

    @torch.no_grad()
    def forward():
        similarities(features)

    def both():
        features.grad = None
        similarities(features).sum().backward()

    return both if backward else forward


def measure(prototypes, side, options):
    torch.manual_seed(0)
    features = torch.rand(BATCH, CHANNELS, side, side)
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    for kind in KINDS:
        layer = PrototypeLayer(prototypes, CHANNELS, similarity=kind)
        for backward in (False, True):
            pairs = timed_pairs(
                work(lambda z, layer=layer: layer.similarity(layer(z)), features, backward),
                work(PublishedLayer(layer), features, backward),
                options.pairs,
            )
            found = {"prototypes": prototypes, "side": side, "kind": kind, "backward": backward}
            name = f"{prototypes} x {side}x{side}, {kind}, {'both' if backward else 'forward'}"
            yield {**found, **row(name, pairs)}


def draw(rows, path):
    """Milliseconds by cells, both logarithmic: a color a form, a marker a number of prototypes."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    counts = sorted({found["prototypes"] for found in rows})
    for backward, axes in enumerate(panels):
        for count, marker in zip(counts, MARKERS):
            own = [f for f in rows if f["backward"] == backward and f["prototypes"] == count]
            for kind in (*KINDS, "published"):
                of = [f for f in own if f["kind"] == ("log" if kind == "published" else kind)]
                key = "reference_seconds" if kind == "published" else "seconds"
                axes.plot(
                    [f["side"] ** 2 for f in of],
                    [1000 * f[key]["median"] for f in of],
                    color=COLORS[kind],
                    marker=marker,
                    linestyle="--" if kind == "published" else "-",
                    label=f"{kind}, {count}",
                )
        sides = sorted({found["side"] for found in rows})
        axes.set(xscale="log", yscale="log", xlabel="feature cells")
        axes.set_xticks([side**2 for side in sides], [f"{side} x {side}" for side in sides])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.set_title("forward and backward" if backward else "forward")
    panels[0].set_ylabel(f"milliseconds, {BATCH} images, {CHANNELS} channels")
    panels[1].legend(title="similarity, prototypes", bbox_to_anchor=(1.02, 1), loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    parser = speed_options(__doc__, pairs=10, size=None)
    parser.add_argument("--prototypes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--sides", type=int, nargs="+", default=[7, 14, 28], help="cells an axis")
    parser.add_argument("--figure", type=Path, help="PNG file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    figure = RESULTS / "scaling.png" if options.save else options.figure
    options.figure = None  # where it lies is no setting of the measurement
    result = stamp("scaling", options)
    result |= {"batch": BATCH, "channels": CHANNELS}
    result["rows"] = [
        found
        for prototypes in options.prototypes
        for side in options.sides
        for found in measure(prototypes, side, options)
    ]
    if figure is not None:
        draw(result["rows"], figure)
    publish(result, table(result["rows"], own="own", reference="published"), save=options.save)
    return result


if __name__ == "__main__":
    main()
