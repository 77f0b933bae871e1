"""The house: imports run one way, and the client stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Room -> rooms that it may import.
ALLOWED = {
    "cytoserve": set(),
    "training": {"cytoserve"},
    "export": {"cytoserve", "training"},
    "server": {"cytoserve"},
    "benchmarks": {"cytoserve", "training", "export", "server"},
}
FAMILIES = ("yolo", "resnet", "unet", "maskrcnn", "sam")
SHARED = (
    "training/datasets",
    "training/evaluation.py",
    "training/postprocessing.py",
    "training/preprocessing",
    "training/run",
    "export/graphs",
    "export/parity",
    "export/repository",
)
AGPL = "ultralytics"
TRAININGS = (
    *FAMILIES,
    "crops",
    "fetch",
    "nuclei_tiles",
    "rendered",
    "start",
)
"""Commands ``python -m training.<name>``."""
EXPORT = "import export.__main__; export.__main__.main"


def sources(room: str) -> list[Path]:
    folder = ROOT / "client" / room if room == "cytoserve" else ROOT / room
    files = sorted(folder.rglob("*.py"))
    assert files, f"room {room} is empty"
    return files


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    forbidden = set(ALLOWED) - ALLOWED[room] - {room}
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported(path) & forbidden)
        for path in sources(room)
        if imported(path) & forbidden
    }
    assert not wrong


def modules_imported(path: Path) -> set[str]:
    """Dotted names of this project's modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("room", ["training", "export"])
def test_no_family_imports_another(room, family):
    """Nor does what families share import one of them."""
    folder = ROOT / room / family
    assert any(folder.glob("*.py"))
    others = {other for other in FAMILIES if other != family}
    inside = set().union(*(modules_imported(path) for path in folder.rglob("*.py")))
    assert not {name for name in inside if name.split(".")[1:2] and name.split(".")[1] in others}


@pytest.mark.parametrize("folder", SHARED)
def test_what_families_share_imports_none_of_them(folder):
    place = ROOT / folder
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    names = set().union(*map(modules_imported, files))
    assert not {
        name for name in names if len(name.split(".")) > 1 and name.split(".")[1] in FAMILIES
    }


@pytest.mark.parametrize("room", ["cytoserve", "server"])
def test_neither_client_nor_server_uses_the_agpl_package(room):
    assert not [path for path in sources(room) if imported(path) & {AGPL, "torch", "training"}]


def test_the_model_repository_needs_only_the_client():
    adapters = sorted((ROOT / "model_repository").glob("*/*/model.py"))
    assert adapters
    for path in adapters:
        assert imported(path) <= {"cytoserve", "numpy", "triton_python_backend_utils"}


@pytest.mark.parametrize(
    ("script", "heavy"),
    [
        pytest.param(
            "import cytoserve",
            {"torch", "server", "training", "onnxruntime", "pytriton", "click", "rich"},
            id="the client",
        ),
        pytest.param(
            f"{EXPORT}(['lint'], standalone_mode=False)",
            {"torch", "torchvision", "ultralytics", "lightning"},
            id="lint of the repository",
        ),
        pytest.param(
            f"{EXPORT}(['yolo', '--help'], standalone_mode=False)",
            {"torch", "torchvision", "ultralytics", "lightning"},
            id="help of an export",
        ),
        *(
            pytest.param(
                f"import training.{name}.__main__"
                if (ROOT / "training" / name).is_dir()
                else f"import training.{name}",
                {"torch", "torchvision", "ultralytics", "lightning", "matplotlib"},
                id=f"help of training.{name}",
            )
            for name in TRAININGS
        ),
    ],
)
def test_what_is_asked_for_often_imports_little(script, heavy):
    loaded = "import sys; print(); print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; {loaded}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert "cytoserve" in modules
    assert not heavy & modules


@pytest.mark.parametrize(
    ("file", "library"),
    [
        pytest.param("training/yolo/network.py", "ultralytics", id="offline, and all cores"),
        pytest.param("export/graphs/files.py", "onnxruntime", id="no telemetry at export"),
    ],
)
def test_what_a_library_reads_from_the_environment_is_set_before_its_import(file, library):
    body = ast.parse((ROOT / file).read_text()).body
    settings = [n.lineno for n in body if ast.unparse(n).startswith("os.environ.setdefault(")]
    imports = [
        node.lineno
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and library in ast.unparse(node).replace(".", " ").split()
    ]
    assert settings
    assert imports
    assert max(settings) < min(imports)
