"""The wheel, built from a clean copy of the tree, and what importing costs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREE = ["mrfq", "solvers", "pyproject.toml", "README.md", "LICENSE"]

pytestmark = pytest.mark.xdist_group("packaging")  # with --dist loadgroup the wheel is built once


def python(code, *, cwd=ROOT, path=""):
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the tree without caches, links kept; no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="session")
def files(wheel):
    return zipfile.ZipFile(wheel).namelist()


def sources(folder, package):
    found = (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py"))
    return {f"{package}/{path}" for path in found if path.parts[0] != "solvers"}


def test_the_wheel_has_one_top_level_package(files):
    assert {name.split("/")[0] for name in files} == {"mrfq", "mrfq-0.1.0.dist-info"}


def test_the_wheel_has_every_module(files):
    expected = sources("mrfq", "mrfq") | sources("solvers", "mrfq/solvers")
    assert {name for name in files if name.endswith(".py")} == expected
    assert "mrfq/solvers/splitting.py" in expected


def test_the_wheel_has_types_stubs_and_data(files):
    data = (path for path in (ROOT / "mrfq").rglob("*") if path.suffix in {".pyi", ".toml", ".html", ".css", ".js"})
    expected = {str(path.relative_to(ROOT)) for path in data}
    assert {"mrfq/py.typed", "mrfq/__init__.pyi", *expected} <= set(files)


def test_the_wheel_has_its_entry_points_and_licence(wheel, files):
    points = zipfile.ZipFile(wheel).read("mrfq-0.1.0.dist-info/entry_points.txt").decode()
    assert "[mrfq.solvers]" in points
    assert "icm = mrfq.solvers:ICM" in points
    assert any(name.endswith("LICENSE") for name in files)


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import mrfq; print(mrfq.__file__);print(mrfq.solve(mrfq.generators.chain(4, 3, seed=1), 'exhaustive').proved)"
    )
    done = python(code, cwd=tmp_path, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "mrfq" / "__init__.py"), "True"]


def test_importing_mrfq_does_not_import_torch():
    slow = ["torch", "numba", "scipy", "networkx", "matplotlib"]
    done = python(f"import mrfq, sys; print([name for name in {slow} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_can_be_imported():
    done = python("import mrfq; print([name for name in mrfq.__all__ if getattr(mrfq, name, None) is None])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_solvers_refuse_to_be_imported_under_another_name(tmp_path):
    done = python("import solvers", cwd=tmp_path, path=ROOT)
    assert done.returncode == 1
    assert "ImportError: import the solvers as mrfq.solvers, not as solvers" in done.stderr


def test_a_checkout_on_the_path_sees_the_solvers(tmp_path):
    done = python("import mrfq.solvers; print(mrfq.solvers.__file__)", cwd=tmp_path, path=ROOT)
    assert done.stdout.strip().endswith("solvers/__init__.py"), done.stderr


def test_the_core_knows_no_solver():
    for path in (ROOT / "mrfq").rglob("*.py"):
        inside = path.relative_to(ROOT / "mrfq").parts
        if inside[0] not in {"solvers", "compare", "cli.py"}:
            lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith(">>>")]
            assert "mrfq.solvers import" not in "\n".join(lines), path
            assert "import solvers" not in "\n".join(lines), path
