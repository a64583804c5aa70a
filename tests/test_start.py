"""What must start without the machine-learning stack, and quickly."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "pydicom", "pandas", "numpy", "captum", "streamlit", "sklearn")

PROBE = """
import sys
from typer.testing import CliRunner
from pipelines.cli import app
result = CliRunner().invoke(app, {arguments!r})
heavy = sorted(set({heavy!r}) & set(sys.modules))
print(result.exit_code, ",".join(heavy))
"""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["audit", "--help"], 0),
        (["audit", "verify", "no-such-log.db"], 1),
    ],
)
def test_loads_no_machine_learning(arguments, status, tmp_path):
    code = PROBE.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    exit_code, _, heavy = done.stdout.strip().partition(" ")
    assert heavy == ""
    assert int(exit_code) in (status, 2)
