"""How near the pipeline comes to the bare model, and whether its memory stays flat.

Prints, for a folder of photos:
  speed: photos/s of `beamscribe caption`, start-up left out, over photos/s of the bare exported model,
    fed ready decoded batches in one process; the model is measured before and after, and averaged;
  memory: peak of the job with all photos over that with a tenth of them;
  device: share of the time in which the GPU was busy, where `nvidia-smi` sees one;
  parts: milliseconds a photo of each part by itself, in one process.

    python -m benchmarks.pipeline --images flickr8k/images
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

BATCH_SIZE = 32
# Ready batches for the bare model, photos: 0.2 GB of pixels.
READY = 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos, some thousands")
    parser.add_argument("--bundle", type=Path, help="model bundle; the one in the package by default")
    parser.add_argument("--only", choices=("model", "parts"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    from beamscribe.model import bundle

    folder = options.bundle or bundle.DEFAULT
    if options.only:
        print(
            json.dumps(bare_model(options.images, folder) if options.only == "model" else parts(options.images, folder))
        )
        return
    measure = [sys.executable, "-m", "benchmarks.pipeline", "--images", str(options.images), "--bundle", str(folder)]
    photos = len(list(_photos(options.images)))
    with tempfile.TemporaryDirectory() as scratch:
        before = _output([*measure, "--only", "model"])
        with _gpu_use() as use:
            speed, memory = caption(options.images, folder, Path(scratch) / "all")
        after = _output([*measure, "--only", "model"])
        _, little = caption(options.images, folder, Path(scratch) / "some", "--limit", str(photos // 10))
    model = (before + after) / 2
    print(f"{photos} photos, {psutil.cpu_count()} processors")
    print(
        f"speed   pipeline {speed:.1f} photos/s, bare model {model:.1f} "
        f"({before:.1f} before, {after:.1f} after)  ratio {speed / model:.3f}"
    )
    print(f"memory  {memory:.0f} MB with all, {little:.0f} MB with {photos // 10} photos  ratio {memory / little:.3f}")
    if use:
        print(f"device  busy {sum(use) / len(use):.0f} % of the whole job, {max(use):.0f} % at most in a second")
    for name, milliseconds in _output([*measure, "--only", "parts"]).items():
        print(f"parts   {name:8} {milliseconds:6.2f} ms a photo")


def caption(
    images: Path, bundle: Path, output: Path, *more: str, beside: Sequence[psutil.Process] = ()
) -> tuple[float, float]:
    """Runs the job.

    Args:
      images, bundle, output: its inputs, its model, its output.
      more: further options.
      beside: processes that run for it and that it does not start.

    Returns:
      Its photos/s without start-up, and the peak memory of its processes, MB.
    """
    command = [
        sys.executable,
        "-m",
        "beamscribe",
        "caption",
        "--input",
        images,
        "--output",
        output,
        "--bundle",
        bundle,
    ]
    with subprocess.Popen([*map(str, command), *more], stdout=subprocess.DEVNULL) as process:
        peak = Peak([psutil.Process(process.pid), *beside])
        try:
            process.wait()
        finally:
            memory = peak.stop()
    if process.returncode:
        sys.exit(f"captioning failed with {process.returncode}")
    return steady_speed(output), memory


def steady_speed(output: Path) -> float:
    """Photos/s from the first batch, when all is loaded, to the last commit."""
    import pyarrow.dataset as ds

    files = sorted(output.glob("captions/run=*/*.parquet"))
    times = sorted(ds.dataset([str(file) for file in files]).to_table(["written_at"])["written_at"].to_pylist())
    first = times[BATCH_SIZE - 1]
    last = max(datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC) for file in files)
    return (len(times) - BATCH_SIZE) / (last - first).total_seconds()


class Peak:
    """Watches the memory that processes and their children use together, MB."""

    def __init__(self, processes: Sequence[psutil.Process]):
        self._processes, self._peak, self._ended = processes, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """The most that it saw."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            total = 0
            try:
                for parent in self._processes:
                    total += sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)])
            except psutil.NoSuchProcess:
                continue
            self._peak = max(self._peak, total / 2**20)


