import subprocess
import sys

CODE = """
import sys
import medproto.data
heavy = {"torch", "monai"} & sys.modules.keys()
sys.exit(f"loaded {sorted(heavy)}" if heavy else 0)
"""


def test_data_loads_neither_torch_nor_monai():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
