"""ProtoPNet as a MONAI network: image -> features -> prototypes -> logits, in 2-D and 3-D.

Symbols: ``B`` batch, ``C`` image channels, ``D`` feature channels, ``P`` prototypes, ``K``
classes, ``*S`` spatial axes of the image, ``*G`` of the feature cells, ``n`` spatial dimensions.

References:
    [1] Chen et al., "This Looks Like That: Deep Learning for Interpretable Image Recognition",
        NeurIPS 2019, section 2. https://arxiv.org/abs/1806.10574
    [2] Barnett et al., "IAIA-BL", Nature Machine Intelligence 2021: top-k mean pooling.
        https://arxiv.org/abs/2103.12308
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..records import CellGrid, HeadKind
from .add_on import AddOn, build_add_on
from .backbones import build_backbone
from .backbones.base import Weights
from .heads import class_count, initial_last_layer, prototype_counts
from .prototype_layer import PrototypeLayer, Similarity

__all__ = ["ProtoPNet", "ProtoPNetOutput"]

INNER_CELLS = 5
"""Cells along an axis that a margin left to the network must leave."""

FURTHER_ARGUMENTS = {"layout", "measured"}
"""Of :func:`build_backbone`; what of a backbone does not follow from the other arguments."""


class ProtoPNetOutput(NamedTuple):
    """Everything the logits were made of.

    Args:
        logits: ``[B, K]``.
        distances: ``[B, P, *G]``, >= 0, feature units.
        similarities: ``[B, P, *G]``.
        scores: ``[B, P]``, similarities pooled over the cells, above the floor where there is one:
            the input of the last layer.
        locations: ``[B, P, n]`` long, zero-based cell of the largest similarity.
    """

    logits: Tensor
    distances: Tensor
    similarities: Tensor
    scores: Tensor
    locations: Tensor


class ProtoPNet(nn.Module):
    """Prototype network: a class is scored by how much some patch looks like its prototypes.

    Differences from [1]: a bias in the last layer (0 until it is solved), a choice of head,
    similarity and pooling, features of any backbone and stage, and the class of a prototype kept in
    the state dict. With ``similarity="log"``, ``similarity_scale=1``, ``add_on="regular"`` and
    ``top_k=1`` the formulas are the published ones.

    Args:
        spatial_dims: ``n``, 2 or 3.
        in_channels: ``C``; values of the image in [0, 1].
        out_channels: ``K``: classes or findings, or one less than there are grades.
        image_size: ``*S``; the place of the feature cells depends on it.
        backbone: one of :data:`medproto.networks.backbones.BACKBONES`, or
            ``"package.module:factory"`` for a network of one's own.
        stage: last stage of the backbone that is kept; ``None`` is its deepest.
        weights: pretrained weights of the backbone, as of
            :func:`medproto.networks.backbones.build_backbone`; 2-D only.
        head: what the logits mean, see :mod:`medproto.networks.heads`.
        prototypes_per_class: one count for all classes, or one for each; ``P`` is their sum, in
            order of the classes.
        add_on: ``"none"`` compares the features as they are; ``"regular"`` adds two 1x1
            convolutions, ReLU between and a sigmoid behind, as published; ``"bottleneck"`` halves
            the channels in steps.
        prototype_channels: ``D`` behind add-on layers; without effect for ``"none"``.
        prototype_size: cells of a prototype, one number for all axes or one for each.
        similarity: ``"cosine"``, ``"log"``, ``"linear"`` or ``"focal"``, see
            :class:`PrototypeLayer`.
        similarity_scale: ``None`` takes 10 for cosine and the number of values of a prototype for
            the others.
        top_k: the score is the mean of the ``top_k`` largest similarities [2]; 1 is the maximum.
        margin: outer feature cells along each axis that are left out. They see more padding than
            image, and what prototypes find there are corners and edges of the picture. ``None``
            takes 1 where at least :data:`INNER_CELLS` are left along each axis, else 0.
        backbone_arguments: ``layout`` or ``measured`` of the backbone; a saved model knows them.

    Raises:
        ValueError: if an argument is outside the range given above.
        ModelFileError: if the weights cannot be read.

    Example:
        >>> net = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=3).eval()
        >>> net(torch.rand(1, 1, 64, 64)).shape, net.evidence(torch.rand(1, 1, 64, 64)).scores.shape
        (torch.Size([1, 2]), torch.Size([1, 6]))
    """

    prototype_class: Tensor
    center_shift: Tensor
    prototype_shift: Tensor
    floor: Tensor

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        image_size: Sequence[int],
        backbone: str = "efficientnet_lite0",
        stage: int | None = None,
        weights: Weights = None,
        head: HeadKind = "multiclass",
        prototypes_per_class: int | Sequence[int] = 10,
        add_on: AddOn = "none",
        prototype_channels: int = 128,
        prototype_size: int | Sequence[int] = 1,
        similarity: Similarity = "cosine",
        similarity_scale: float | None = None,
        top_k: int = 1,
        margin: int | None = 0,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.head: HeadKind = head
        self.out_channels = out_channels
        self.num_classes = class_count(head, out_channels)
        counts = prototype_counts(head, prototypes_per_class, self.num_classes)
        further = dict(backbone_arguments or {})
        _check_further(further)
        self.backbone = build_backbone(
            backbone,
            spatial_dims,
            in_channels,
            image_size=image_size,
            stage=stage,
            weights=weights,
            **further,
        )
        self.register_buffer("center_shift", torch.zeros(spatial_dims))
        self.add_on, channels = build_add_on(
            add_on, spatial_dims, self.backbone.out_channels, prototype_channels
        )
        self.margin = _margin(margin, self.backbone.grid)
        size = _size(prototype_size, self.feature_grid)
        if similarity_scale is None:
            similarity_scale = 10.0 if similarity == "cosine" else float(channels * math.prod(size))
        self.prototype_layer = PrototypeLayer(
            sum(counts), channels, size=size, similarity=similarity, scale=similarity_scale
        )
        cells = math.prod(self.grid.shape)
        if not 1 <= top_k <= cells:
            raise ValueError(f"top_k must be 1 to {cells} (the number of cells), got {top_k}.")
        self.top_k = top_k
        owners = torch.arange(self.num_classes).repeat_interleave(torch.tensor(counts))
        self.register_buffer("prototype_class", owners)
        self.register_buffer("floor", torch.full((len(owners),), -torch.inf))
        self.register_buffer("prototype_shift", torch.zeros(len(owners), spatial_dims))
        self.last_layer = nn.Linear(len(owners), out_channels)
        self.arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "image_size": list(image_size),
            "backbone": backbone,
            "stage": stage,
            "head": head,
            "prototypes_per_class": counts,
            "add_on": add_on,
            "prototype_channels": prototype_channels,
            "prototype_size": list(size),
            "similarity": similarity,
            "similarity_scale": similarity_scale,
            "top_k": top_k,
            "margin": self.margin,
            "backbone_arguments": {
                key: value
                for key, value in self.backbone.arguments.items()
                if key in FURTHER_ARGUMENTS
            },
        }
        self.reset_last_layer()

    @property
    def feature_grid(self) -> CellGrid:
        """True place of the feature cells in the image: the backbone's, and the measured shift.

        Cells are counted from the first one inside the margin. The 1x1 convolutions of the add-on
        layers do not move them. The buffer ``center_shift`` is 0 until
        :func:`medproto.explain.measure_shifts` has been run and its result set: the shift that
        brings the boxes of the main evidence to what it rests on. What one prototype's lie beside
        that stands in ``prototype_shift``, ``[P, n]``.
        """
        grid = self.backbone.grid
        shift = self.center_shift.tolist()
        places = zip(grid.first_center, grid.stride, shift, strict=True)
        return replace(
            grid,
            shape=tuple(n - 2 * self.margin for n in grid.shape),
            first_center=tuple(c + self.margin * step + s for c, step, s in places),
        )

    @property
    def grid(self) -> CellGrid:
        """True place of the compared patches: a prototype of several cells sits in their middle."""
        grid = self.feature_grid
        size = self.prototype_layer.size or (1,) * len(grid.shape)
        middle = [(s - 1) / 2 * step for s, step in zip(size, grid.stride)]
        return replace(
            grid,
            shape=tuple(n - s + 1 for n, s in zip(grid.shape, size)),
            first_center=tuple(c + m for c, m in zip(grid.first_center, middle)),
            receptive_field=tuple(f + 2 * m for f, m in zip(grid.receptive_field, middle)),
        )

    @property
    def feature_layer(self) -> nn.Module:
        """The layer whose output the prototypes are compared with; Grad-CAM explains it."""
        return self.add_on

    def reset_last_layer(self) -> None:
        """Set the weights that training starts with, see :func:`.heads.initial_last_layer`."""
        weight, bias = initial_last_layer(self.head, self.prototype_class, self.num_classes)
        with torch.no_grad():
            self.last_layer.weight.copy_(weight)
            self.last_layer.bias.copy_(bias)

    def keep_prototypes(self, indices: Sequence[int]) -> None:
        """Drop all prototypes but these, with their last-layer columns; order is kept.

        Raises:
            ValueError: if a class that has prototypes would be left without any.
        """
        index = torch.as_tensor(sorted(set(indices)), dtype=torch.long)
        kept = self.prototype_class[index.to(self.prototype_class.device)]
        if len(kept.unique()) != len(self.prototype_class.unique()):
            raise ValueError(
                "every class with prototypes must keep at least one prototype; keep more of them."
            )
        self.prototype_layer.vectors = nn.Parameter(self.prototype_layer.vectors.detach()[index])
        self.prototype_class = kept
        self.floor = self.floor[index.to(self.floor.device)]
        self.prototype_shift = self.prototype_shift[index.to(self.floor.device)]
        layer = nn.Linear(len(kept), self.out_channels).to(self.last_layer.weight.device)
        with torch.no_grad():
            layer.weight.copy_(self.last_layer.weight[:, index])
            layer.bias.copy_(self.last_layer.bias)
        self.last_layer = layer
        counts = kept.bincount(minlength=self.num_classes).tolist()
        self.arguments["prototypes_per_class"] = counts

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B, D, *G]`` of images ``[B, C, *S]``."""
        return self.add_on(self._inner(self.backbone(x)))

    def _inner(self, features: Tensor) -> Tensor:
        """Leave out the margin of ``[B, D, *G]``."""
        if not self.margin:
            return features
        inside = [slice(self.margin, -self.margin)] * (features.ndim - 2)
        return features[(slice(None), slice(None), *inside)]

    def pool(self, similarities: Tensor) -> Tensor:
        """Pool ``[B, P, *G]`` to ``[B, P]``: the mean of the ``top_k`` largest cells."""
        return similarities.flatten(2).topk(self.top_k, dim=2).values.mean(dim=2)

    def pool_distances(self, distances: Tensor) -> Tensor:
        """Pool ``[B, P, *G]`` to ``[B, P]``: the mean of the ``top_k`` smallest distances."""
        return -self.pool(-distances)

    def above_floor(self, pooled: Tensor) -> Tensor:
        """Count pooled similarities ``[..., P]`` from the buffer ``floor``; what is below it is 0.

        The floor is minus infinity, that is, none, until it is set behind the projection, see
        :func:`medproto.last_layer.score_floors`.
        """
        return torch.where(self.floor.isinf(), pooled, (pooled - self.floor).clamp_min(0.0))

    def scores_from_features(self, features: Tensor) -> Tensor:
        """Return the scores ``[B, P]`` of features ``[B, D, *G]``."""
        similarities = self.prototype_layer.similarity(self.prototype_layer(features))
        return self.above_floor(self.pool(similarities))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, K]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        scores = self.scores_from_features(self.features(x))
        return self._logits(scores)

    def _logits(self, scores: Tensor) -> Tensor:
        # At reduced precision a logit of 30 is known to 0.1 only, and the sum would not be one.
        with torch.autocast(scores.device.type, enabled=False):
            return self.last_layer(scores.to(self.last_layer.weight.dtype))

    def evidence(self, x: Tensor) -> ProtoPNetOutput:
        """Return the logits of ``[B, C, *S]`` together with what they were made of."""
        return self.evidence_from_features(self.features(x))

    def evidence_from_features(self, features: Tensor) -> ProtoPNetOutput:
        """The same for features ``[B, D, *G]`` that were computed before."""
        distances = self.prototype_layer(features)
        similarities = self.prototype_layer.similarity(distances)
        scores = self.above_floor(self.pool(similarities))
        flat = similarities.detach().flatten(2).argmax(dim=2)  # [B, P]
        locations = torch.stack(torch.unravel_index(flat, similarities.shape[2:]), dim=-1)
        logits = self._logits(scores)
        return ProtoPNetOutput(logits, distances, similarities, scores, locations)


