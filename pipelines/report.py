"""The account of a run: how many photos became what, counted from the committed rows themselves."""

import base64
import collections
import concurrent.futures
import dataclasses
import datetime
import hashlib
import heapq
import io
import itertools
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipelines import decode_pool, plan, storage
from pipelines.failures import ErrorCode
from pipelines.photos import CAPTIONED, FAILED, PhotoRef
from pipelines.plan import Plan

MAX_EXAMPLES = 20
MAX_SAMPLES = 12
MAX_MISSING = 20
# Longer side of a thumbnail, pixels.
THUMBNAIL_SIZE = 240

# Files that are read at once: on a remote store a small file is mostly waiting.
_READERS = 8
_COLUMNS = ("photo", "status", "caption", "score", "stage", "error", "message")
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclasses.dataclass(frozen=True)
class Example:
    """A photo that failed; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    stage: str
    error: str
    message: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photo that was captioned; the fields are columns of `CAPTION_SCHEMA`."""

    photo: str
    caption: str
    score: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a run; the fields are the keys of `report.json`.

    Attributes:
      run: its id.
      input: what was listed.
      output: the folder that holds the captions of all runs.
      bundle: name of the model bundle.
      fingerprint: of the bundle.
      settings: fingerprint of the caption settings.
      runner: the Beam runner's name.
      version: of Beamscribe.
      started_at: when the job began.
      finished_at: when all of it was committed.
      seconds: between the two.
      listed: photos found.
      skipped: photos that earlier runs had done.
      captioned: rows with a caption.
      failed: rows without.
      photos_per_second: rows a second, from start to end.
      failures: how many rows have each error code, most frequent first.
      examples: some of the failed photos, of every code.
      samples: some of the captioned photos.
      missing: some of the photos that were planned but have no row.
      balanced: whether `listed = skipped + captioned + failed` and nothing is missing.
    """

    run: str
    input: str
    output: str
    bundle: str
    fingerprint: str
    settings: str
    runner: str
    version: str
    started_at: datetime.datetime
    finished_at: datetime.datetime
    seconds: float
    listed: int
    skipped: int
    captioned: int
    failed: int
    photos_per_second: float
    failures: Mapping[str, int]
    examples: tuple[Example, ...]
    samples: tuple[Sample, ...]
    missing: tuple[str, ...]
    balanced: bool

    def to_json(self) -> bytes:
        """The report as `report.json`; times in ISO 8601."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields, indent=2, ensure_ascii=False, default=datetime.datetime.isoformat).encode()


def collect(output: str, run: str, finished_at: datetime.datetime) -> Report:
    """Counts what a run committed and compares it with the run's plan.

    Args:
      output: the folder that holds the captions of all runs.
      run: id of the run.
      finished_at: when the job ended, with a time zone.

    Raises:
      OSError: a file of the run can't be read.
    """
    folder = _folder(output, run)
    config = json.loads(storage.read(storage.join(folder, "config.json")))
    planned = Plan.from_json(storage.read(plan.path_of(folder)))
    started_at = datetime.datetime.fromisoformat(config["started_at"])
    seconds = max((finished_at - started_at).total_seconds(), 0.0)

    files = committed_files(output, run)
    rows = {}
    statuses: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[Example]] = collections.defaultdict(list)
    samples: list[Sample] = []
    for path, table in zip(files, read_tables(files, _COLUMNS), strict=True):
        rows[_shard_index(path)] = table.num_rows
        statuses.update(table["status"].to_pylist())
        for row in _with_status(table, FAILED, Example):
            failures[row["error"]] += 1
            if len(examples[row["error"]]) < MAX_EXAMPLES:
                examples[row["error"]].append(Example(**row))
        captioned = (Sample(**row) for row in _with_status(table, CAPTIONED, Sample))
        samples = heapq.nsmallest(MAX_SAMPLES, itertools.chain(samples, captioned), key=_chance)

    missing = tuple(itertools.islice(_without_row(planned, rows, files), MAX_MISSING))
    written = statuses[CAPTIONED] + statuses[FAILED]
    return Report(
        run=run,
        input=config["input"],
        output=output,
        bundle=config["bundle"]["name"],
        fingerprint=config["bundle"]["fingerprint"],
        settings=config["settings"],
        runner=config["runner"],
        version=config["version"],
        started_at=started_at,
        finished_at=finished_at,
        seconds=round(seconds, 1),
        listed=planned.listed,
        skipped=planned.skipped,
        captioned=statuses[CAPTIONED],
        failed=statuses[FAILED],
        photos_per_second=round(written / seconds, 2) if seconds else 0.0,
        failures=dict(failures.most_common()),
        examples=_some_of_each(examples),
        samples=tuple(sorted(samples, key=lambda sample: sample.photo)),
        missing=missing,
        balanced=planned.listed == planned.skipped + written and not missing,
    )


