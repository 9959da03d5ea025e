"""What works on machines for which tfx-bsl has no wheel, and what says that it needs it."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from beamscribe.jobs import cli
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import tf_examples
from beamscribe.pipelines.output import layout
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import reading
from beamscribe.pipelines.sources.base import ListOptions

ARM = "a machine with Linux on x86_64, or a Mac with Apple silicon"


@pytest.fixture
def records(tmp_path, make_photo):
    """A TFRecord file with one photo."""
    photo = make_photo(tmp_path / "photo.jpg").read_bytes()
    path = tmp_path / "photos.tfrecord.gz"
    path.write_bytes(tf_examples.tfrecord(pa.table({"image/encoded": [photo]})))
    return path


@pytest.fixture
def on_arm(monkeypatch):
    """As on a machine with Linux on Arm."""
    for name in ("tfx_bsl", "tfx_bsl.coders", "tfx_bsl.coders.example_coder"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tf_examples.platform, "system", lambda: "Linux")
    monkeypatch.setattr(tf_examples.platform, "machine", lambda: "aarch64")


def test_photos_are_captioned(tmp_path, make_photo, tiny_bundle):
    for index in range(3):
        make_photo(tmp_path / "photos" / f"{index}.jpg")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text("import sys\nsys.modules['tfx_bsl'] = None\n")
    job = ["caption", "--input", "photos", "--output", "out", "--bundle", str(tiny_bundle), "--export", "jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "beamscribe", *job],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hook")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "listed 3 = skipped 0 + taken over 0 + captioned 3 + failed 0" in done.stdout


def test_what_needs_it_says_so_in_one_line(records, on_arm, tmp_path, make_photo, tiny_bundle, capsys):
    make_photo(tmp_path / "photos" / "1.jpg")
    caption = ["caption", "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle), "--input"]
    prepare = ["prepare", "--recipe", "transformer"]
    prepare += [part for name in ("images", "captions", "split", "output") for part in (f"--{name}", "x")]
    for command, purpose, instead in (
        ([*caption, str(tmp_path / "photos"), "--export", "tfrecord"], "--export tfrecord", "choose jsonl, or "),
        ([*caption, str(records)], "a TFRecord file", "use another format, or "),
        (prepare, "training data", "use "),
    ):
        assert cli.main(command) == 1
        problem = f"{purpose} needs tfx-bsl, which has no wheel for Linux on aarch64; {instead}{ARM}"
        assert capsys.readouterr().err == f"beamscribe {command[0]}: {problem}\n"
    assert not (tmp_path / "out").exists()


def test_a_glob_that_matches_a_tfrecord_file_stops_the_job(records, on_arm, tmp_path, tiny_bundle, capsys):
    output = tmp_path / "out"
    given = ["--input", f"{tmp_path}/photo*", "--output", str(output), "--bundle", str(tiny_bundle)]
    assert cli.main(["caption", *given]) == 1
    # A row would say that the file is damaged, and no later run would try it again.
    assert "a TFRecord file needs tfx-bsl, which has no wheel for Linux on aarch64" in capsys.readouterr().err
    assert layout.committed_files(str(output)) == []
    refs = [PhotoRef(f"{records}#0", "1-0", 1, str(records), "tfrecord")]
    with pytest.raises(BeamscribeError, match="needs tfx-bsl"):
        list(reading.read_members(refs, ListOptions()))


def test_where_it_has_a_wheel_it_is_to_be_installed(on_arm, monkeypatch):
    monkeypatch.setattr(tf_examples.platform, "machine", lambda: "x86_64")
    with pytest.raises(BeamscribeError) as error:
        tf_examples.require("this")
    assert str(error.value) == "this needs tfx-bsl, which is not installed; install it: pip install tfx-bsl"
