"""The images of Dataflow and Flink, as far as that shows without Docker: what is copied into them is all they need."""

import re
import shutil
from pathlib import Path

import pytest

from tests import packages
from tests.packages import Environment

DOCKERFILES = [f"jobs/{engine}/Dockerfile" for engine in ("dataflow", "flink")]


def pattern_of(text: str) -> re.Pattern:
    """A pattern of .dockerignore, which matches a path and all below it."""
    parts = re.split(r"(\*\*/?|\*|\?)", text.strip("/"))
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wildcards.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def context(checkout: Path) -> list[Path]:
    """What Docker is given of a folder: the files that .dockerignore does not exclude; the last line counts."""
    lines = (checkout / ".dockerignore").read_text().splitlines()
    rules = [(pattern_of(line.lstrip("!")), line.startswith("!")) for line in lines if line and line[0] != "#"]
    files = []
    for path in sorted(checkout.rglob("*")):
        name = path.relative_to(checkout).as_posix()
        kept = True
        for pattern, keeps in rules:
            kept = keeps if pattern.fullmatch(name) else kept
        if kept and (path.is_symlink() or path.is_file()):
            files.append(path.relative_to(checkout))
    return files


def copy_for_worker(dockerfile: str, checkout: Path, folder: Path) -> None:
    """Does what the COPY lines of the worker's image do."""
    (stage,) = re.findall(
        r"^FROM \S+ AS worker$(.*?)^FROM ", f"{(checkout / dockerfile).read_text()}\nFROM ", re.M | re.S
    )
    files = context(checkout)
    for line in re.findall(r"^COPY (?!--)(.*)$", stage, re.MULTILINE):
        *sources, target = line.split()
        for source in map(Path, sources):
            found = [path for path in files if path == source or source in path.parents]
            assert found, f"{dockerfile} copies {source}, and Docker is given no such file"
            for path in found:
                # A folder's content goes into the target, a file goes there by its name.
                inside = path.relative_to(source) if path != source else Path(path.name)
                copy = folder / target / inside
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / path, copy, follow_symlinks=False)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_the_package_can_be_installed_of_what_is_copied(dockerfile, tmp_path):
    checkout = packages.copy_checkout(tmp_path / "checkout")
    (checkout / "jobs" / "__pycache__").mkdir(exist_ok=True)
    (checkout / "jobs" / "__pycache__" / "cli.pyc").touch()
    folder = tmp_path / "image"
    copy_for_worker(dockerfile, checkout, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("beamscribe", "jobs", "model", "pipelines"),
    }
    assert not list(folder.rglob("__pycache__"))
    environment = Environment(tmp_path / "environment")
    environment.install(packages.build_wheel(folder, tmp_path / "built"))
    script = (
        "import beamscribe.jobs.cli\n"
        "from beamscribe.model import bundle, recipe\n"
        "print(beamscribe.jobs.cli.__file__, bundle.describe(bundle.DEFAULT).fingerprint, *recipe.names())\n"
    )
    module, fingerprint, *recipes = packages.run(
        environment.bin / "python", "-P", "-c", script, folder=tmp_path
    ).split()
    assert Path(module).is_relative_to(environment.packages)
    assert fingerprint and "transformer" in recipes


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_the_package_is_what_the_image_installs(dockerfile):
    text = (packages.ROOT / dockerfile).read_text()
    assert re.search(r"^RUN pip install --no-cache-dir --constraint constraints\.txt \.", text, re.MULTILINE)


def test_patterns_are_those_of_docker():
    assert pattern_of("*").fullmatch("a/b") and pattern_of("jobs").fullmatch("jobs/x/y.py")
    assert not pattern_of("jobs").fullmatch("jobs2") and not pattern_of("*.py").fullmatch("a/b.py")
    assert pattern_of("**/__pycache__").fullmatch("__pycache__/x") and pattern_of("**/__pycache__").fullmatch(
        "a/__pycache__"
    )
