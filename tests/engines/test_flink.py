"""The captioning job on a real Flink cluster: a job manager and task managers, all processes of their own."""

import argparse
import collections
import contextlib
import copy
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.jobs import cli
from beamscribe.jobs.commands import caption
from beamscribe.jobs.flink.cluster import INSTALLED, Cluster, flink_version
from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines.output import layout, rows
from tests import own_pipeline
from tests.archives import make_archive

FOLDER = Path(__file__).parents[2] / "jobs" / "flink"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Two task managers of one slot each."""
    cluster = Cluster(tmp_path_factory.mktemp("flink"), free_ports(3))
    cluster.start(2)
    yield cluster
    sessions = {int(path.read_text().split()[0]) for path in (cluster.folder / "pids").iterdir()}
    # Of a manager that was killed, too, which leaves its workers behind.
    assert processes_of(sessions)
    cluster.stop()
    wait_until(lambda: not processes_of(sessions), 10)


def processes_of(sessions: set[int]) -> list[psutil.Process]:
    """The processes of some sessions that run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens at."""
    for first in range(20000, 30000, 10):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("localhost", port))
            return first
    raise AssertionError("no free ports")


def arguments(photos: Path, output: Path, bundle: Path | None, shard_size: int) -> list[str]:
    options = ["--bundle", str(bundle)] if bundle else []
    return ["caption", "--input", str(photos), "--output", str(output), "--shard-size", str(shard_size), *options]


def start(cluster: Cluster, job: list[str], log: Path, parallelism: int = 2) -> psutil.Popen:
    command = [sys.executable, "-m", "beamscribe", *job, *cluster.options(), f"--parallelism={parallelism}"]
    with open(log, "wb") as file:
        return psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def rows_of(output: Path) -> dict[str, dict]:
    """All rows by their photos, each of which has one."""
    found = [row for path in layout.committed_files(str(output)) for row in rows.read_table(path).to_pylist()]
    by_photo = {row["photo"]: row for row in found}
    assert len(by_photo) == len(found)
    return by_photo


def wait_until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ends(cluster: Cluster) -> dict[str, int]:
    """How long each task manager's log is."""
    return {path.stem: path.stat().st_size for path in (cluster.folder / "logs").glob("task-manager*")}


def logged(cluster: Cluster, pattern: str, since: dict[str, int]) -> list[tuple[str, ...]]:
    """What the task managers' logs say behind some places, manager by manager: its name, and the pattern's groups."""
    return [
        (path.stem, *match.groups())
        for path in sorted((cluster.folder / "logs").glob("task-manager*"))
        for match in re.finditer(pattern, path.read_bytes()[since.get(path.stem, 0) :].decode(errors="replace"))
    ]


def shards_begun(cluster: Cluster, since: dict[str, int]) -> list[tuple[str, str, int]]:
    """Which manager and process began which shard, each time that one did."""
    found = logged(cluster, r"process (\d+) captions shard (\d+)", since)
    return [(name, pid, int(shard)) for name, pid, shard in found]


def committed_shards(output: Path) -> set[int]:
    return {int(path[-13:-8]) for path in layout.committed_files(str(output))}


def began_again(cluster: Cluster) -> bool:
    """Whether the latest job was begun again, as the job manager says."""
    job = max(cluster.get("jobs/overview")["jobs"], key=lambda job: job["start-time"])
    return cluster.get(f"jobs/{job['jid']}")["timestamps"]["RESTARTING"] > 0


