"""A pipeline of somebody's own: `CaptionPhotos` behind three kinds of sources. Tests run it on several runners.

    python own_pipeline.py BUNDLE FOLDER OUTPUT [Beam's options]

It writes files of lines, a JSON list each: the source, the start of the window (-1 for the global one), and the row's
photo, caption and error.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from beamscribe.pipelines.caption_photos import CaptionPhotos
from beamscribe.pipelines.photos import CaptionRow

# Seconds between two elements, and those of a window.
STEP, WINDOW = 10, 80


class Line(beam.DoFn):
    """Writes a row as a line."""

    def __init__(self, source: str):
        self._source = source

    def process(self, row: CaptionRow, window: Any = beam.DoFn.WindowParam) -> Iterator[str]:
        yield json.dumps([self._source, max(float(window.start), -1.0), row.photo, row.caption, row.error])


def main(bundle: str, folder: str, output: str, *options: str) -> None:
    paths = sorted(map(str, Path(folder).iterdir()))
    with beam.Pipeline(argv=list(options)) as pipeline:
        timed = (
            pipeline
            | "Numbered" >> beam.Create(list(enumerate(paths)))
            | beam.MapTuple(lambda index, path: TimestampedValue(path, index * STEP))
        )
        sources = {
            "created": pipeline | beam.Create(paths),
            "matched": pipeline | fileio.MatchFiles(f"{folder}/*"),
            "windowed": timed | beam.WindowInto(FixedWindows(WINDOW)),
        }
        lines = [
            photos
            | f"Caption {name}" >> CaptionPhotos(bundle, shard_size=6)
            | f"Lines {name}" >> beam.ParDo(Line(name))
            | f"All {name}" >> beam.WindowInto(GlobalWindows())
            for name, photos in sources.items()
        ]
        _ = lines | beam.Flatten() | beam.io.WriteToText(output)


def check(folder: Path, bundle: Path, make_photo: Any, *options: str) -> None:
    """Runs the pipeline with the options of a runner, and compares its rows with what `load()` makes of the photos."""
    from beamscribe.pipelines.captioner import load

    photos = [str(make_photo(folder / "photos" / f"{index:02d}.jpg", 40 + index)) for index in range(20)]
    (folder / "photos" / "text.jpg").write_text("not a photo")
    photos.append(str(folder / "photos" / "text.jpg"))
    # In a folder of its own, as a user's program; beside this file it would find the tests' modules.
    (folder / "program").mkdir()
    program = shutil.copy(__file__, folder / "program")
    command = [sys.executable, program, bundle, folder / "photos", folder / "lines", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for path in folder.glob("lines-*") for line in path.read_text().splitlines()]
    expected = []
    for index, (photo, caption) in enumerate(zip(photos, load(bundle).caption(photos), strict=True)):
        of_row = (photo, caption.text, caption.failure and str(caption.failure.error))
        window = float(index * STEP // WINDOW * WINDOW)
        expected += [["created", -1.0, *of_row], ["matched", -1.0, *of_row], ["windowed", window, *of_row]]
    assert sorted(found, key=str) == sorted(expected, key=str)


# Beam's workers start anew: they import no module of this name.
if __name__ == "__main__":
    main(*sys.argv[1:])
