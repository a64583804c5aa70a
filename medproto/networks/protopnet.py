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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..records import CellGrid
from .efficientnet_lite import EfficientNetLite0
from .prototype_layer import PrototypeLayer, Similarity

__all__ = ["AddOn", "ProtoPNet", "ProtoPNetOutput"]

AddOn = Literal["none", "regular"]

OWN_CLASS_WEIGHT = 1.0
OTHER_CLASS_WEIGHT = -0.5
"""Initial last-layer weights of the published code; the paper fixes only their signs' meaning."""


class ProtoPNetOutput(NamedTuple):
    """Everything the logits were made of.

    Args:
        logits: ``[B, K]``.
        distances: ``[B, P, *G]``, >= 0, feature units.
        similarities: ``[B, P, *G]``.
        scores: ``[B, P]``, similarities pooled over the cells: the input of the last layer.
        locations: ``[B, P, n]`` long, zero-based cell of the largest similarity.
    """

    logits: Tensor
    distances: Tensor
    similarities: Tensor
    scores: Tensor
    locations: Tensor


class ProtoPNet(nn.Module):
    """Prototype network: a class is scored by how much some patch looks like its prototypes.

    Differences from [1]: a bias in the last layer (0 until it is solved), a choice of similarity
    and pooling, features of any backbone stage, and the class of a prototype kept in the state
    dict. With ``similarity="log"``, ``similarity_scale=1``, ``add_on="regular"`` and ``top_k=1``
    the formulas are the published ones.

    Args:
        spatial_dims: ``n``, 2 or 3.
        in_channels: ``C``; values of the image in [0, 1].
        out_channels: ``K``, at least 2.
        image_size: ``*S``; the place of the feature cells depends on it.
        backbone: ``"efficientnet_lite0"``.
        stage: block stage of the backbone whose features are compared, 1 to 7.
        prototypes_per_class: one count for all classes, or ``K`` counts; each at least 1. ``P`` is
            their sum, in order of the classes.
        add_on: ``"none"`` compares the features as they are; ``"regular"`` adds two 1x1
            convolutions, ReLU between and a sigmoid behind, as published.
        prototype_channels: ``D`` behind ``add_on="regular"``; without effect for ``"none"``.
        similarity: ``"cosine"`` or ``"log"``, see :class:`PrototypeLayer`.
        similarity_scale: ``None`` takes 10 for cosine and ``D`` for log.
        top_k: the score is the mean of the ``top_k`` largest similarities [2]; 1 is the maximum.
        pretrained: ImageNet weights for the backbone, 2-D only.

    Raises:
        ValueError: if an argument is outside the range given above.

    Example:
        >>> net = ProtoPNet(2, 1, 2, image_size=(64, 64), prototypes_per_class=3).eval()
        >>> net(torch.rand(1, 1, 64, 64)).shape, net.evidence(torch.rand(1, 1, 64, 64)).scores.shape
        (torch.Size([1, 2]), torch.Size([1, 6]))
    """

    prototype_class: Tensor
    center_shift: Tensor

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        image_size: Sequence[int],
        backbone: str = "efficientnet_lite0",
        stage: int = 5,
        prototypes_per_class: int | Sequence[int] = 10,
        add_on: AddOn = "none",
        prototype_channels: int = 128,
        similarity: Similarity = "cosine",
        similarity_scale: float | None = None,
        top_k: int = 1,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        counts = _counts(prototypes_per_class, out_channels)
        if backbone != "efficientnet_lite0":
            raise ValueError(f"backbone must be 'efficientnet_lite0', got {backbone!r}.")
        self.out_channels = out_channels
        self.backbone = EfficientNetLite0(
            spatial_dims, in_channels, image_size=image_size, stage=stage, pretrained=pretrained
        )
        self.register_buffer("center_shift", torch.zeros(spatial_dims))
        self.add_on, channels = _add_on(
            add_on, spatial_dims, self.backbone.out_channels, prototype_channels
        )
        scale = similarity_scale or (10.0 if similarity == "cosine" else float(channels))
        self.prototype_layer = PrototypeLayer(
            sum(counts), channels, similarity=similarity, scale=scale
        )
        cells = int(torch.tensor(self.grid.shape).prod())
        if not 1 <= top_k <= cells:
            raise ValueError(f"top_k must be 1 to {cells} (the number of cells), got {top_k}.")
        self.top_k = top_k
        self.register_buffer(
            "prototype_class", torch.arange(out_channels).repeat_interleave(torch.tensor(counts))
        )
        self.last_layer = nn.Linear(len(self.prototype_class), out_channels)
        self.arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "image_size": list(image_size),
            "backbone": backbone,
            "stage": stage,
            "prototypes_per_class": counts,
            "add_on": add_on,
            "prototype_channels": prototype_channels,
            "similarity": similarity,
            "similarity_scale": scale,
            "top_k": top_k,
        }
        self.reset_last_layer()

    @property
    def grid(self) -> CellGrid:
        """True place of the feature cells in the image: the backbone's, and the measured shift.

        The 1x1 convolutions of the add-on layers do not move them. The buffer ``center_shift`` is 0
        until :func:`medproto.networks.measure_center_shift` has been run and its result set.
        """
        grid = self.backbone.grid
        shift = self.center_shift.tolist()
        center = tuple(c + s for c, s in zip(grid.first_center, shift, strict=True))
        return replace(grid, first_center=center)

    @property
    def feature_layer(self) -> nn.Module:
        """The layer whose output the prototypes are compared with; Grad-CAM explains it."""
        return self.add_on

    def reset_last_layer(self) -> None:
        """Set weights to +1 for the own class and -0.5 for the others, the bias to 0 (code [1])."""
        own = torch.nn.functional.one_hot(self.prototype_class, self.out_channels).T  # [K, P]
        weight = own * (OWN_CLASS_WEIGHT - OTHER_CLASS_WEIGHT) + OTHER_CLASS_WEIGHT
        with torch.no_grad():
            self.last_layer.weight.copy_(weight)
            self.last_layer.bias.zero_()

    def keep_prototypes(self, indices: Sequence[int]) -> None:
        """Drop all prototypes but these, with their last-layer columns; order is kept.

        Raises:
            ValueError: if a class would be left without any prototype.
        """
        index = torch.as_tensor(sorted(set(indices)), dtype=torch.long)
        kept = self.prototype_class[index.to(self.prototype_class.device)]
        if len(kept.unique()) != self.out_channels:
            raise ValueError("every class must keep at least one prototype; keep more of them.")
        self.prototype_layer.vectors = nn.Parameter(self.prototype_layer.vectors.detach()[index])
        self.prototype_class = kept
        layer = nn.Linear(len(kept), self.out_channels).to(self.last_layer.weight.device)
        with torch.no_grad():
            layer.weight.copy_(self.last_layer.weight[:, index])
            layer.bias.copy_(self.last_layer.bias)
        self.last_layer = layer
        counts = kept.bincount(minlength=self.out_channels).tolist()
        self.arguments["prototypes_per_class"] = counts

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``[B, D, *G]`` of images ``[B, C, *S]``."""
        return self.add_on(self.backbone(x))

    def pool(self, similarities: Tensor) -> Tensor:
        """Pool ``[B, P, *G]`` to ``[B, P]``: the mean of the ``top_k`` largest cells."""
        return similarities.flatten(2).topk(self.top_k, dim=2).values.mean(dim=2)

    def pool_distances(self, distances: Tensor) -> Tensor:
        """Pool ``[B, P, *G]`` to ``[B, P]``: the mean of the ``top_k`` smallest distances."""
        return -self.pool(-distances)

    def scores_from_features(self, features: Tensor) -> Tensor:
        """Return the pooled similarities ``[B, P]`` of features ``[B, D, *G]``."""
        return self.pool(self.prototype_layer.similarity(self.prototype_layer(features)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, K]`` of images ``[B, C, *S]`` with values in [0, 1]."""
        scores = self.scores_from_features(self.features(x))
        return self.last_layer(scores.to(self.last_layer.weight.dtype))

    def evidence(self, x: Tensor) -> ProtoPNetOutput:
        """Return the logits of ``[B, C, *S]`` together with what they were made of."""
        return self.evidence_from_features(self.features(x))

    def evidence_from_features(self, features: Tensor) -> ProtoPNetOutput:
        """The same for features ``[B, D, *G]`` that were computed before."""
        distances = self.prototype_layer(features)
        similarities = self.prototype_layer.similarity(distances)
        scores = self.pool(similarities)
        flat = similarities.detach().flatten(2).argmax(dim=2)  # [B, P]
        locations = torch.stack(torch.unravel_index(flat, similarities.shape[2:]), dim=-1)
        logits = self.last_layer(scores.to(self.last_layer.weight.dtype))
        return ProtoPNetOutput(logits, distances, similarities, scores, locations)


