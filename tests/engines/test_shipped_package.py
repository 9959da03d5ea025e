"""The captioning job on Flink, started by a user who has the wheel, and whose workers get the package with the job."""

import pytest

from beamscribe.jobs.flink.cluster import Cluster
from tests import packages, users_folder
from tests.archives import make_archive
from tests.engines.test_flink import free_ports, rows_of
from tests.packages import Environment


@pytest.fixture
def workers(tmp_path) -> Environment:
    """An environment without the package: Beam's `boot` installs into it what a job brings."""
    return Environment(tmp_path / "workers")


@pytest.fixture
def cluster(tmp_path, workers):
    """One task manager, whose folder, in which workers start, holds modules of the user's own, too."""
    cluster = Cluster(tmp_path / "flink", free_ports(3), programs=workers.bin)
    cluster.start(1)
    users_folder.make(cluster.folder)
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("option", ["--setup_file", "--extra_package"])
def test_no_module_of_the_user_is_imported(installed, wheel, workers, cluster, tmp_path, tiny_bundle, option):
    photos = make_archive(tmp_path / "photos", 50)
    folder = users_folder.make(tmp_path / "folder")
    job = ["caption", "--input", photos, "--output", tmp_path / "out", "--bundle", tiny_bundle, "--shard-size", "16"]
    shipped = wheel if option == "--extra_package" else packages.copy_checkout(tmp_path / "checkout") / "setup.py"
    command = [installed.bin / "beamscribe", *job, *cluster.options(), option, shipped]
    done = packages.start(*command, folder=folder, timeout=400)
    assert users_folder.imported(folder) == "" and users_folder.imported(cluster.folder) == ""
    assert done.returncode == 0, done.stderr
    assert "listed 50 = skipped 0 + taken over 0 + captioned 50 + failed 0" in done.stdout
    assert len(rows_of(tmp_path / "out")) == 50
    assert (workers.packages / "beamscribe" / "jobs" / "cli.py").exists()
