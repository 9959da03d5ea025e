"""The wheel and the sdist, and what a user can do who has the wheel and no checkout."""

import email
import email.message
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import packages, users_folder

SAMPLES = packages.ROOT / "samples"


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, but for the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def metadata(wheel: Path) -> email.message.Message:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(contents(wheel)[name])


@pytest.mark.parametrize("options", [[], ["--direct_num_workers", "2", "--direct_running_mode", "multi_processing"]])
def test_it_captions_in_a_folder_with_modules_of_the_user(installed, tmp_path, options):
    folder = users_folder.make(tmp_path / "folder")
    command = [installed.bin / "beamscribe", "caption", "--input", SAMPLES, "--output", tmp_path / "out", *options]
    done = packages.start(*command, folder=folder)
    assert users_folder.imported(folder) == ""
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^listed (\d+) = skipped 0 \+ taken over 0 \+ captioned (\d+) \+ failed 1$", done.stdout, re.MULTILINE
    )
    assert "Traceback" not in done.stderr


def test_its_functions_caption_too(installed, tmp_path):
    script = f"import beamscribe; report = beamscribe.caption({str(SAMPLES)!r}, 'out')\n"
    script += "print(report.captioned, beamscribe.read('out', ['photo']).num_rows, beamscribe.__version__)"
    said = packages.run(installed.bin / "python", "-P", "-c", script, folder=tmp_path)
    assert re.fullmatch(r"12 13 \d+\.\d+\.\d+\n", said)


def test_the_checkout_is_not_on_its_path(installed, tmp_path):
    script = "import beamscribe.jobs.cli as cli, sys; print(cli.__file__); print(*sys.path, sep='\\n')"
    module, *path = packages.run(installed.bin / "python", "-P", "-c", script, folder=tmp_path).splitlines()
    assert Path(module).is_relative_to(installed.packages)
    assert str(packages.ROOT) not in path
    script = "import importlib.util; print(importlib.util.find_spec('benchmarks'))"
    assert packages.run(installed.bin / "python", "-P", "-c", script, folder=tmp_path) == "None\n"


def test_it_installs_nothing_under_a_general_name(installed):
    names = {path.name for path in installed.packages.iterdir()}
    assert names == {"beamscribe", "libraries.pth", *(name for name in names if name.startswith("beamscribe-"))}
    folders = {path.name for path in (installed.packages / "beamscribe").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == {"jobs", "model", "pipelines"}


def test_it_says_what_it_is_and_under_which_terms(wheel):
    found = metadata(wheel)
    assert found["Name"] == "beamscribe"
    assert found["License-Expression"] == "Apache-2.0 AND LicenseRef-Flickr8k-research-and-education"
    assert found.get_all("License-File") == ["LICENSE", "model/default_bundle/LICENSE"]
    assert found["Author"] or found["Author-email"]
    assert found["Requires-Python"] and found["Description-Content-Type"] == "text/markdown"
    classifiers = found.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    # With a licence expression there may be none.
    assert not [classifier for classifier in classifiers if classifier.startswith("License")]
    versions = {match[1] for text in classifiers if (match := re.fullmatch(r".*:: Python :: (3\.\d+)", text))}
    assert versions == {"3.11", "3.12"}
    files = contents(wheel)
    (information,) = {name.partition("/")[0] for name in files if name.endswith(".dist-info/METADATA")}
    for name in found.get_all("License-File"):
        assert files[f"{information}/licenses/{name}"] == (packages.ROOT / name).read_bytes()
    assert {"beamscribe/py.typed", "beamscribe/__init__.pyi"} <= {*files}
    bundled = "model/default_bundle/LICENSE"
    assert files[f"beamscribe/{bundled}"] == files[f"{information}/licenses/{bundled}"]


def test_it_holds_all_that_a_job_reads(wheel):
    files = contents(wheel)
    for folder, pattern in (
        ("model/default_bundle", "**/*"),
        ("model/recipes", "*"),
        ("model/encoders/weights", "*"),
        ("pipelines/output", "*.html"),
        ("jobs/flink", "*.yaml"),
        *((folder, "**/*.py") for folder in ("model", "pipelines", "jobs/commands", "jobs/runners", "jobs/flink")),
    ):
        for path in (packages.ROOT / folder).glob(pattern):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"beamscribe/{path.relative_to(packages.ROOT)}" in files


def test_packages_hold_real_files(wheel, sdist):
    with zipfile.ZipFile(wheel) as archive:
        modes = [info.external_attr >> 16 for info in archive.infolist()]
    assert not any(stat.S_ISLNK(mode) for mode in modes)
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        names = archive.getnames()
    assert sum(name.endswith("/beamscribe/jobs/cli.py") for name in names) == 1


def test_the_sdist_makes_the_same_wheel(wheel, sdist, tmp_path):
    again = contents(packages.build_wheel(sdist, tmp_path))
    expected = contents(wheel)
    assert again.keys() == expected.keys()
    assert [name for name in expected if again[name] != expected[name]] == []
