"""The speed benchmarks run at a small size, and their arithmetic is right."""

import json

import pandas as pd
import pytest
import torch

LITE = ["--networks", "efficientnet_lite0"]
SMALL = ["--pairs", "1", "--threads", "1"]
QUICK = {
    "step": ["--size", "32", "--batch", "4", "--prototypes", "4", *LITE],
    "projection": ["--size", "32", "--images", "12", "--prototypes", "4"],
    "last_layer": ["--size", "32", "--images", "12", "--prototypes", "4"],
    "schedule": ["--size", "32", "--images", "12", "--prototypes", "4", "--batch", "4"],
    "evidence": ["--size", "32", "--batch", "2", "--prototypes", "4", *LITE],
    "scaling": ["--prototypes", "2", "3", "--sides", "2", "3"],
}


def test_ratios_are_taken_pair_by_pair(script):
    row = script("timing").row
    pairs = [(1.0, 2.0), (3.0, 2.0), (2.0, 1.0)]
    assert row("a", pairs)["ratio"] == {"median": 1.5, "min": 0.5, "max": 2.0}
    found = row("a", pairs, times_faster=True, reference_times=10, at_least=8)
    assert found["ratio"]["median"] == pytest.approx(20 / 3)
    assert found["reference_seconds"] == {"median": 20.0, "min": 10.0, "max": 20.0}
    assert found["at_least"] == 8


def test_pairs_run_in_turn_and_the_first_is_thrown_away(script):
    calls = []
    pairs = script("timing").timed_pairs(lambda: calls.append("a"), lambda: calls.append("b"), 2)
    assert "".join(calls) == "ababba"
    assert len(pairs) == 2
    assert all(value >= 0 for pair in pairs for value in pair)


def test_table_names_the_contract(script):
    timing = script("timing")
    lines = timing.table(
        [timing.row("step", [(1.0, 0.5)], at_most=1.1)], own="own", reference="other"
    )
    assert lines[0].split() == ["own", "other", "ratio", "min", "max", "contract"]
    assert lines[1].split()[-5:] == ["2.000", "2.000", "2.000", "<=", "1.1"]


def test_whole_schedule_adds_its_parts(script):
    schedule = script("schedule")
    options = type("Options", (), {"batch": 16})
    # 33 images are 3 batches: 5 warm and 26 joint epochs of them, 3 projections.
    ((own, published),) = schedule.whole(([(1, 2)], [(10, 20)], [(100, 1000)]), 33, options)
    assert own == 3 * 5 * 1 + 3 * 26 * 10 + 3 * 100
    assert published == 3 * 5 * 2 + 3 * 26 * 20 + 3 * 1000


def test_no_measurement_at_all_is_refused(script, capsys):
    with pytest.raises(SystemExit, match="2"):
        script("projection").main(["--pairs", "0"])
    assert "--pairs: must be at least 1, got 0." in capsys.readouterr().err


@pytest.mark.usefixtures("_same_threads")
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_run(name, script, capsys, tmp_path):
    figure = ["--figure", str(tmp_path / "figure.png")] if name == "scaling" else []
    result = script(name).main([*SMALL, *QUICK[name], *figure])
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(json.dumps(result))
    assert result["benchmark"] == name
    assert {"date", "commit", "cpu", "options"} <= result.keys()
    for row in result["rows"]:
        assert row["ratio"]["min"] > 0
        assert row["name"] in captured.err
    assert not figure or (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_memory_in_fresh_processes(script, capsys):
    few = ["--size", "64", "--counts", "8", "16", "--batch", "4", *LITE]
    result = script("memory").main([*SMALL, *few])
    assert len(result["rows"]) == 2
    assert all(row["mib"]["median"] > 0 for row in result["rows"])
    assert "projection, 16 against 8 images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_same_threads")
def test_a_whole_training(script, capsys):
    few = ["--threads", "1", "--images", "40", "--size", "32"]
    settings = ["--set", "training.features_epochs=1", "--set", "training.joint_epochs=1"]
    result = script("training").main([*few, *settings])
    assert result["epochs"] == {"features": 1, "warm": 1, "joint": 1}
    assert result["seconds"] > 0
    assert f"{result['seconds']:.0f} s   <= 900" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_same_threads")
def test_a_training_beside_its_twin(script, capsys):
    few = ["--threads", "1", "--images", "40", "--size", "32", "--twin"]
    settings = ["--set", "training.features_epochs=1", "--set", "training.joint_epochs=1"]
    result = script("training").main([*few, *settings])
    rates = result["images_per_second"]
    assert result["joint_to_twin"] == rates["joint"] / rates["twin"]
    assert f"joint to twin {result['joint_to_twin']:.3f}   >= 0.9 on" in capsys.readouterr().err


def test_the_first_epoch_is_left_out_where_there_are_more(script):
    table = {"segment": ["twin"] * 3 + ["joint"], "seconds": [50.0, 4.0, 6.0, 10.0]}
    found = script("training").throughput(pd.DataFrame(table), 100)
    assert found == {"twin": 20.0, "joint": 10.0}


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [64, 256])
def test_joint_epochs_on_a_gpu_keep_up_with_the_twins(script, batch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    values = [f"batch_size={batch}", "precision=bfloat16", "features_epochs=4", "joint_epochs=4"]
    settings = [word for value in values for word in ("--set", f"training.{value}")]
    chosen = ["--device", "cuda", "--twin", "--images", "2048", *settings]
    assert script("training").main(chosen)["joint_to_twin"] >= 0.90
