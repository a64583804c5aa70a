"""The dashboard with a rebuild that reads arrays from the run folder: no network is needed."""

import sys
from types import SimpleNamespace

import numpy as np

from dashboards.app import main
from dashboards.launch import read_source
from medproto.explain import CellMap
from medproto.records import CellGrid, Placement


def rebuild(folder, payload, row, logit):
    with np.load(folder / "rebuilt.npz") as arrays:
        image, heat, grad_cam = (arrays[name] for name in ("image", "heat", "grad_cam"))
    reference = SimpleNamespace(window=tuple(payload["image"]["window"]), shape=image.shape)
    grid = CellGrid(image.shape, (0.5, 0.5), (1.0, 1.0), (1.0, 1.0))
    placement = Placement.identity(image.shape)
    return SimpleNamespace(
        image=image,
        explanation=SimpleNamespace(prediction=SimpleNamespace(reference=reference)),
        heat_maps={
            entry["prototype"]: CellMap(heat, grid, placement) for entry in payload["evidence"]
        },
        grad_cams={logit: CellMap(grad_cam, grid, placement)},
        largest_difference=0.0,
    )


main(read_source(sys.argv[1:]), rebuild)
