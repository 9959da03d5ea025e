"""Data goes down one way through the rooms, and nothing imports back up. pyproject.toml says which rooms there are."""

import ast
import collections
import graphlib
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("model", "pipelines", "jobs")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LINES = 400


def name_of(path: Path) -> str:
    """A module's import name: that of a folder is its `__init__`'s."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("beamscribe", *parts)).removesuffix(".__init__")


def imported_at_module_level(path: Path) -> Iterator[str]:
    """What a module imports when it is imported: nothing in functions, nothing for type checkers alone."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)


def test_imports_keep_to_the_rooms():
    # In a process of its own: it sets up logging anew, which closes the streams of this process.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", ROOT / "pyproject.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_see_every_module():
    graph = grimp.build_graph("beamscribe", exclude_type_checking_imports=True, cache_dir=None)
    # The two scripts of Dataflow's images lie in a folder that is no package.
    inside = {name_of(path) for path in MODULES if (path.parent / "__init__.py").exists()}
    assert graph.modules == {"beamscribe", "beamscribe.__main__", *inside}
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    ordered = {container for rule in rules if rule.get("exhaustive") for container in rule["containers"]}
    assert ordered == {"beamscribe.pipelines", "beamscribe.jobs"}


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("beamscribe", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # Each of them is imported by the one after it.
        pytest.fail(" <- ".join(error.args[1]))


def test_pipelines_load_no_tensorflow():
    paths = {name_of(path): path for path in MODULES}
    # What is to be looked at, and the chain of modules that led there.
    waiting = [(name, name) for name in paths if name.startswith("beamscribe.pipelines")]
    seen, wrong = set(), []
    while waiting:
        name, chain = waiting.pop()
        seen.add(name)
        for found in imported_at_module_level(paths[name]):
            if found.split(".")[0] in ("tensorflow", "keras", "tensorflow_metadata", "tfx_bsl"):
                wrong.append(f"{chain} -> {found}")
            # The packages that hold a module are imported before it.
            modules = itertools.accumulate(found.split("."), lambda package, part: f"{package}.{part}")
            waiting += [(module, f"{chain} -> {module}") for module in modules if module in paths.keys() - seen]
    assert wrong == []


def test_no_two_modules_have_one_name():
    names = collections.Counter(path.stem for path in MODULES if path.stem not in ("__init__", "base"))
    twice = [str(path.relative_to(ROOT)) for path in MODULES if names[path.stem] > 1]
    assert twice == []


def test_modules_are_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > LINES} == {}