def test_captions_are_those_of_the_direct_runner(cluster, tmp_path):
    photos = make_archive(tmp_path / "photos", 2000)
    assert cli.main(arguments(photos, tmp_path / "direct", None, 32)) == 0
    since = ends(cluster)
    job = start(cluster, arguments(photos, tmp_path / "flink", None, 32), tmp_path / "log")
    assert job.wait(600) == 0, (tmp_path / "log").read_text()
    expected, found = rows_of(tmp_path / "direct"), rows_of(tmp_path / "flink")
    assert len(found) == 2000
    for row in (*expected.values(), *found.values()):
        del row["written_at"]
    assert found == expected
    # Every worker process loaded the model once, and each did a good share of the shards, none of which was done twice.
    begun = shards_begun(cluster, since)
    workers = collections.Counter(pid for _, pid, _ in begun)
    assert sorted(pid for _, pid in logged(cluster, r"process (\d+) loads the model", since)) == sorted(workers)
    assert len(workers) == 2 and min(workers.values()) >= len(begun) // 4
    assert len(begun) == len({shard for _, _, shard in begun}) == len(layout.committed_files(str(tmp_path / "flink")))


def test_a_task_manager_is_killed(cluster, tmp_path, tiny_bundle):
    photos = make_archive(tmp_path / "photos", 800)
    cluster.add_task_manager()
    cluster.wait_for(3)
    output = tmp_path / "out"
    since = ends(cluster)
    job = start(cluster, arguments(photos, output, tiny_bundle, 8), tmp_path / "log")
    wait_until(lambda: len(committed_shards(output)) >= 50)
    at_work = {name for name, *_ in shards_begun(cluster, since)} & cluster.task_managers().keys()
    cluster.task_managers()[min(at_work)].kill()
    check_the_rest(cluster, job, output, tmp_path / "log")


def check_the_rest(cluster: Cluster, job: psutil.Popen, output: Path, log: Path) -> None:
    """A job that was hit just now begins again, does what was not committed, and nothing else."""
    done = committed_shards(output)
    # What was begun before is in the logs then, and nothing yet of what comes after: a restart takes 20 seconds.
    time.sleep(3)
    since = ends(cluster)
    assert job.wait(400) == 0, log.read_text()
    assert began_again(cluster)
    found = rows_of(output)
    assert len(found) == 800 and all(row["status"] == "captioned" for row in found.values())
    begun = {shard for *_, shard in shards_begun(cluster, since)}
    assert begun and not begun & done


def test_a_worker_is_killed(cluster, tmp_path, tiny_bundle):
    photos = make_archive(tmp_path / "photos", 800)
    output = tmp_path / "out"
    since = ends(cluster)
    job = start(cluster, arguments(photos, output, tiny_bundle, 8), tmp_path / "log")
    wait_until(lambda: len(committed_shards(output)) >= 50)
    # The other one may have done its part already.
    at_work = [pid for _, pid, shard in shards_begun(cluster, since) if shard not in committed_shards(output)]
    psutil.Process(int(at_work[0])).kill()
    check_the_rest(cluster, job, output, tmp_path / "log")


def test_a_job_goes_on_without_its_launcher(cluster, tmp_path, tiny_bundle, capsys):
    photos = make_archive(tmp_path / "photos", 800)
    output = tmp_path / "out"
    job = start(cluster, arguments(photos, output, tiny_bundle, 8), tmp_path / "log")
    wait_until(lambda: committed_shards(output))
    programs = job.children(recursive=True)
    # Beam's job server.
    assert "java" in [process.name() for process in programs]
    job.kill()
    job.wait()
    _, alive = psutil.wait_procs(programs, 10)
    assert not alive
    again = arguments(photos, output, tiny_bundle, 8)
    assert cli.main(again) == 4
    assert re.search(
        r"in use: run \S+ \(process \d+ on \S+; job beamscribe-\S+ on FlinkRunner\)", capsys.readouterr().err
    )
    wait_until(lambda: has_ended(cluster))
    assert cli.main(again) == 0
    assert "listed 800 = skipped 800" in capsys.readouterr().out
    assert len(rows_of(output)) == 800


