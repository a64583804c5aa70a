"""The choice of the patches as a setting of a run, and a kill in the middle of it."""

import pytest
import torch

import pipelines.steps as steps_module
from pipelines.config import load_config
from pipelines.train import train

SHORT = ("training.features_epochs=0", "training.warm_epochs=0")
PRESERVING = "training.projection=function-preserving"


class _Killed(BaseException):
    pass


def test_a_run_keeps_the_function_and_a_kill_behind_it_changes_nothing(
    tiny_cohort, tiny_settings, tmp_path, monkeypatch
):
    config = load_config(None, [*tiny_settings, *SHORT, PRESERVING])
    original, seen = steps_module.project_prototypes, []

    def project(network, *arguments, **options):
        result = original(network, *arguments, **options)
        seen.append((result, network.prototype_layer.vectors.detach().clone()))
        if len(seen) == 1:
            raise _Killed
        return result

    monkeypatch.setattr(steps_module, "project_prototypes", project)
    out = tmp_path / "run"
    with pytest.raises(_Killed):
        train(tiny_cohort, out, config)
    assert not (out / "model.json").exists()
    run = train(tiny_cohort, out, config, resume=True)
    assert run.config.training.projection == "function-preserving"
    (first, vectors), (second, _) = seen
    assert second == first
    assert torch.equal(run.network.prototype_layer.vectors, vectors)
    assert len({match.group for match in first.matches}) == len(first.matches) == 6
    assert all(-1 <= match.correlation <= 1 for match in first.matches)
    groups = run.cohort.table["group"]
    assert [groups[source.row] for source in run.sources] == [m.group for m in first.matches]


@pytest.mark.parametrize(
    ("settings", "choice", "unique"),
    [
        ((), "function-preserving", True),
        (("training.projection=nearest",), "nearest", True),
        ((PRESERVING, "preset=paper"), "nearest", False),
    ],
)
def test_the_published_schedule_takes_the_nearest_whatever_is_set(
    tiny_cohort, tiny_settings, tmp_path, monkeypatch, settings, choice, unique
):
    seen = []

    def project(*arguments, **options):
        seen.append(options)
        raise _Killed

    monkeypatch.setattr(steps_module, "project_prototypes", project)
    changes = (
        *SHORT,
        "data.repeats=1",
        "training.epochs=1",
        "training.projection_start=0",
        *settings,
    )
    config = load_config(None, [*tiny_settings, *SHORT, *changes])
    with pytest.raises(_Killed):
        train(tiny_cohort, tmp_path / "run", config)
    assert seen == [{"unique": unique, "choice": choice, "cells": None}]
