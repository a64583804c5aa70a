"""The import arrows of the design, enforced on the source text; nothing is imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "medproto": set(),
    "audit": set(),
    "pipelines": {"medproto", "audit"},
    "dashboards": {"medproto", "audit", "pipelines"},
}
BASE = {"records", "errors", "coordinates"}
INSIDE_MEDPROTO = {
    "data": BASE,
    "transforms": BASE | {"data"},  # the loading transform calls the reader
    "networks": BASE,
    "losses": BASE,
    "metrics": BASE,
    "last_layer": BASE | {"networks"},
    "projection": BASE | {"networks"},
    "explain": BASE | {"metrics", "networks", "projection", "last_layer"},
}
LIBRARIES_NOT_FOR_AUDIT = {"torch", "monai", "pydicom", "nibabel", "streamlit", "captum", "pandas"}
FORBIDDEN_EVERYWHERE = {"torchvision", "timm", "pytorch_grad_cam", "lightning", "pickle"}


def imports(path):
    """Yield each imported module as a tuple of names, relative ones resolved."""
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            yield from (base + module + (alias.name,) for alias in node.names)


def sources(*parts):
    return sorted(ROOT.joinpath(*parts).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages(package):
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}
    found = {(p.name, name[0]) for p in sources(package) for name in imports(p)}
    assert found
    assert not {pair for pair in found if pair[1] in forbidden}


@pytest.mark.parametrize("part", INSIDE_MEDPROTO)
def test_arrows_inside_medproto(part):
    parts = {p.name for p in (ROOT / "medproto").iterdir() if p.is_dir()} | BASE
    allowed = INSIDE_MEDPROTO[part] | {part}
    files = sources("medproto", part)
    assert files
    found = {
        (p.name, name[1])
        for p in files
        for name in imports(p)
        if name[0] == "medproto" and len(name) > 1 and name[1] in parts
    }
    assert not {pair for pair in found if pair[1] not in allowed}


def test_every_part_of_medproto_is_in_the_table():
    parts = {p.name for p in (ROOT / "medproto").iterdir() if p.is_dir() and list(p.glob("*.py"))}
    assert parts == set(INSIDE_MEDPROTO)


def test_audit_imports_no_machine_learning():
    found = {name[0] for p in sources("audit") for name in imports(p)}
    assert not found & LIBRARIES_NOT_FOR_AUDIT


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_libraries_that_stay_out(package):
    found = {name[0] for p in sources(package) for name in imports(p)}
    # torch raises pickle's own exception for a foreign checkpoint; only its name is imported.
    names = {
        name for p in sources(package) for name in imports(p) if name[0] in FORBIDDEN_EVERYWHERE
    }
    assert names <= {("pickle", "UnpicklingError")}, found


def test_no_script_folder_can_shadow_a_package():
    # A runner puts the script's folder first on the path: dashboards/audit.py would hide audit/.
    taken = set(MAY_IMPORT) | {"streamlit", "torch", "monai", "captum"}
    folders = ("dashboards", "pipelines")
    clashes = [p for d in folders for p in (ROOT / d).iterdir() if p.stem in taken]
    assert not clashes


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_sizes_and_names(package):
    for path in sources(package):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 350, path
        assert path.stem not in {"utils", "helpers", "common", "misc"}, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node, clean=False)
                length = node.end_lineno - node.body[0].lineno + 1
                length -= doc.count("\n") + 1 if doc else 0
                assert length <= 60, (path, node.name, length)
            assert not isinstance(node, ast.Assert), (path, node.lineno)
            called = getattr(getattr(node, "func", None), "id", "")
            assert called != "print", (path, getattr(node, "lineno", 0))