@contextlib.contextmanager
def _gpu_use() -> Iterator[list[float]]:
    """Collects the use of the GPUs second by second, %; nothing where there is none."""
    use: list[float] = []
    program = shutil.which("nvidia-smi")
    if program is None:
        yield use
        return
    query = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield use
        finally:
            process.terminate()
        use += [float(line) for line in process.stdout or () if line.strip().isdigit()]


def bare_model(images: Path, folder: Path) -> float:
    """Photos/s of the exported model with the default settings on decoded batches."""
    import numpy as np

    from beamscribe.model import bundle
    from beamscribe.model.captioners.exported_model import CaptionModel
    from beamscribe.pipelines.images import to_pixels

    model, settings = CaptionModel(folder), bundle.describe(folder).settings
    pixels = [to_pixels.convert(path.read_bytes(), model.image_size).pixels for path in _photos(images)[:READY]]
    ready = np.stack([image for image in pixels if image is not None])
    batches = [ready[start : start + BATCH_SIZE] for start in range(0, len(ready), BATCH_SIZE)]
    model.caption(batches[0], settings)
    return 1000 / _milliseconds(lambda: [model.caption(batch, settings) for batch in batches], len(ready))


def parts(images: Path, folder: Path) -> dict[str, float]:
    """Milliseconds a photo of each part alone, one after another in one process."""
    import numpy as np

    from beamscribe.model import bundle
    from beamscribe.model.captioners.exported_model import CaptionModel
    from beamscribe.pipelines import caption_shard, captioning
    from beamscribe.pipelines.caption_options import CaptionOptions
    from beamscribe.pipelines.images import to_pixels
    from beamscribe.pipelines.photos import Alternative, PhotoRef, ShardResult
    from beamscribe.pipelines.sources.photo_reader import Photo

    model, description = CaptionModel(folder), bundle.describe(folder)
    paths = _photos(images)[:512]
    found: dict[str, Any] = {}

    def keep(name: str, work: Callable[[], Any]) -> float:
        return _milliseconds(lambda: found.update({name: work()}), len(paths))

    times = {"read": keep("bytes", lambda: [path.read_bytes() for path in paths])}
    times["decode"] = keep("decoded", lambda: [to_pixels.convert(data, model.image_size) for data in found["bytes"]])
    pixels = np.stack([decoded.pixels for decoded in found["decoded"] if decoded.pixels is not None])
    batches = [pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE)]
    model.caption_features(model.features(batches[0]), description.settings)
    times["encoder"] = keep("features", lambda: [model.features(batch) for batch in batches])
    settings = description.settings
    times["decoder"] = keep("captions", lambda: [model.caption_features(f, settings) for f in found["features"]])
    captions = [[Alternative(str(text), 0.0) for text in beams] for batch, _ in found["captions"] for beams in batch]
    with tempfile.TemporaryDirectory() as output:
        options = CaptionOptions(
            inputs=(), output=output, run="run", bundle=str(folder), model=description.fingerprint, settings=settings
        )
        refs = [PhotoRef(str(path), "etag") for path in paths]
        photos = [Photo(ref, decoded) for ref, decoded in zip(refs, found["decoded"], strict=True)]
        good = [photo for photo in photos if photo.picture.pixels is not None]

        def write() -> None:
            rows = tuple(captioning.row(photo, beams, options) for photo, beams in zip(good, captions, strict=True))
            caption_shard.commit(ShardResult(0, rows), options)

        times["write"] = _milliseconds(write, len(paths))
    return times


def _milliseconds(work: Callable[[], Any], photos: int) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started) / photos


def _photos(images: Path) -> list[Path]:
    from beamscribe.pipelines import listing

    return [Path(ref.photo) for ref in listing.list_photos([str(images)])]


def _output(command: list[str]) -> Any:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
