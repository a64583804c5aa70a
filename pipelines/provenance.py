"""What made a result: commit, versions and machine, for files that outlive the run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

# A result that was just written beside this one is no change of the code that makes it.
_CODE = (".", ":(exclude)benchmarks/results")

PACKAGES = ("medproto", "torch", "monai", "numpy", "scikit-learn")


def provenance() -> dict[str, Any]:
    """Return ``date``, ``commit``, ``uncommitted_changes``, versions and machine.

    ``commit`` is ``None`` where medproto was installed without its repository.
    """
    commit, changes = _repository(Path(__file__).resolve().parent.parent)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "uncommitted_changes": changes,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _repository(root: Path) -> tuple[str | None, bool | None]:
    if not (root / ".git").exists():  # an installed package may lie in somebody else's repository
        return None, None
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", *_CODE))
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
