"""Memory that is freed and asked for again."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import torch
from pipelines.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):  # until the small blocks between the large ones have found their places
    torch.ones(64 * 2**18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(64 * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_large_block_is_not_asked_for_again_and_again():
    assert faults("kept") < faults("as it is") / 10