def write(report: Report, output: str) -> None:
    """Writes `report.json`, `report.html` and, where the numbers add up, `_SUCCESS`, in that order.

    Args:
      report: what to write.
      output: the folder that holds the captions of all runs.

    Raises:
      OSError: as the store says.
    """
    folder = _folder(output, report.run)
    storage.replace(storage.join(folder, "report.json"), report.to_json())
    storage.replace(storage.join(folder, "report.html"), html_page(report).encode())
    if report.balanced:
        storage.replace(storage.join(folder, "_SUCCESS"), b"")


def committed_files(output: str, run: str = "*") -> list[str]:
    """The shard files of a run, or of all runs, sorted by run and shard."""
    return sorted(storage.within(output, "captions", f"run={run}", "shard-*.parquet"))


def read_tables(files: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Reads Parquet files in order, a few ahead, so that any number of them fits in memory.

    Args:
      files: their paths.
      columns: what to read of them; all by default.
    """
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        pending: collections.deque[concurrent.futures.Future[pa.Table]] = collections.deque()
        for path in files:
            pending.append(readers.submit(_read_table, path, columns))
            if len(pending) > _READERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def html_page(report: Report) -> str:
    """The report as one page that needs nothing else: no scripts, no files, thumbnails inside."""
    folder = f"{report.input}/"
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        run=escape(report.run),
        headline=f"{report.captioned:,} {_photos(report.captioned)} captioned",
        verdict=_verdict(report),
        verdict_class="good" if report.balanced else "bad",
        listed=f"{report.listed:,}",
        skipped=f"{report.skipped:,}",
        captioned=f"{report.captioned:,}",
        failed=f"{report.failed:,}",
        bar=_bar(report),
        facts=_facts(report),
        missing=_missing(report.missing, folder),
        samples=_samples(report.samples, folder),
        failures=_failures(report, folder),
        version=escape(report.version),
    )


def _folder(output: str, run: str) -> str:
    return storage.join(output, "runs", run)


def _read_table(path: str, columns: Sequence[str] | None) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read(path)), columns=list(columns) if columns else None)


def _shard_index(path: str) -> int:
    name = path.rpartition("/")[2]
    return int(name.removeprefix("shard-").removesuffix(".parquet"))


def _with_status(table: pa.Table, status: str, kind: type) -> list[dict[str, Any]]:
    """The rows of one status, with the columns that a dataclass has fields for."""
    columns = [field.name for field in dataclasses.fields(kind)]
    return table.filter(pc.equal(table["status"], status)).select(columns).to_pylist()


def _chance(sample: Sample) -> bytes:
    """A number drawn for a photo, the same at every run: the photos with the least of all are a fair sample."""
    return hashlib.blake2b(sample.photo.encode(), digest_size=8).digest()


def _some_of_each(examples: Mapping[str, Sequence[Example]]) -> tuple[Example, ...]:
    """At most `MAX_EXAMPLES`: the first of every code, then the second of every code, and so on; sorted by code."""
    rounds = itertools.zip_longest(*(examples[code] for code in sorted(examples)))
    in_turn = (example for one_of_each in rounds for example in one_of_each if example)
    return tuple(sorted(itertools.islice(in_turn, MAX_EXAMPLES), key=lambda example: (example.error, example.photo)))


def _without_row(planned: Plan, rows: Mapping[int, int], files: Iterable[str]) -> Iterator[str]:
    """The photos of the plan that have no row; opens only the shards whose numbers differ."""
    paths = {_shard_index(path): path for path in files}
    for shard in planned.shards:
        if rows.get(shard.index) == shard.photos:
            continue
        expected = collections.Counter(ref.photo for ref in plan.read_shard(shard).photos)
        if shard.index in paths:
            expected -= collections.Counter(_read_table(paths[shard.index], ["photo"])["photo"].to_pylist())
        yield from expected.elements()


def _verdict(report: Report) -> str:
    if report.balanced:
        return "Every photo is accounted for."
    unaccounted = report.listed - report.skipped - report.captioned - report.failed
    if unaccounted > 0:
        return f"The numbers do not add up: {unaccounted:,} {_photos(unaccounted)} without a row."
    if unaccounted < 0:
        return f"The numbers do not add up: {-unaccounted:,} more rows than photos."
    return "The numbers add up, but some planned photos have no row, and others have two."


def _photos(count: int) -> str:
    return "photo" if count == 1 else "photos"


def _bar(report: Report) -> str:
    """The shares of what was listed, as segments of a bar; what is unaccounted for stays empty."""
    if not report.listed:
        return ""
    parts = {"skipped": report.skipped, "captioned": report.captioned, "failed": report.failed}
    return "".join(
        f'<span class="{name}" style="width:{min(count / report.listed, 1):.4%}"></span>'
        for name, count in parts.items()
        if count
    )


def _facts(report: Report) -> str:
    facts = {
        "Input": report.input,
        "Output": report.output,
        "Model": f"{report.bundle} ({report.fingerprint[:12]})",
        "Settings": report.settings.replace(",", ", "),
        "Started": _time(report.started_at),
        "Finished": _time(report.finished_at),
        "Runner": report.runner,
        "Took": f"{_duration(report.seconds)}, {report.photos_per_second:,.1f} photos/s",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items())


def _time(time: datetime.datetime) -> str:
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _missing(photos: Sequence[str], folder: str) -> str:
    if not photos:
        return ""
    some = "" if len(photos) < MAX_MISSING else f" The first {len(photos)}:"
    rows = "".join(f"<li>{_name(photo, folder)}</li>" for photo in photos)
    return (
        f"<section><h2>Photos without a row</h2><p>They were planned, but no committed file has them.{some}</p>"
        f"<ul>{rows}</ul></section>"
    )


def _name(photo: str, folder: str) -> str:
    """A photo as it is called below the input folder; its whole path as a tooltip."""
    return f'<span class="photo" title="{escape(photo)}">{escape(photo.removeprefix(folder))}</span>'


def _samples(samples: Sequence[Sample], folder: str) -> str:
    if not samples:
        return ""
    thumbnails = _thumbnails([sample.photo for sample in samples])
    figures = "".join(
        f"<figure>{_image(thumbnail)}<figcaption><p>{escape(sample.caption)}</p>"
        f"{_name(sample.photo, folder)}</figcaption></figure>"
        for sample, thumbnail in zip(samples, thumbnails, strict=True)
    )
    return f'<section><h2>Sample captions</h2><div class="samples">{figures}</div></section>'


def _thumbnails(photos: Iterable[str]) -> Iterator[Image.Image | None]:
    """Small upright pictures; None for each photo that can't be read any more."""
    refs = (PhotoRef(photo, etag="") for photo in photos)
    # In the pool, so that a photo on which a decoder dies can't take the job with it.
    # Twice the size: a square of the size itself would have too few pixels for the longer side.
    for _, decoded in decode_pool.shared().stream(refs, 2 * THUMBNAIL_SIZE):
        if decoded.pixels is None or not decoded.width or not decoded.height:
            yield None
            continue
        scale = THUMBNAIL_SIZE / max(decoded.width, decoded.height)
        size = max(1, round(decoded.width * scale)), max(1, round(decoded.height * scale))
        yield Image.fromarray(decoded.pixels).resize(size, Image.Resampling.LANCZOS)


def _image(thumbnail: Image.Image | None) -> str:
    """The picture as an element with its data inside. The caption beside it says what it shows."""
    if thumbnail is None:
        return ""
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=80, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="{thumbnail.width}" height="{thumbnail.height}" alt="">'


def _failures(report: Report, folder: str) -> str:
    if not report.failures:
        return ""
    codes = "".join(
        f'<tr><th scope="row"><code>{escape(code)}</code></th><td class="number">{count:,}</td>'
        f"<td>{_explanation(code)}</td></tr>"
        for code, count in report.failures.items()
    )
    examples = "".join(
        f"<tr><td>{_name(example.photo, folder)}</td><td><code>{escape(example.error)}</code></td>"
        f"<td>{escape(example.stage)}</td><td>{escape(example.message)}</td></tr>"
        for example in report.examples
    )
    some = "" if len(report.examples) == report.failed else f"{len(report.examples)} of {report.failed:,} failures"
    return (
        f'<section><h2>Failures</h2><table class="codes"><tbody>{codes}</tbody></table>'
        f'<table class="examples"><caption>{some}</caption><thead><tr><th scope="col">Photo</th>'
        '<th scope="col">Error</th><th scope="col">Stage</th><th scope="col">Message</th></tr></thead>'
        f"<tbody>{examples}</tbody></table></section>"
    )


def _explanation(code: str) -> str:
    known = ErrorCode(code)
    return escape(known.sentence) + (" The next run tries again." if known.passing else "")
