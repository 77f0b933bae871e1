"""What the package shows, and how little it needs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cytoserve
from cytoserve import errors

CLIENT = Path(cytoserve.__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cytoserve.__path__, "cytoserve.")
    if not module.name.endswith("__main__")  # runs the command line when imported
)


def test_all_is_what_is_there():
    assert cytoserve.__all__ == sorted(cytoserve.__all__)
    for name in cytoserve.__all__:
        assert hasattr(cytoserve, name)
    public = {
        name
        for name, value in vars(cytoserve).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(cytoserve.__all__)


def test_import_is_light():
    code = "import cytoserve, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(CLIENT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    heavy = {"torch", "click", "rich", "tritonclient", "grpc", "server", "training", "export"}
    assert not heavy & set(loaded)


def test_the_error_tree_is_the_one_that_is_drawn():
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    drawn = [
        line for line in errors.__doc__.splitlines() if "──" in line or "CytoserveError" in line
    ]
    parents: list[str] = []
    for line in drawn:
        name = line.strip("│├└─ ").split()[0]
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4 - 1
        del parents[depth:]
        if parents:
            assert classes[name].__bases__[0].__name__ == parents[-1]
        parents.append(name)
        classes.pop(name)
    assert not classes  # every class is drawn
    for name in vars(errors):
        if name[0].isupper() and name != "TYPE_CHECKING":
            assert name in cytoserve.__all__


def test_errors_can_be_pickled_and_caught_as_builtins():
    import pickle

    refused = pickle.loads(pickle.dumps(errors.VersionNotServed("a", 2)))
    assert (refused.pipeline, refused.version) == ("a", 2)
    error = pickle.loads(pickle.dumps(errors.PipelineNotServed("a", ("b",))))
    assert (error.pipeline, error.served) == ("a", ("b",))
    assert issubclass(errors.UnsupportedImage, ValueError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(module.__doc__.splitlines()[0]) > 20
    assert doctest.testmod(module).failed == 0
