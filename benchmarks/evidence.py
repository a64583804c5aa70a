"""Evidence of a batch against the plain forward pass of the same images.

    make bench NAME=evidence
    .venv/bin/python benchmarks/evidence.py --size 64 --pairs 2

First row: logits with similarities, weights, contributions, boxes and the completeness check, for
all prototypes. The other rows hold what is not always wanted, each by itself against the same
forward pass: the evidence with faithfulness numbers (of the five largest contributions); similarity
maps on the stored pixels of the ten largest, and Grad-CAM of both logits; crops of the boxes as PNG
files; a record an image appended to a log on disk.
"""

import hashlib
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import publish, speed_options, stamp
from synthetic import NETWORKS, image_set, prototype_network
from timing import row, table, timed_pairs

from audit import AuditLog
from medproto.explain import GradCam, cells_to_stored, explain_batch, heat_maps
from medproto.records import ImageReference, PixelBox, Placement, PrototypeSource
from pipelines.allocator import keep_freed_memory

CLASSES = ("without", "with")
STORED = 2  # stored pixels of a pixel of the network's input
DIGEST = "sha256:" + hashlib.sha256(b"benchmark").hexdigest()


def sources(network):
    return tuple(
        PrototypeSource(
            prototype=p,
            class_index=k,
            class_name=CLASSES[k],
            row=p,
            group=f"P{p}",
            pixel_digest=DIGEST,
            cell=(0, 0),
            box=PixelBox((0, 0), (8, 8)),
            distance=0.0,
            similarity=10.0,
        )
        for p, k in enumerate(network.prototype_class.tolist())
    )


class Work:
    """What is measured, each part for the whole batch.

    Args:
        network: in evaluation mode.
        images: [B, 1, size, size].
        folder: for crops and log.
    """

    def __init__(self, network, images, folder):
        size = tuple(images.shape[2:])
        stored = tuple(STORED * side for side in size)
        self.network, self.images, self.folder = network, images, folder
        self.placement = Placement(stored, size, (1 / STORED,) * 2, (0.0, 0.0))
        self.reference = ImageReference(DIGEST, stored, "US", 8, spacing_mm=(0.2, 0.2))
        self.sources = sources(network)
        self.grad_cam = GradCam(network)
        self.log = AuditLog.create(f"sqlite:///{folder / 'log.db'}")
        self.explanations = self.evidence()
        self.pixels = np.kron(images[:, 0].numpy(), np.ones((STORED, STORED), np.float32))

    @torch.no_grad()
    def forward(self):
        self.network(self.images)

    def evidence(self, faithfulness=0):
        count = len(self.images)
        return explain_batch(
            self.network,
            self.images,
            references=[self.reference] * count,
            placements=[self.placement] * count,
            classes=CLASSES,
            sources=self.sources,
            model_digest=DIGEST,
            faithfulness=faithfulness,
        )

    def faithfulness(self):
        self.evidence(faithfulness=5)

    def pictures(self):
        for image, explanation in zip(self.images, self.explanations, strict=True):
            k = explanation.prediction.shown_logit
            ordered = sorted(explanation.evidence, key=lambda e, k=k: -abs(e.contributions[k]))
            shown = [e.prototype for e in ordered[:10]]
            for cells in heat_maps(self.network, image, shown, self.placement).values():
                cells.drawn()
            for k in range(len(CLASSES)):
                cells = self.grad_cam.attribute(image, k)
                cells_to_stored(cells, self.network.feature_grid, self.placement)

    def crops(self):
        for pixels, explanation in zip(self.pixels, self.explanations, strict=True):
            for e in explanation.evidence:
                crop = pixels[tuple(map(slice, e.box.start, e.box.stop))]
                image = Image.fromarray(np.round(255 * crop).astype(np.uint8))
                image.save(self.folder / f"{e.prototype}.png")

    def append(self):
        for explanation in self.explanations:
            payload = {
                "logits": list(explanation.prediction.logits),
                "bias": list(explanation.bias),
                "evidence": [listed(asdict(e)) for e in explanation.evidence],
            }
            self.log.append("prediction", subject=DIGEST, actor="benchmark", payload=payload)


def listed(value):
    """The same with lists for tuples, as a record has them."""
    if isinstance(value, dict):
        return {key: listed(inner) for key, inner in value.items()}
    return [listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


PARTS = {
    "evidence": {"at_most": 1.25},
    "faithfulness": {},
    "pictures": {},
    "crops": {},
    "append": {},
}


def main(arguments=None):
    parser = speed_options(__doc__, pairs=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    result = stamp("evidence", options)
    images, *_ = next(image_set(options.batch, options.size).batches(options.batch))
    rows = []
    for name in options.networks:
        network = prototype_network(name, options.size, prototypes=options.prototypes).eval()
        with tempfile.TemporaryDirectory() as folder:
            work = Work(network, images, Path(folder))
            for part, bounds in PARTS.items():
                pairs = timed_pairs(getattr(work, part), work.forward, options.pairs)
                rows.append(row(f"{name}, {part}", pairs, **bounds))
            work.log.close()
    result["rows"] = rows
    publish(result, table(rows, own="own", reference="forward"), save=options.save)
    return result


if __name__ == "__main__":
    main()
