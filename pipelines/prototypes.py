"""The prototypes of a finished run: list them, look up their nearest patches, prune them.

Symbols: ``P`` prototypes, ``K`` outputs of the last layer.

Pruning leaves the run as it is and writes a new one, a new version of the model with its own
digest; ``pruning.json`` says which version it came from and what was taken out.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit import AuditLog
from medproto.errors import MedProtoError, ModelFileError
from medproto.networks import ProtoPNet, save_model, tensor_digest
from medproto.projection import PatchHit, PruningDecision, nearest_patches, pruning_decision
from medproto.records import PrototypeSource

from .datasets import ImageSet
from .doubt import fit_doubt
from .evaluate import evaluate_model, load_split, load_twin
from .gallery import renumber_boxes
from .inference import count_from_floor
from .last_layer_fit import fit_last_layer
from .report import write_report
from .runs import RunFolder, file_digest, sources_to_table, write_json
from .strongest_weight import strongest_elsewhere

__all__ = ["PruningError", "list_prototypes", "nearest_labels", "nearest_of", "prune_run"]

logger = logging.getLogger("medproto.prototypes")

BATCH = 32
PRUNING_NAME = "pruning.json"


class PruningError(MedProtoError, ValueError):
    """The prototypes of a run cannot be pruned as asked."""


def list_prototypes(run: RunFolder) -> list[dict[str, Any]]:
    """Return one entry a prototype, in order: class, source, weights, rank, purity.

    ``rank`` orders the prototypes by their mean contribution over the training images: mean
    absolute similarity times largest absolute weight; 1 is the largest. ``own_share`` is the share
    of its own class among the nearest training patches, ``None`` where no pruning has counted them.

    Raises:
        ModelFileError: if the run is unfinished, altered or lacks a file.
    """
    weights = run.network.last_layer.weight.detach().double().cpu().numpy()  # [K, P]
    scores = count_from_floor(run.network, _train_scores(run))
    contributions = np.abs(scores).mean(axis=0) * np.abs(weights).max(axis=0)
    order = np.argsort(-contributions, kind="stable").tolist()
    shares = _own_shares(run)
    classes = run.card.classes
    entries = []
    for source in run.sources:
        p = source.prototype
        stray = strongest_elsewhere(weights[:, p].tolist(), source.class_index, len(classes))
        entries.append(
            {
                "prototype": p,
                "class": source.class_name,
                "row": source.row,
                "box": source.box.to_list(),
                "group": source.group,
                "weights": weights[:, p].tolist(),
                "contribution": float(contributions[p]),
                "rank": order.index(p) + 1,
                "own_share": shares.get(p),
                "strongest_elsewhere": None if stray is None else classes[stray],
            }
        )
    return entries


def _train_scores(run: RunFolder) -> NDArray[np.float64]:
    """Read ``[N, P]`` similarities of the training images; the prototypes are counted."""
    try:
        with np.load(run.path / "scores.npz") as stored:
            scores = np.asarray(stored["train_scores"], dtype=np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(
            "the run folder must hold scores.npz, which is missing or damaged. Restore it from a "
            "copy."
        ) from error
    if scores.ndim != 2 or scores.shape[1] != len(run.sources):
        raise ModelFileError(
            f"scores.npz must have a column for each of {len(run.sources)} prototypes, got "
            f"{list(scores.shape)}. Restore it from a copy."
        )
    return scores


def _own_shares(run: RunFolder) -> dict[int, float]:
    path = run.path / PRUNING_NAME
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["model_digest"] != run.card.model_digest:
            raise ValueError
        return {e["prototype"]: e["own"] / record["k"] for e in record["kept"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{PRUNING_NAME} is damaged or of another model. Restore it from a copy."
        ) from error


def nearest_of(network: ProtoPNet, images: ImageSet, *, k: int) -> list[list[PatchHit]]:
    """Return the nearest patches of a set for each prototype; rows are positions in the set."""
    return nearest_patches(network, images.batches(BATCH), k=k)


def nearest_labels(hits: Sequence[Sequence[PatchHit]]) -> NDArray[Any]:
    """Return the labels of hits: ``[P, k]`` classes, or ``[P, k, K]`` findings."""
    return np.asarray([[np.asarray(hit.label).tolist() for hit in own] for own in hits])


def prune_run(
    run: RunFolder,
    out: Path,
    *,
    k: int = 6,
    tau: int = 3,
    zero_weight: bool = False,
    log: AuditLog | None = None,
    actor: str = "",
) -> dict[str, Any]:
    """Prune a run into a new one, solve its last layer again, evaluate and report it.

    Args:
        run: is only read.
        out: new folder.
        k: nearest training patches that are looked at, the prototype's own source among them.
        tau: prune a prototype if fewer of them show its class; 0 prunes none for that.
        zero_weight: also prune prototypes whose last-layer weights are all zero.
        log: takes a record ``model.pruned`` before the new model is finished.
        actor: who asks, for the record.

    Returns:
        The content of ``pruning.json``.

    Raises:
        ModelFileError: if ``out`` is taken, or the run is unfinished or altered.
        PruningError: if there are too few training images, or nothing to prune.
        audit.AuditError: if the log does not take the record; the new run is unfinished then.
    """
    if out.exists() and any(out.iterdir()):
        raise ModelFileError("the folder is not empty; choose a new one with --out.")
    return _Pruning(run, out, k, tau, zero_weight, log, actor).run_all()


@dataclass
class _Pruning:
    run: RunFolder
    out: Path
    k: int
    tau: int
    zero_weight: bool
    log: AuditLog | None
    actor: str

    def run_all(self) -> dict[str, Any]:
        _ = self.run.config  # an unreadable one is an error before anything is written
        decision = self._decide()
        self.out.mkdir(parents=True, exist_ok=True)
        self._copy(decision)
        network = copy.deepcopy(self.run.network)
        network.keep_prototypes(decision.kept)
        sources = tuple(
            replace(self.run.sources[old], prototype=new) for new, old in enumerate(decision.kept)
        )
        sources_to_table(sources).to_parquet(self.out / "prototypes.parquet", index=False)
        certificate = self._solve(network, sources)
        record = self._record(decision, sources, tensor_digest(network.state_dict()))
        self._write(network, sources, certificate, record)
        return record

    @cached_property
    def _splits(self) -> dict[str, ImageSet]:
        cohort = self.run.cohort
        rows = {
            name: cohort.table.index[cohort.table["split"] == name].tolist()
            for name in ("train", "val", "test")
        }
        return {name: load_split(self.run, cohort, own) for name, own in rows.items()}

    def _decide(self) -> PruningDecision:
        train, network = self._splits["train"], self.run.network
        if not 1 <= self.k <= len(train) or not 0 <= self.tau <= self.k:
            raise PruningError(
                f"k must be 1 to {len(train)} (the training images) and tau 0 to k, got k = "
                f"{self.k} and tau = {self.tau}."
            )
        weights = network.last_layer.weight.detach().cpu().numpy()
        decision = pruning_decision(
            nearest_labels(nearest_of(network, train, k=self.k)),
            network.prototype_class.cpu().numpy(),
            tau=self.tau,
            weights=weights if self.zero_weight else None,
        )
        for p in decision.spared:
            logger.warning(
                "prototype %d stays although it falls under the rule: its class %r would have "
                "none left.",
                p,
                self.run.sources[p].class_name,
            )
        if not decision.pruned:
            raise PruningError(
                "no prototype falls under the rule, so no new run was written; the run is pruned "
                f"as far as k = {self.k} and tau = {self.tau} go."
            )
        return decision

    def _copy(self, decision: PruningDecision) -> None:
        """Take over what pruning does not change; pictures get their new numbers."""
        for name in ("config.yaml", "history.csv", "twin.safetensors"):
            if (self.run.path / name).exists():
                shutil.copyfile(self.run.path / name, self.out / name)
        self.run.cohort.save(self.out / "cohort.csv")
        (self.out / "prototypes").mkdir(exist_ok=True)
        for new, old in enumerate(decision.kept):
            for name in ("p{:03d}.png", "p{:03d}_source.png"):
                shutil.copyfile(
                    self.run.path / "prototypes" / name.format(old),
                    self.out / "prototypes" / name.format(new),
                )
        renumber_boxes(self.run.path / "prototypes", self.out / "prototypes", decision.kept)

    def _solve(self, network: ProtoPNet, sources: tuple[PrototypeSource, ...]) -> dict[str, Any]:
        train, config = self._splits["train"], self.run.config
        position = {row: i for i, row in enumerate(train.rows)}
        solution = fit_last_layer(
            network,
            train,
            self._splits["val"],
            [position[source.row] for source in sources],
            config.last_layer,
            weighted=config.training.class_weights,
            scores_path=self.out / "scores.npz",
        )
        values = asdict(solution)
        return {name: values[name] for name in ("objective", "residual", "iterations", "zeros")}

    def _record(
        self, decision: PruningDecision, sources: tuple[PrototypeSource, ...], digest: str
    ) -> dict[str, Any]:
        def reasons(p: int) -> list[str]:
            rules = {"too few of its class": decision.impure, "zero weight": decision.unused}
            return [name for name, members in rules.items() if p in members]

        def entry(p: int) -> dict[str, Any]:
            source = self.run.sources[p]
            return {"class": source.class_name, "own": decision.own[p], "row": source.row}

        return {
            "parent_model_digest": self.run.card.model_digest,
            "model_digest": digest,
            "k": self.k,
            "tau": self.tau,
            "zero_weight": self.zero_weight,
            "pruned": [{"was": p, **entry(p), "reasons": reasons(p)} for p in decision.pruned],
            "kept": [
                {
                    "prototype": source.prototype,
                    "was": old,
                    **entry(old),
                    "spared": old in decision.spared,
                }
                for source, old in zip(sources, decision.kept, strict=True)
            ],
        }

    def _write(
        self,
        network: ProtoPNet,
        sources: tuple[PrototypeSource, ...],
        certificate: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        """Evaluate, report and record the new model; the model file comes last."""
        parent, splits = self.run.card, self._splits
        doubt = fit_doubt(network, self.out / "scores.npz", splits["val"].groups)
        write_json(self.out / "doubt.json", doubt.to_dict())
        evaluation = evaluate_model(
            network,
            load_twin(self.run),
            parent.classes,
            sources,
            train=splits["train"],
            val=splits["val"],
            images=splits["test"],
            split="test",
            doubt=doubt,
        )
        pruning = {
            "parent_model_digest": parent.model_digest,
            "before": len(self.run.sources),
            "after": len(sources),
        }
        metrics = {**evaluation.summary, "last_layer": certificate, "pruning": pruning}
        card = replace(
            parent,
            prototypes_digest=file_digest(self.out / "prototypes.parquet"),
            doubt_digest=file_digest(self.out / "doubt.json"),
        )
        write_json(self.out / "metrics.json", metrics)
        write_report(self.out, network, card, sources, metrics, evaluation)
        write_json(self.out / PRUNING_NAME, record)
        if self.log is not None:
            self.log.append(
                "model.pruned", subject=record["model_digest"], actor=self.actor, payload=record
            )
        save_model(self.out, network, card)
