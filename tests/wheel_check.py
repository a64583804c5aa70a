"""Build the wheel, install it without the machine-learning stack, and use it outside the checkout.

Not a test of pytest: it needs an environment of its own. Run by `make wheel-check` and in CI.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = ["typer", "pydantic", "pyyaml", "sqlalchemy", "rfc8785"]
HEAVY = ["torch", "monai", "pydicom", "pandas", "streamlit", "numpy"]

SAMPLE_LOG = """
from audit import AuditLog
with AuditLog.create("sample.db") as log:
    for number in range(3):
        log.append("sample", subject=f"case-{number}", actor="ci", payload={"number": number})
"""


def run(*command, cwd, ok=True):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if ok and done.returncode != 0:
        sys.exit(f"failed: {command}\n{done.stdout}\n{done.stderr}")
    return done


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
        wheel = next(folder.glob("medproto-*.whl"))
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=folder)
        run(python, "-m", "pip", "install", "-q", *LIGHT, cwd=folder)
        command = folder / "venv" / "bin" / "medproto"
        assert "demo" in run(command, "--help", cwd=folder).stdout
        doctor = run(command, "doctor", cwd=folder, ok=False)
        assert doctor.returncode == 1, doctor.stdout
        for name in HEAVY:
            assert f"MISSING  {name} " in doctor.stdout, (name, doctor.stdout)
        demo = run(command, "demo", "--out", "x", cwd=folder, ok=False)
        assert demo.returncode == 1, demo
        assert "medproto doctor" in demo.stderr, demo.stderr
        run(python, "-c", SAMPLE_LOG, cwd=folder)
        document = json.loads(
            run(command, "audit", "verify", "sample.db", "--json", cwd=folder).stdout
        )
        assert document["ok"], document
        owners = "from importlib.metadata import packages_distributions as p; d = p(); "
        owners += "assert all(d[n] == ['medproto'] for n in "
        owners += "('medproto', 'audit', 'pipelines', 'dashboards')), d"
        run(python, "-c", owners, cwd=folder)
    sys.stdout.write("wheel: installs alone, helps, examines and verifies a log.\n")


if __name__ == "__main__":
    main()
