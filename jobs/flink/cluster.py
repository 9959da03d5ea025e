"""A Flink cluster on this machine: a job manager and some task managers, each a process of its own.

Flink's own ports are on loopback; those that Beam opens in the cluster listen at all addresses of the machine.

    python -m beamscribe.jobs.flink.cluster start
    python -m beamscribe.jobs.flink.cluster stop

`make flink` installs what it needs: Flink, Beam's runner for it, and Beam's `boot`, which starts Python workers.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

from beamscribe.model.errors import BeamscribeError

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".engines"
FOLDER = INSTALLED / "flink" / "cluster"

# Ports of the job manager: that of its REST interface, and the two after it.
_PORTS = 3
# Seconds that managers may take to start.
_PATIENCE = 90.0

# Packages that Flink looks into by reflection (its own start scripts open the same).
_OPENED = (
    *(f"java.base/java.{name}" for name in ("lang", "net", "io", "nio", "util", "text", "time")),
    *(f"java.base/java.{name}" for name in ("util.concurrent", "lang.reflect")),
    "java.base/sun.nio.ch",
)
# Without those scripts, each part of a task manager's memory must be given. Python workers have memory of their own.
_MEMORY = {
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "300m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}


class Cluster:
    """The processes of a cluster.

    Args:
      folder: of its configuration and its logs.
      port: of the job manager's REST interface.
      slots: of each task manager: tasks that it runs at once, in one Python process.
      programs: the folder with the `python` that workers run; that of this process by default.

    Attributes:
      address: of the REST interface, as `--flink_master` takes it.
      worker: the command that starts Python workers.
    """

    def __init__(self, folder: Path = FOLDER, port: int = 8081, slots: int = 1, programs: Path | None = None):
        self.folder, self.address = folder, f"localhost:{port}"
        self.worker = folder / "worker"
        self._port, self._slots, self._programs = port, slots, programs or Path(sys.executable).parent

    def start(self, task_managers: int) -> None:
        """Starts all managers, and waits until they answer.

        Raises:
          BeamscribeError: a program is not installed, a cluster of the folder or another program at its ports runs
            already, or a manager does not start.
        """
        if not (INSTALLED / "flink" / "runner.jar").exists() or not (INSTALLED / "bin" / "boot").exists():
            raise BeamscribeError("Flink is not installed; run `make flink`")
        if self._running():
            raise BeamscribeError(f"a cluster of the folder {self.folder} runs already; stop it first")
        if any(self.folder.glob("*")) and not self._mark.exists():
            raise BeamscribeError(f"the folder {self.folder} holds other files; give an empty one with --folder")
        for port in range(self._port, self._port + _PORTS):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    raise BeamscribeError(
                        f"port {port} is in use; give the first of {_PORTS} free ports in a row with --port"
                    )
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "logs").mkdir(parents=True)
        self._mark.touch()
        self._configure()
        try:
            self._launch("job-manager", "entrypoint.StandaloneSessionClusterEntrypoint", "-Xmx700m", [])
            for _ in range(task_managers):
                self.add_task_manager()
            self.wait_for(task_managers)
        except BaseException:
            self.stop()
            raise

    def add_task_manager(self) -> psutil.Process:
        """Starts one more task manager."""
        name = f"task-manager-{sum(path.name.startswith('task-manager') for path in self._pids())}"
        memory = [f"-D{key}={value}" for key, value in {**_MEMORY, "taskmanager.cpu.cores": "1.0"}.items()]
        return self._launch(
            name, "taskexecutor.TaskManagerRunner", "-Xmx428m", [*memory, f"-Dtaskmanager.resource-id={name}"]
        )

    @property
    def job_manager(self) -> psutil.Process:
        """The process of the job manager."""
        return self._running()["job-manager"]

    def task_managers(self) -> dict[str, psutil.Process]:
        """The task managers that run, by their names."""
        return {name: process for name, process in self._running().items() if name.startswith("task-manager")}

    def wait_for(self, task_managers: int) -> None:
        """Waits until so many task managers have registered.

        Raises:
          BeamscribeError: they have not within 90 seconds.
        """
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.get("overview")["taskmanagers"] == task_managers:
                    return
            time.sleep(0.5)
        raise BeamscribeError(f"Flink has not started within {_PATIENCE:.0f} s; see its logs in {self.folder / 'logs'}")

    def get(self, path: str) -> Any:
        """What the REST interface answers.

        Raises:
          OSError: it does not.
        """
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=10) as response:
            return json.load(response)

    def stop(self) -> None:
        """Ends all processes of the cluster: managers, workers, and the workers of managers that were killed."""
        if not self._mark.exists():
            return
        sessions = {int(path.read_text().split()[0]) for path in self._pids() if self._is_of_this_start(path)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # The number of a session that has ended may be another one's by now, whose folder is another.
                if os.getsid(process.pid) in sessions and os.path.samefile(process.cwd(), self.folder):
                    process.send_signal(signal.SIGKILL)
        shutil.rmtree(self.folder / "pids", ignore_errors=True)

    def options(self) -> list[str]:
        """Options of `beamscribe caption` to run on it."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master={self.address}",
            f"--flink_version={flink_version()}",
            f"--flink_job_server_jar={INSTALLED / 'flink' / 'runner.jar'}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(self.worker)})}",
        ]

    def _configure(self) -> None:
        configuration = yaml.safe_load((Path(__file__).parent / "config.yaml").read_text(encoding="utf-8"))
        configuration |= {
            "rest.port": self._port,
            "jobmanager.rpc.port": self._port + 1,
            "blob.server.port": self._port + 2,
            "taskmanager.numberOfTaskSlots": self._slots,
            "io.tmp.dirs": str(self.folder / "tmp"),
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        self.worker.write_text(
            "#!/bin/sh\n"
            "# Workers use this installation of Python; a package that a job brings is installed into it.\n"
            "export RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1\n"
            f"export PATH='{self._programs}':\"$PATH\"\n"
            "# No file of the folder that it is started in is taken for a module of Python's or a library's.\n"
            "export PYTHONSAFEPATH=1\n"
            f"exec '{INSTALLED / 'bin' / 'boot'}' \"$@\" --semi_persist_dir='{self.folder / 'workers'}'\n",
            encoding="utf-8",
        )
        self.worker.chmod(0o755)

    def _launch(self, name: str, main: str, heap: str, options: list[str]) -> psutil.Process:
        java = shutil.which("java")
        if java is None:
            raise BeamscribeError("the program java is not installed; install a Java runtime, version 17")
        command = [java, heap, *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED)]
        command += ["-cp", f"{INSTALLED / 'flink' / 'libs'}/*", f"org.apache.flink.runtime.{main}"]
        command += ["--configDir", str(self.folder), *options]
        with open(self.folder / "logs" / f"{name}.log", "ab") as log:
            # In a session of its own: all that it starts can be found again. Beam's `boot` writes to the folder that it
            # is started in.
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True
            )
        (self.folder / "pids").mkdir(exist_ok=True)
        (self.folder / "pids" / name).write_text(f"{process.pid} {psutil.boot_time():.0f}", encoding="utf-8")
        return psutil.Process(process.pid)

    @property
    def _mark(self) -> Path:
        return self.folder / "flink-cluster"

    def _pids(self) -> list[Path]:
        return sorted((self.folder / "pids").glob("*"))

    @staticmethod
    def _is_of_this_start(path: Path) -> bool:
        """Whether a process id was written since this start of the machine: an earlier one was another process's."""
        return abs(float(path.read_text().split()[1]) - psutil.boot_time()) < 60.0

    def _running(self) -> dict[str, psutil.Process]:
        running = {}
        for path in filter(self._is_of_this_start, self._pids()):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(int(path.read_text().split()[0]))
                if process.status() != psutil.STATUS_ZOMBIE and "org.apache.flink" in " ".join(process.cmdline()):
                    running[path.name] = process
        return running


