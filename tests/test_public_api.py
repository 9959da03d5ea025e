"""The front door: what `import beamscribe` gives, what it loads, and the examples in the docstrings."""

import ast
import doctest
import importlib.metadata
import inspect
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import beamscribe

ROOT = Path(__file__).parents[1]


def test_importing_it_loads_nothing_heavy():
    script = "import sys, beamscribe; beamscribe.BeamscribeError, beamscribe.__version__\n"
    script += "heavy = {'apache_beam', 'tensorflow', 'keras', 'pyarrow', 'numpy', 'PIL'}\n"
    script += "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", beamscribe.__all__)
def test_every_name_is_there_and_documented(name):
    value = getattr(beamscribe, name)
    assert inspect.getdoc(value)
    assert name in dir(beamscribe)
    # Type checkers read the stub alone.
    assert value.__module__.startswith("beamscribe.")


def test_the_stub_names_what_is_exported():
    tree = ast.parse((ROOT / "beamscribe" / "__init__.pyi").read_text())
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == beamscribe.__all__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = beamscribe.nothing


def test_types_are_seen(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import beamscribe\nreveal_type(beamscribe.caption('a', 'b').captioned)\nbeamscribe.load(1)\n")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", str(program)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert 'Revealed type is "int"' in done.stdout.replace("builtins.int", "int")
    assert 'Argument 1 to "load" has incompatible type "int"' in done.stdout


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "beamscribe.__version__"}
    assert importlib.metadata.version("beamscribe") == beamscribe.__version__


@pytest.mark.parametrize("name", beamscribe.__all__)
def test_the_example_of_every_name(name, working_folder):
    shutil.copytree(ROOT / "samples", working_folder / "photos")
    documented = [inspect.getdoc(getattr(beamscribe, name))]
    text = "\n".join(documented)
    test = doctest.DocTestParser().get_doctest(text, {"beamscribe": beamscribe}, name, None, 0)
    assert test.examples
    printed: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.append)
    assert results.failed == 0, "".join(printed)
