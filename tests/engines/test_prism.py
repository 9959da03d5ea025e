"""The captioning job on Prism, Beam's runner for one machine, as a binary of its own."""

import subprocess
import sys
from pathlib import Path

import psutil

from beamscribe.jobs import cli
from beamscribe.pipelines.output import layout
from tests import own_pipeline, packages, users_folder
from tests.archives import make_archive
from tests.engines.test_flink import rows_of, wait_until
from tests.test_counters import check_captioning
from tests.test_hostile import check_misbehaving_decoders

BINARY = str(Path(__file__).parents[2] / ".engines" / "bin" / "prism")
PRISM = ["--runner=PrismRunner", f"--prism_location={BINARY}"]


def running() -> list[psutil.Process]:
    """What runs of the binary."""
    return [p for p in psutil.process_iter(["exe"]) if p.info["exe"] == BINARY]


def test_it_ends_with_a_launcher_that_is_killed(tmp_path, tiny_bundle):
    photos = make_archive(tmp_path / "photos", 400)
    job = ["caption", "--input", str(photos), "--output", str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    launcher = psutil.Popen([sys.executable, "-m", "beamscribe", *job, "--shard-size", "8", *PRISM])
    wait_until(lambda: layout.committed_files(str(tmp_path / "out")))
    assert running()
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not running(), 10.0)


def test_captions_are_those_of_the_direct_runner(tmp_path):
    photos = make_archive(tmp_path / "photos", 200)
    job = ["caption", "--input", str(photos), "--shard-size", "32", "--output"]
    assert cli.main([*job, str(tmp_path / "direct")]) == 0
    command = [sys.executable, "-m", "beamscribe", *job, str(tmp_path / "prism"), *PRISM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "listed 200 = skipped 0 + taken over 0 + captioned 200 + failed 0" in done.stdout
    assert "Traceback" not in done.stderr and "ERROR" not in done.stderr, done.stderr
    expected, found = rows_of(tmp_path / "direct"), rows_of(tmp_path / "prism")
    for row in (*expected.values(), *found.values()):
        del row["written_at"]
    assert found == expected
    assert not running()


def test_a_decoder_that_aborts_or_hangs_costs_its_photo_alone(tmp_path, tiny_bundle, make_photo):
    check_misbehaving_decoders(tmp_path, tiny_bundle, make_photo, *PRISM)


def test_counters(tmp_path, tiny_bundle, make_photo):
    check_captioning(tmp_path, tiny_bundle, make_photo, *PRISM)


def test_a_pipeline_of_ones_own(tmp_path, tiny_bundle, make_photo):
    # One that a pipeline of this process has started stays until the process ends.
    before = {process.pid for process in running()}
    own_pipeline.check(tmp_path, tiny_bundle, make_photo, *PRISM)
    wait_until(lambda: {process.pid for process in running()} <= before, 10.0)


def test_no_module_of_the_user_is_imported(installed, tmp_path, tiny_bundle):
    photos = make_archive(tmp_path / "photos", 50)
    folder = users_folder.make(tmp_path / "folder")
    job = ["caption", "--input", photos, "--output", tmp_path / "out", "--bundle", tiny_bundle, "--shard-size", "16"]
    done = packages.start(installed.bin / "beamscribe", *job, *PRISM, folder=folder)
    assert users_folder.imported(folder) == ""
    assert done.returncode == 0, done.stderr
    assert "listed 50 = skipped 0 + taken over 0 + captioned 50 + failed 0" in done.stdout
    assert "Traceback" not in done.stderr, done.stderr


def test_what_a_user_may_get_wrong(tmp_path, capsys, make_photo):
    make_photo(tmp_path / "photos" / "1.jpg")
    job = ["caption", "--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--runner=PrismRunner"]
    assert cli.main([*job, f"--prism_location={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err == (
        f"beamscribe caption: --prism_location: there is no file {tmp_path / 'none'}; build it with `make prism`\n"
    )
