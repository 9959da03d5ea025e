"""How fast a bucket is listed, and in how much memory: objects a second, against a plain loop of google-cloud-storage.

    python -m benchmarks.listing --objects 200000

`listing` is one worker's, `parts` that of eight threads that share the ranges of names which it is split into.

The objects are those of a small server of this benchmark's own, which has each page ready and gives it after --latency.
With --server it is fake-gcs-server, which walks through all objects for every page, so that its own time is most of
what is measured.
"""

import argparse
import base64
import bisect
import concurrent.futures
import contextlib
import hashlib
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fake_gcs, memory

FOLDERS = 500
BUCKET = "bench"
FOLDER = f"gs://{BUCKET}/photos"
NAMES = ("baseline", "listing", "parts")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer (0.05)")
    parser.add_argument("--server", type=Path, help="the binary of fake-gcs-server")
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return 0
    names = [f"photos/{n % FOLDERS:04d}/{n:07d}.jpg" for n in range(options.objects)]
    with tempfile.TemporaryDirectory() as work, running(names, options, Path(work)) as address:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
        for _ in range(options.repeats):
            for name in NAMES:
                command = [sys.executable, "-m", "benchmarks.listing", "--only", name]
                environment = {**os.environ, "STORAGE_EMULATOR_HOST": address}
                answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
                runs[name].append(json.loads(answer))
    rates = {}
    for name, of in runs.items():
        assert all(run["objects"] == options.objects for run in of), of
        rates[name] = statistics.median(run["objects"] / run["seconds"] for run in of)
        megabytes = max(run["megabytes"] for run in of)
        print(f"{name:10} {rates[name]:9,.0f} objects/s, {megabytes:5.0f} MB more than before")
    for name in NAMES[1:]:
        print(f"{name} / baseline: {rates[name] / rates['baseline']:.2f}")
    return 0


def measure(name: str) -> dict[str, float]:
    """Objects, seconds and how much the largest memory grew, of this process."""
    from beamscribe.pipelines import listing
    from beamscribe.pipelines.sources import ranges
    from beamscribe.pipelines.sources.base import ListOptions, Source
    from beamscribe.pipelines.stores import gcs

    client = gcs._client()
    source, options = Source(FOLDER, "folder"), ListOptions()
    memory.forget_peak()
    before = memory.peak()
    started = time.perf_counter()
    if name == "baseline":
        objects = sum(1 for _ in client.list_blobs(BUCKET, prefix="photos/", page_size=1000))
    elif name == "listing":
        objects = sum(1 for _ in listing.list_source(source, options))
    else:
        with concurrent.futures.ThreadPoolExecutor(8) as workers:
            counts = workers.map(lambda part: sum(1 for _ in listing.list_source(part, options)), ranges.parts(source))
            objects = sum(counts)
    seconds = time.perf_counter() - started
    return {"objects": objects, "seconds": seconds, "megabytes": (memory.peak() - before) / 1e6}


@contextlib.contextmanager
def running(names: list[str], options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Runs a server that has objects of these names, and yields its address."""
    if options.server is None:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(names, options.latency))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
        return
    put_files(names, work)
    with fake_gcs.running(options.server, work) as address:
        yield address


def put_files(names: list[str], work: Path) -> None:
    """Objects as fake-gcs-server keeps them: files, with what it knows of them in an attribute."""
    for name in names:
        path = work / BUCKET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        os.setxattr(path, "user.metadata", json.dumps({"Md5Hash": md5(name), "Generation": 1}).encode())


def handler(names: list[str], latency: float) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers requests for pages of a listing, with as many fields of an object as are asked for."""
    whole = {"kind": "storage#object", "bucket": BUCKET, "contentType": "image/jpeg", "storageClass": "STANDARD"}
    whole |= dict.fromkeys(("timeCreated", "updated", "timeStorageClassUpdated"), "2026-01-01T00:00:00.000Z")
    whole |= {"selfLink": f"https://www.googleapis.com/storage/v1/b/{BUCKET}/o/x", "crc32c": "AAAAAA==", "etag": "CAE="}
    names = sorted(names)
    objects = [{"name": name, "generation": "1", "size": str(len(name)), "md5Hash": md5(name)} for name in names]
    short = [json.dumps(fields) for fields in objects]
    full = [json.dumps({**whole, **fields}) for fields in objects]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            first = max(asked.get("prefix", ""), asked.get("startOffset", ""), asked.get("pageToken", ""))
            start = bisect.bisect_left(names, first)
            end = start + min(int(asked.get("maxResults", 1000)), 1000)
            last = bisect.bisect_left(names, asked.get("endOffset", "\U0010ffff"))
            last = min(last, bisect.bisect_left(names, asked.get("prefix", "") + "\U0010ffff"))
            items = ",".join((short if "fields" in asked else full)[start : min(end, last)])
            token = f',"nextPageToken":{json.dumps(names[end])}' if end < last else ""
            body = f'{{"items":[{items}]{token}}}'.encode()
            time.sleep(latency)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def md5(name: str) -> str:
    return base64.b64encode(hashlib.md5(name.encode(), usedforsecurity=False).digest()).decode()


if __name__ == "__main__":
    sys.exit(main())
