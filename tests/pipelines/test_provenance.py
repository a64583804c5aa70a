"""What stands beside a result: the commit of the code that made it, and nothing of a stranger's."""

import subprocess

import torch

from pipelines.provenance import _repository, provenance


def git(folder, *words):
    given = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    return subprocess.run(given, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_and_whether_the_tree_differs_from_it(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert _repository(tmp_path) == (commit, False)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "step.json").write_text("{}")
    assert _repository(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("x = 2\n")
    assert _repository(tmp_path) == (commit, True)


def test_an_installed_package_has_no_commit(tmp_path):
    # The folder lies in a repository, but is not its root: it is somebody else's.
    git(tmp_path, "init", "--quiet")
    (tmp_path / "site-packages").mkdir()
    assert _repository(tmp_path / "site-packages") == (None, None)


def test_an_empty_repository_has_none_either(tmp_path):
    git(tmp_path, "init", "--quiet")
    assert _repository(tmp_path) == (None, None)


def test_versions_and_machine():
    found = provenance()
    assert found["torch"] == torch.__version__
    assert found["cores"] >= 1
    assert {"date", "commit", "uncommitted_changes", "medproto", "monai", "python"} <= found.keys()
