"""The same job on the runners of one machine: speed and memory, beside the direct runner.

Prints for each runner: photos/s, start-up left out, and seconds in all; peak memory of all its processes; ratios to the
direct runner in one process. For Flink, a cluster of this machine, also how many shards each worker took. Needs
what `make prism flink` installs.

    python -m benchmarks.runners --images flickr8k/images --limit 2000
"""

import argparse
import collections
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from beamscribe.jobs.flink.cluster import INSTALLED, Cluster
from beamscribe.model import bundle
from benchmarks.pipeline import caption

_PORT = 18081


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos, some thousands")
    parser.add_argument("--limit", default="2000", metavar="N", help="take the first N of them (2000)")
    parser.add_argument("--shard-size", default="32", metavar="N", help="photos a shard (32)")
    options = parser.parse_args()
    several = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    measured = {
        "direct runner": measure(options, []),
        "direct runner, two processes": measure(options, several),
        "Prism": measure(options, ["--runner=PrismRunner", f"--prism_location={INSTALLED / 'bin' / 'prism'}"]),
    }
    shares = {}
    for slots in (1, 2):
        name = f"Flink, {slots} of 2 slots"
        with cluster_of_two() as cluster:
            managers = cluster.job_manager, *cluster.task_managers().values()
            measured[name] = measure(options, [*cluster.options(), f"--parallelism={slots}"], managers)
            shares[name] = shares_of(cluster)
    first = measured["direct runner"]
    print(f"{options.limit} photos, {psutil.cpu_count()} processors")
    print(f"{'runner':30}{'photos/s':>10}{'ratio':>8}{'seconds':>10}{'MB':>8}{'ratio':>8}")
    for name, (speed, seconds, memory) in measured.items():
        print(f"{name:30}{speed:10.1f}{speed / first[0]:8.2f}{seconds:10.0f}{memory:8.0f}{memory / first[2]:8.2f}")
    for name, share in shares.items():
        print(f"{name}: shards by worker {', '.join(map(str, share))}")


def measure(
    options: argparse.Namespace, runner: list[str], beside: tuple[psutil.Process, ...] = ()
) -> tuple[float, float, float]:
    """Photos/s without start-up, seconds in all, and peak memory, MB."""
    more = ["--limit", options.limit, "--shard-size", options.shard_size, *runner]
    with tempfile.TemporaryDirectory() as output:
        started = time.monotonic()
        speed, memory = caption(options.images, bundle.DEFAULT, Path(output), *more, beside=beside)
        return speed, time.monotonic() - started, memory


@contextmanager
def cluster_of_two() -> Iterator[Cluster]:
    """A cluster of two task managers of one slot each."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "flink", _PORT)
        cluster.start(2)
        try:
            yield cluster
        finally:
            cluster.stop()


def shares_of(cluster: Cluster) -> list[int]:
    """How many shards each worker took, by the task managers' logs."""
    logs = [path.read_text(errors="replace") for path in (cluster.folder / "logs").glob("task-manager*")]
    found = collections.Counter(pid for log in logs for pid in re.findall(r"process (\d+) captions shard", log))
    return sorted(found.values(), reverse=True)


if __name__ == "__main__":
    main()
