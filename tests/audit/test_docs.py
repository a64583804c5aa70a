import re
import shutil
import subprocess
from pathlib import Path

import pytest

from audit.chain import CHAIN_DOMAIN
from audit.cli import app

TEXT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
needs_shell = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("sha256sum")), reason="needs bash and sha256sum"
)


def bash(script, folder):
    command = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return result.stdout


@needs_shell
def test_the_example_by_hand_gives_what_it_says(tmp_path):
    first = next(i for i, (_, block) in enumerate(BLOCKS) if block.startswith("meta="))
    assert bash(BLOCKS[first][1], tmp_path) == BLOCKS[first + 1][1]
    assert CHAIN_DOMAIN in BLOCKS[first][1]


@needs_shell
@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the sqlite3 shell")
def test_a_real_record_can_be_checked_by_hand(log_file):
    script = next(b for _, b in BLOCKS if b.startswith("sqlite3"))
    script = script.replace("audit.db", log_file.name).replace("= 12", "= 4")
    _, computed, stored = bash(script, log_file.parent).splitlines()
    assert stored == "sha256:" + computed.split()[0]


@pytest.mark.parametrize("command", [c.name for c in app.registered_commands])
def test_each_command_is_in_the_docs(command):
    assert f"medproto audit {command} " in TEXT