def flink_version() -> str:
    """The version of Flink that is installed, as Beam names it; its one home is `pom.xml`."""
    pom = (Path(__file__).parent / "pom.xml").read_text(encoding="utf-8")
    return pom.partition("<flink.version>")[2].partition("<")[0]


def main() -> int:
    """Starts or stops a cluster."""
    parser = argparse.ArgumentParser(
        prog="python -m beamscribe.jobs.flink.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--task-managers", type=int, default=2, metavar="N", help="number of task managers (2)")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="tasks that a task manager runs at once (1)")
    parser.add_argument(
        "--port", type=int, default=8081, help="port of the job manager's REST interface, the first of three (8081)"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the configuration and logs")
    chosen = parser.parse_args()
    cluster = Cluster(chosen.folder.absolute(), chosen.port, chosen.slots)
    try:
        if chosen.action == "stop":
            cluster.stop()
            return 0
        cluster.start(chosen.task_managers)
    except BeamscribeError as error:
        print(f"flink: {error}", file=sys.stderr)
        return 1
    parallelism = chosen.task_managers * chosen.slots
    options = shlex.join([*cluster.options(), f"--parallelism={parallelism}"])
    print(f"Flink runs: http://{cluster.address}\n\nbeamscribe caption --input … --output … {options}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