def _check_further(arguments: Mapping[str, Any]) -> None:
    """Refuse all others: a model file must not declare itself trusted."""
    if not arguments.keys() <= FURTHER_ARGUMENTS:
        raise ValueError(
            f"backbone_arguments must be of {sorted(FURTHER_ARGUMENTS)}, got {sorted(arguments)}."
        )


def _margin(margin: int | None, grid: CellGrid) -> int:
    fewest = min(grid.shape)
    if margin is None:
        return 1 if fewest - 2 >= INNER_CELLS else 0
    if not 0 <= margin <= (fewest - 1) // 2:
        raise ValueError(
            f"margin must be 0 to {(fewest - 1) // 2}, so that cells of the {list(grid.shape)} "
            f"feature cells are left, got {margin}."
        )
    return margin


def _size(prototype_size: int | Sequence[int], grid: CellGrid) -> tuple[int, ...]:
    axes = len(grid.shape)
    size = (prototype_size,) * axes if isinstance(prototype_size, int) else tuple(prototype_size)
    if len(size) != axes or any(not 1 <= s <= n for s, n in zip(size, grid.shape)):
        raise ValueError(
            f"prototype_size must be {axes} values from 1 to the feature cells "
            f"{list(grid.shape)}, got {list(size)}."
        )
    return size