def has_ended(cluster: Cluster) -> bool:
    """Whether the cluster runs no job."""
    running = ("RUNNING", "RESTARTING", "CREATED", "INITIALIZING")
    return not any(job["state"] in running for job in cluster.get("jobs/overview")["jobs"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_stopped_asks_its_job_to_end(cluster, tmp_path, tiny_bundle, number):
    photos = make_archive(tmp_path / "photos", 800)
    output, log = tmp_path / "out", tmp_path / "log"
    job = start(cluster, arguments(photos, output, tiny_bundle, 8), log)
    wait_until(lambda: committed_shards(output))
    job.send_signal(number)
    assert job.wait(30) == -number
    line = (
        f"beamscribe caption: stopped by {number.name}; committed captions stay, run the same command again to go on\n"
    )
    assert log.read_text() == line
    wait_until(lambda: has_ended(cluster))
    assert 0 < len(rows_of(output)) < 800


def test_a_detached_job_writes_its_own_report(cluster, tmp_path, tiny_bundle, capsys):
    photos = make_archive(tmp_path / "photos", 200)
    output, log = tmp_path / "out", tmp_path / "log"
    job = start(cluster, [*arguments(photos, output, tiny_bundle, 8), "--detach"], log)
    assert job.wait(200) == 0, log.read_text()
    assert "running:  beamscribe-" in log.read_text() and not list(output.glob("runs/*/report.json"))
    assert cli.main(arguments(photos, output, tiny_bundle, 8)) == 4
    wait_until(lambda: has_ended(cluster))
    (run,) = (output / "runs").iterdir()
    assert (run / "_SUCCESS").exists() and (run / "config.json").exists()
    assert len(rows_of(output)) == 200
    assert cli.main(arguments(photos, output, tiny_bundle, 8)) == 0
    assert "listed 200 = skipped 200" in capsys.readouterr().out


def test_a_detached_job_is_stopped(cluster, tmp_path, tiny_bundle, capsys):
    photos = make_archive(tmp_path / "photos", 800)
    output, log = tmp_path / "out", tmp_path / "log"
    job = start(cluster, [*arguments(photos, output, tiny_bundle, 8), "--detach"], log)
    assert job.wait(200) == 0, log.read_text()
    wait_until(lambda: committed_shards(output))
    assert cli.main(["stop", str(output)]) == 0
    assert "takes no more shards" in capsys.readouterr().out
    wait_until(lambda: has_ended(cluster))
    (run,) = (output / "runs").iterdir()
    assert (run / "report.json").exists() and not (run / "_SUCCESS").exists()
    assert 0 < len(rows_of(output)) < 800


def test_a_pipeline_of_ones_own(cluster, tmp_path, tiny_bundle, make_photo):
    own_pipeline.check(tmp_path, tiny_bundle, make_photo, *cluster.options(), "--parallelism=2")


def test_what_a_user_may_get_wrong(cluster, tmp_path, capsys, make_photo):
    make_photo(tmp_path / "photos" / "1.jpg")
    job = ["caption", "--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--runner=FlinkRunner"]
    assert cli.main([*job, "--flink_master=localhost:1"]) == 1
    assert "--flink_master: no Flink job manager answers at http://localhost:1: " in capsys.readouterr().err
    command = [sys.executable, "-m", "beamscribe.jobs.flink.cluster", "start", "--folder", str(cluster.folder)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and "runs already; stop it first" in second.stderr
    assert cluster.get("overview")["taskmanagers"] >= 2


def test_the_cluster_leaves_nothing_running(tmp_path):
    cluster = Cluster(tmp_path / "flink", free_ports(3))
    cluster.start(1)
    processes = list(cluster._running().values())
    assert len(processes) == 2
    cluster.stop()
    _, alive = psutil.wait_procs(processes, 10)
    assert not alive


def test_processes_of_others_are_left_alone(tmp_path):
    """Those whose session has, by now, the number that one of a manager had."""
    (tmp_path / "flink" / "pids").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path, start_new_session=True) as other:
        pid_file = tmp_path / "flink" / "pids" / "task-manager-0"
        pid_file.write_text(f"{other.pid} {psutil.boot_time():.0f}")
        Cluster(tmp_path / "flink").stop()
        # What no cluster of ours has written is not read, nor deleted.
        assert pid_file.exists()
        (tmp_path / "flink" / "flink-cluster").touch()
        Cluster(tmp_path / "flink").stop()
        assert not pid_file.exists()
        time.sleep(0.5)
        assert other.poll() is None
        other.kill()


def test_all_ports_are_looked_at(tmp_path):
    first = free_ports(3)
    complaint = f"port {first + 2} is in use; give the first of 3 free ports in a row with --port"
    with socket.create_server(("localhost", first + 2)), pytest.raises(BeamscribeError, match=complaint):
        Cluster(tmp_path / "flink", first).start(1)
    assert not (tmp_path / "flink").exists()


def strict(schema: dict) -> dict:
    """A schema that knows all names: that of the operator lets others pass."""
    for value in schema.values():
        if isinstance(value, dict):
            strict(value)
    if "properties" in schema and isinstance(schema["properties"], dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def test_the_manifests_are_what_kubernetes_and_the_operator_take():
    deployment, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    with zipfile.ZipFile(INSTALLED / "flink" / "flink-kubernetes-operator-api.jar") as jar:
        definition = yaml.safe_load(jar.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"))
    (version,) = (v for v in definition["spec"]["versions"] if deployment["apiVersion"].endswith(v["name"]))
    schema = strict(version["schema"]["openAPIV3Schema"])
    # They are of every resource.
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    jsonschema.validate(deployment, schema)
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**deployment, "spec": {**deployment["spec"], "taskManagers": {}}}, schema)
    assert deployment["spec"]["flinkVersion"] == f"v{flink_version().replace('.', '_')}"
    assert deployment["spec"]["image"] and deployment["spec"]["serviceAccount"]
    settings = deployment["spec"]["flinkConfiguration"]
    for name, value in yaml.safe_load((FOLDER / "config.yaml").read_text()).items():
        # Addresses are the operator's business.
        if not name.startswith(("jobmanager.", "taskmanager.", "rest.")):
            assert settings[name] == str(value)


def test_the_manifests_fit_each_other_and_the_images():
    deployment, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["taskManager"]["podTemplate"]["spec"]
    launcher = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    # The definition of the operator does not look into pods.
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}, "spec": copy.deepcopy(pod)}
    whole["spec"]["containers"][0]["image"] = deployment["spec"]["image"]
    kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        bad = {**whole, "spec": {"containers": [{"image": "x"}]}}
        kubernetes_validate.validate(bad, kubernetes_validate.latest_version(), strict=True)
    ours = launcher["containers"][0]["args"]
    assert ours[0] == "caption"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    caption.add_arguments(parser)
    _, beams = parser.parse_known_args(ours[1:])
    given = PipelineOptions(beams).get_all_options(drop_default=True)
    slots = int(deployment["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    (port,) = pod["containers"][1]["ports"]
    assert given == {
        "runner": "FlinkRunner",
        "flink_master": f"{deployment['metadata']['name']}-rest:8081",
        "flink_version": flink_version(),
        "flink_job_server_jar": "/opt/runner.jar",
        "environment_type": "EXTERNAL",
        "environment_config": f"localhost:{port['containerPort']}",
        "parallelism": slots * deployment["spec"]["taskManager"]["replicas"],
    }
    assert f" {given['flink_job_server_jar']}\n" in (FOLDER / "Dockerfile").read_text()
    # By it a worker tells how many photos to decode at once.
    assert "cpu" in pod["containers"][1]["resources"]["limits"]
    # Photos and captions lie in the same place for all.
    for of in (pod, launcher):
        mounts = of["containers"][-1]["volumeMounts"]
        assert mounts == launcher["containers"][0]["volumeMounts"] and of["volumes"] == launcher["volumes"]
        assert [mount["name"] for mount in mounts] == [volume["name"] for volume in of["volumes"]]


def test_the_images_have_the_versions_that_are_tested():
    lines = (FOLDER / "Dockerfile").read_text()
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text()
    assert f"apache-beam=={re.search(r'ARG BEAM=(.*)', lines)[1]}\n" in constraints
    assert re.search(r"ARG FLINK=(.*)", lines)[1] == flink_version()
