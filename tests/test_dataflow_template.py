"""The Flex Template: its parameters, its images, and what its launcher makes of them."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from beamscribe.jobs import argparse_internals
from beamscribe.jobs.commands import caption
from beamscribe.model import caption_settings
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import InputError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "jobs" / "dataflow"
METADATA = json.loads((FOLDER / "metadata.json").read_text())
REGEXES = {parameter["name"]: parameter["regexes"] for parameter in METADATA["parameters"]}


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"dataflow_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main, template = script("main"), script("template")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(allow_abbrev=False)
    caption.add_arguments(options)
    return options


def test_each_option_is_a_parameter_and_each_parameter_an_option():
    options = {option for option in argparse_internals.names_in(parser()) if option.startswith("--")}
    # Nobody counts failures while a template's job runs, and it has no launcher to detach from.
    options -= {"--help", "--max-failures", "--detach"}
    assert {f"--{name.replace('_', '-')}" for name in REGEXES if name not in main.BEAMS} == options


def test_metadata_is_complete():
    for parameter in METADATA["parameters"]:
        assert parameter["label"] and parameter["helpText"].endswith("."), parameter
    required = {parameter["name"] for parameter in METADATA["parameters"] if not parameter.get("isOptional")}
    assert required == {"input", "output"}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "input",
            [
                *("gs://archive/photos", "gs://archive", "'gs://archive'"),
                *("gs://a-b/*.jpg 'gs://b.c/with space'", "gs://archive gs://others"),
                *("gs://archive/'with space'/x", '"gs://archive/it\'s"'),
            ],
            [
                *("/photos", "s3://a/b", "", "gs://A/b", "gs://archive,gs://others", "gs://archive /photos"),
                *("gs://archive/it's", '"gs://archive', "'gs://archive\""),
            ],
        ),
        ("output", ["gs://captions", "gs://captions/all"], ["captions", "gs://", "gs:/a/b", "file:///a"]),
        ("bundle", ["gs://models/mine"], ["model", "/model"]),
        ("gpu", ["nvidia-l4", "nvidia-l4:g2-standard-32"], ["l4", "nvidia-l4;count:2", "NVIDIA-L4", "nvidia-l4:"]),
        ("sdk_container_image", ["europe-docker.pkg.dev/p/r/worker:1"], ["a b", "-x"]),
        ("input_format", ["tar", "parquet"], ["rar", "tar zip"]),
        ("include", ["*.jpg", "2019/* 2020/*", "'with space' x"], ["", " *.jpg", "it's"]),
        ("exclude", ["thumbnails/*"], ["", '"x']),
        ("uri_column", ["uri", "photo uri"], ["", " "]),
        ("image_column", ["image/encoded"], [""]),
        ("name_column", ["__key__"], [""]),
        ("hidden", ["true", "false"], ["yes", "True"]),
        ("no_deduplicate", ["true", "false"], ["1"]),
        ("allow_empty", ["true", "false"], [""]),
        ("beam_width", ["1", "12", "100"], ["0", "-1", "3.5", "x", "101"]),
        ("max_length", ["20"], ["0", ""]),
        ("min_length", ["1"], ["0"]),
        ("no_repeat_ngram", ["0", "3"], ["-1", "00"]),
        ("top_p", ["0.9", "1", "1.0", ".05"], ["-0.1", "90%", "0", "0.0", "1.1", "5"]),
        ("temperature", ["0.7", "1", "10", "0.05", "1.5"], ["hot", "0", "0.0"]),
        ("batch_size", ["64"], ["0", "6.4"]),
        ("shard_size", ["512"], ["0"]),
        ("max_pixels", ["200000000"], ["2e8", "0"]),
        ("length_penalty", ["1", "0.7", ".7", "0", "10"], ["-1", "x", "1,5", "10.5", "99"]),
        ("seed", ["0", "42"], ["-1", "042"]),
        ("alternatives", ["0", "2"], ["-1"]),
        ("limit", ["1000"], ["1e3"]),
        ("recaption", ["all", "model settings"], ["everything", "model,settings"]),
        ("export", ["jsonl", "tfrecord"], ["csv"]),
    ],
)
def test_parameters_are_checked_before_anything_runs(name, good, bad):
    (regex,) = REGEXES[name]
    # Dataflow's are those of POSIX, without abbreviations.
    assert "\\" not in regex and "(?" not in regex
    assert all(re.fullmatch(regex, value) for value in good)
    assert not any(re.fullmatch(regex, value) for value in bad)


@pytest.mark.parametrize("name", ["top_p", "temperature", "length_penalty"])
def test_numbers_are_those_that_the_command_takes(name):
    settings = CaptionSettings(3, 20, top_p=0.9)
    if name == "length_penalty":
        settings = settings._replace(top_p=0.0)
    for value in (
        "0",
        "0.0",
        "0.001",
        ".5",
        "0.99",
        "1",
        "1.0",
        "1.01",
        "2",
        "9.99",
        "10",
        "10.0",
        "10.01",
        "11",
        "0.01",
        ".05",
        "100",
        "101",
    ):
        try:
            caption_settings.chosen({name: float(value)}, settings, 20)
            taken = True
        except InputError:
            taken = False
        assert bool(re.fullmatch(REGEXES[name][0], value)) == taken, value


def test_a_quotation_without_an_end_is_one_line():
    command = [sys.executable, str(FOLDER / "main.py"), "--input=gs://a/it's", "--output=gs://o"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    complaint = "beamscribe: input: gs://a/it's: No closing quotation; quote quotation marks, as in a shell"
    assert done.stderr.strip() == complaint


def test_parameters_become_the_command_line():
    given = [
        "--runner=DataflowRunner",
        "--template_location=gs://t/job",
        '--labels={"goog-dataflow": "flex"}',
        "--input=gs://a/b 'gs://a/c d'",
        "--output=gs://o",
        "--bundle=",
        "--gpu=nvidia-l4",
        "--hidden=true",
        "--no_deduplicate=false",
        "--beam_width=5",
        "--recaption=model failed",
    ]
    line = main.arguments(given, "worker:1")
    assert line[0] == "caption"
    options, beams = parser().parse_known_args(line[1:])
    assert options.inputs == ["gs://a/b", "gs://a/c d"] and options.output == "gs://o" and options.bundle is None
    assert options.hidden and options.deduplicate and options.gpu == "nvidia-l4"
    assert options.beam_width == 5 and options.recaption == ["model", "failed"]
    assert beams == [*given[:3], "--sdk_container_image=worker:1"]
    assert "--sdk_container_image=mine:2" in main.arguments(["--sdk_container_image=mine:2"], "worker:1")
    assert "--sdk_container_image=worker:1" not in main.arguments(["--sdk_container_image=mine:2"], "worker:1")


def test_images_are_made_of_the_tested_versions():
    versions = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    text = (FOLDER / "Dockerfile").read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    assert defaults["BEAM"] == versions["apache-beam"]
    assert f"python{defaults['PYTHON'].replace('.', '')}-" in defaults["LAUNCHER"] and ":latest" not in text
    assert text.count("--constraint constraints.txt") == text.count("pip install")
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in text
    assert f"ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/{FOLDER.joinpath('main.py').name}" in text
    # All that is copied is there, and gets past .dockerignore.
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists() and source.split("/")[0] in kept, source


def make_template(tmp_path, *options: str) -> subprocess.CompletedProcess:
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    command = [sys.executable, "jobs/dataflow/template.py", *options]
    # Without Docker on the path.
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/none"}, check=False)


def test_the_template_is_written_and_what_is_missing_said(tmp_path):
    done = make_template(tmp_path, "--repository", "europe-docker.pkg.dev/proj-123/images", "--tag", "1")
    assert done.returncode == 1
    written = json.loads((tmp_path / "build/dataflow/template.json").read_text())
    assert written["image"] == "europe-docker.pkg.dev/proj-123/images/beamscribe-launcher:1"
    assert written["metadata"] == METADATA and written["sdkInfo"] == {"language": "PYTHON"}
    first, *commands = done.stderr.splitlines()
    assert first == "dataflow-template: docker is not installed; to build the images on another machine, run:"
    assert [re.search(r"--target (\w+)", command)[1] for command in commands] == ["worker", "launcher"]


def test_a_repository_is_asked_for(tmp_path):
    done = make_template(tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "REPOSITORY=europe" in done.stderr


def test_incomplete_metadata_is_refused():
    with pytest.raises(ValueError, match="parameter input: helpText is missing"):
        template.specification({"parameters": [{"name": "input", "label": "Photos"}]}, "image")