def _counts(prototypes_per_class: int | Sequence[int], out_channels: int) -> list[int]:
    if isinstance(prototypes_per_class, int):
        prototypes_per_class = [prototypes_per_class] * out_channels
    counts = list(prototypes_per_class)
    if out_channels < 2 or len(counts) != out_channels or min(counts) < 1:
        raise ValueError(
            "out_channels must be >= 2 and prototypes_per_class one count >= 1 a class, "
            f"got {out_channels} and {counts}."
        )
    return counts


def _add_on(
    kind: str, spatial_dims: int, in_channels: int, prototype_channels: int
) -> tuple[nn.Module, int]:
    """Build the add-on layers; return them with the number of channels behind them."""
    from monai.networks.layers import Conv

    if kind == "none":
        return nn.Identity(), in_channels
    if kind != "regular":
        raise ValueError(f"add_on must be 'none' or 'regular', got {kind!r}.")
    convolution = Conv[Conv.CONV, spatial_dims]
    layers = nn.Sequential(
        convolution(in_channels, prototype_channels, kernel_size=1),
        nn.ReLU(),
        convolution(prototype_channels, prototype_channels, kernel_size=1),
        nn.Sigmoid(),
    )
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.bias.data.zero_() if layer.bias is not None else None
    return layers, prototype_channels
