"""The files around the code say the same: pyproject.toml, constraints.txt, the Makefile, .ci/run and the hooks."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
# The folders of tests that plain `make test` leaves out, each with its target.
FOLDERS = {"engines": "test-engines", "packaging": "test-wheel", "stores": "test-stores"}


def recipe_of(target: str) -> str:
    """The lines of the Makefile that a target runs."""
    (found,) = re.findall(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def requirements() -> list[str]:
    extras = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]


def test_the_project_says_what_it_is():
    assert all(author["name"] for author in PROJECT["authors"])
    for path in (PROJECT["readme"], *PROJECT["license-files"]):
        assert (ROOT / path).is_file()
    assert PROJECT["license"] == "Apache-2.0 AND LicenseRef-Flickr8k-research-and-education"
    # A licence is an expression or a classifier, not both.
    assert not [text for text in PROJECT["classifiers"] if text.startswith("License")]
    assert "Typing :: Typed" in PROJECT["classifiers"] and (ROOT / "beamscribe" / "py.typed").exists()


def test_the_versions_of_python_are_the_same_everywhere():
    classified = {
        match[1] for text in PROJECT["classifiers"] if (match := re.fullmatch(r".*:: Python :: (3\.\d+)", text))
    }
    assert PROJECT["requires-python"] == ">=3.11,<3.13" and classified == {"3.11", "3.12"}
    checked = re.search(r"^VERSIONS = (.*)$", (ROOT / "requirements.py").read_text(), re.MULTILINE)
    assert checked and checked[1] == "((3, 11), (3, 12))"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == "3.11"


def test_every_requirement_has_a_tested_version():
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    # The resolver leaves out what builds the package.
    assert {name_of(requirement) for requirement in requirements()} - pinned == {"setuptools"}


def test_hooks_are_the_programs_of_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}
    programs = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    linted = re.findall(r"\$\(BIN\)/([^\n]*)", recipe_of("lint"))
    assert programs == {re.sub(r" --check| \.$", "", line).strip() for line in linted}
    assert "pre-commit" not in map(name_of, requirements())


def test_each_tier_has_a_target():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == set(FOLDERS) == set(PYPROJECT["tool"]["pytest"]["ini_options"]["norecursedirs"])
    for folder, target in FOLDERS.items():
        assert f"pytest tests/{folder}\n" in recipe_of(target)
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)[1].replace("\\\n", "").split()
    assert {*FOLDERS.values(), "test", "test-crash", "lint"} <= set(phony)
    assert [name for name in phony if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)] == []


@pytest.mark.parametrize("place", [".ci/run", "CONTRIBUTING.md"])
def test_what_every_change_must_pass(place):
    tiers = {
        ".ci/run": r"^for tier in (.*); do$",
        "CONTRIBUTING.md": r"^\| `\.ci/run` \| (.*), from a clean clone",
    }[place]
    found = re.search(tiers, (ROOT / place).read_text(), re.MULTILINE)
    assert found and re.findall(r"[a-z-]+", found[1].replace("make ", "")) == [
        "lint",
        "test",
        "test-wheel",
        "test-stores",
    ]


def test_tests_start_no_process_in_the_checkout():
    assert list(Path.cwd().iterdir()) == []
    assert not Path.cwd().is_relative_to(ROOT)
