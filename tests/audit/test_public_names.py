import importlib
import pkgutil

import pytest

import audit

MODULES = sorted(m.name for m in pkgutil.iter_modules(audit.__path__) if m.name != "__main__")


def test_all_names_are_importable_and_sorted():
    assert sorted(audit.__all__) == audit.__all__
    assert all(hasattr(audit, name) for name in audit.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_declares_its_names_and_documents_itself(name):
    module = importlib.import_module(f"audit.{name}")
    assert sorted(module.__all__) == module.__all__
    assert all(hasattr(module, public) for public in module.__all__)
    assert module.__doc__
