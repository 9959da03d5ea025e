"""What the documents say of the code is so: modules, links, options, subcommands."""

import argparse
import json
import re
import runpy
from pathlib import Path

import pytest

import beamscribe
from beamscribe.jobs import cli
from beamscribe.jobs.commands import caption
from beamscribe.model import bundle

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "samples").glob("*.md")])
README = (ROOT / "README.md").read_text()


def table_after(text: str, line: str) -> list[list[str]]:
    """The cells of each row of the first table after a line."""
    rows = re.search(r"\n((?:\|.*\n)+)", text[text.index(f"\n{line}\n") :])[1].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize("folder", ["pipelines", "model", "jobs"])
def test_the_tables_of_modules_name_every_module(folder):
    named, rooms = [], [ROOT / folder]
    for cells in table_after((ROOT / "docs" / "architecture.md").read_text(), f"### {folder}/"):
        names = re.findall(r"`([^`]+)`", cells[0])
        if cells[0].startswith("**"):
            rooms = [ROOT / folder / name for name in names]
        else:
            found = [[room / name for room in rooms if (room / name).exists()] for name in names]
            assert all(found), f"{rooms} hold not all of {names}"
            named += [paths[0] for paths in found]
    modules = {path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py"}
    assert {path for path in named if path.suffix == ".py" and path.name != "__init__.py"} == modules
    assert len(named) == len(set(named))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document):
    # A name in capitals stands for any.
    named = re.findall(r"`((?:benchmarks|docs|jobs|model|pipelines|samples|tests)/[a-z0-9_./]*)`", document.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_options_of_caption_are_those_of_the_command():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    caption.add_arguments(parser)
    table = table_after(README, "Options of `caption`:")
    listed = [option for cells in table for option in re.findall(r"--[a-z-]+", cells[0])]
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    # Those of Beam are in the last row.
    assert set(listed[:-1]) - {"--runner"} == options - {"--help"}
    assert len(listed) == len(set(listed))


def test_defaults_of_caption_are_those_of_the_command():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    caption.add_arguments(parser)
    settings = json.loads((bundle.DEFAULT / bundle.DESCRIPTION).read_text())["settings"]
    checked = 0
    for names, default, *_ in table_after(README, "Options of `caption`:"):
        if default.startswith("the bundle's: "):
            (name,) = re.findall(r"--([a-z-]+)", names)
            assert float(default.removeprefix("the bundle's: ")) == settings[name.replace("-", "_")]
            checked += 1
        elif default.isdigit():
            (name,) = re.findall(r"--([a-z-]+)", names)
            assert int(default) == parser.get_default(name.replace("-", "_"))
            checked += 1
    assert checked == 8


def test_subcommands_are_those_of_the_command():
    table = table_after(README, "## Commands")
    assert [re.match(r"`beamscribe (\w+)", cells[0])[1] for cells in table] == list(cli.COMMANDS)


def test_the_page_of_the_api_is_that_of_the_docstrings():
    made = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    assert made["PAGE"].read_text() == made["page"](), "call `make docs`"
    names = [name for group in made["GROUPS"].values() for name in group]
    assert sorted(names) == beamscribe.__all__
