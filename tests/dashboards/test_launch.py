from pathlib import Path

import pytest

from dashboards import launch
from dashboards.answers import Source


def test_the_command_is_hardened():
    words = launch.command(Source(Path("runs/first"), "audit.db"), 8600)
    for option in (
        "--server.address=127.0.0.1",
        "--server.port=8600",
        "--server.headless=true",
        "--server.enableXsrfProtection=true",
        "--server.enableCORS=true",
        "--server.enableStaticServing=false",
        "--server.enableAgentApi=false",
        "--server.fileWatcherType=none",
        "--server.allowedHosts=127.0.0.1",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--client.toolbarMode=viewer",
        "--client.disableDataExport=true",
    ):
        assert option in words
    assert words[-5:] == ["--", "--run", "runs/first", "--audit", "audit.db"]


def test_streamlit_knows_every_option():
    from streamlit import config

    known = set(config._config_options_template)
    assert {name for name, _ in launch.OPTIONS} <= known


def test_the_app_reads_what_the_command_passes():
    words = launch.command(Source(Path("runs/first"), "audit.db"), 8600)
    assert launch.read_source(words[words.index("--") + 1 :]) == Source(
        Path("runs/first"), "audit.db"
    )


def test_main_says_the_address_and_becomes_the_server(run_folder, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(launch.os, "execv", lambda path, words: called.append(words))
    launch.main(["--run", str(run_folder), "--audit", "audit.db", "--port", "8600"])
    assert "http://127.0.0.1:8600" in capsys.readouterr().out
    assert called[0][1:4] == ["-m", "streamlit", "run"]


def test_main_refuses_a_folder_without_a_model(tmp_path, capsys):
    assert launch.main(["--run", str(tmp_path), "--audit", "audit.db"]) == 1
    assert "it has no model.json" in capsys.readouterr().err


def test_main_needs_a_run(capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.main(["--audit", "audit.db"])
    assert "--run" in capsys.readouterr().err
