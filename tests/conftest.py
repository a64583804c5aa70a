"""Guards and fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_environment_leaks():
    before = dict(os.environ)
    yield
    changed = {k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)}
    changed -= {"PYTEST_CURRENT_TEST"}
    # Set once by libraries when they are first imported.
    changed -= {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "CUDA_MODULE_LOADING"}
    changed -= {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert not changed, f"environment variables were left changed: {changed}"


@pytest.fixture(scope="session")
def real_data():
    """Folder of real images; tests that need it skip where it is absent."""
    folder = os.environ.get("MEDPROTO_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEDPROTO_DATA does not name the folder of real images")
    return Path(folder)
