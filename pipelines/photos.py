"""The elements that flow through the pipelines, and the Arrow schemas of output rows and of planned photos."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from beamscribe.pipelines.failures import ErrorCode, Failure, Stage


class PhotoRef(NamedTuple):
    """A reference to a listed photo.

    Attributes:
      photo: URI of the photo, or its path if it is local; `URI#member` if a container holds it.
      etag: version of the photo's bytes: size and modification time, or the generation of an object.
      size: size in bytes, from the listing; 0 if unknown.
      container: URI of the archive or record file that holds the photo; empty for a standalone file.
      format: format of the container: `tar`, `zip`, `tfrecord` or `parquet`.
      place: position in the container; members are read in this order.
      block: number of the block in the container; the photos of a block can only be read together.
      same_as: another photo of the same shard with the same bytes, which is read instead; empty if there is none.
      sha256: SHA-256 of the bytes, hexadecimal; empty if the plan does not know it.
      md5: MD5 of the bytes, hexadecimal; empty if the store's listing does not contain it. Reading checks it.
      failure: why the photo can't be read, if listing found a reason.
      attempts: number of consecutive earlier runs in which this version of the photo failed.
      again: whether the photo is captioned again although it has a caption: none is taken over.

    Example:
      >>> import apache_beam as beam
      >>> ref = beamscribe.PhotoRef("photos/astronaut.jpg", etag="of my own")
      >>> with beam.Pipeline("FnApiRunner") as pipeline:
      ...   rows = pipeline | beam.Create([ref]) | beamscribe.CaptionPhotos()
      ...   _ = rows | beam.Map(lambda row: print(row.etag, row.width, row.height))
      of my own 512 512
    """

    photo: str
    etag: str
    size: int = 0
    container: str = ""
    format: str = ""
    place: int = 0
    block: int = 0
    same_as: str = ""
    sha256: str = ""
    md5: str = ""
    failure: Failure | None = None
    attempts: int = 0
    again: bool = False


@dataclasses.dataclass(frozen=True)
class Shard:
    """The unit of work: one worker captions a shard, retries it and commits it.

    Attributes:
      index: number of the shard in the plan, from 0.
      photos: the photos to caption.
      known: paths of the files with earlier rows, whose captions may be those of the photos.
      gone: paths of the files with the rows of photos that are no longer there; such a shard has no photos.
    """

    index: int
    photos: tuple[PhotoRef, ...]
    known: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)


class Alternative(NamedTuple):
    """A caption that is not the best one.

    Attributes:
      caption: the text.
      score: its mean log-probability per token, in nats.

    Example:
      >>> model = beamscribe.load()
      >>> caption, = model.caption(["photos/astronaut.jpg"], alternatives=1)
      >>> caption.alternatives[0].caption != caption.text
      True
    """

    caption: str
    score: float


class Tag(NamedTuple):
    """A word for what a photo shows.

    Attributes:
      tag: the word.
      score: the probability that it is right.

    Example:
      >>> beamscribe.Tag("dog", 0.9).tag
      'dog'
    """

    tag: str
    score: float


class Origin(NamedTuple):
    """Where the caption of a row was made that a later run has taken over.

    Attributes:
      photo: path or URI that the photo had then.
      run_number: number of the run that made the caption; None for a run of 0.1.0, which had no number.

    Example:
      >>> beamscribe.Origin("/photos/2019/a.jpg", 12).run_number
      12
    """

    photo: str
    run_number: int | None


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """The output row of one photo, a dataclass. The fields are the columns of `CAPTION_SCHEMA`.

    Attributes:
      photo: path or URI; `URI#member` inside an archive.
      etag: version of the photo's bytes.
      sha256: SHA-256 of the bytes, hexadecimal; None where they could not be read.
      width: pixels, upright; None if unknown.
      height: pixels, upright; None if unknown.
      status: `captioned`, `failed`, `gone` for a photo that is no longer there, or `withdrawn` for a caption of a
        person's that no longer stands.
      caption: the best caption; None for a photo that failed.
      score: the caption's mean log-probability per token, in nats; None for a photo that failed.
      alternatives: the next-best captions, best first.
      stage: where the photo failed; None for one that is captioned.
      error: the error code, as docs/failures.md lists them; None for a photo that is captioned.
      message: why the photo failed; None for one that is captioned.
      model: fingerprint of the bundle.
      settings: the caption settings, as text.
      written_at: when the row was made, UTC.
      attempts: number of consecutive runs in which this version of the photo failed, this one included; 0 for a photo
        that is captioned, None where no job wrote the row.
      run_number: number of the run that made the row, by which rows are ordered; None where no job wrote it.
      bytes: number of bytes of the file; None where they could not be read.
      image_sha256: SHA-256 of the picture's own data without the file's metadata, hexadecimal; `images.picture_digest`.
      orientation: the EXIF orientation (1 to 8) that the picture was turned upright by; None if unknown.
      taken_at: date and time of the shot as the camera wrote it, without a time zone; None if the file does not say it.
      description: what the file's own metadata says of the photo; None if it says nothing.
      tags: words for what the photo shows, best first; None from a model that gives none.
      familiarity: how near the photo is to what the model was trained on, 0 to 1; None from a model that does not say.
      perceptual_hash: 64 bits, as a signed integer: pictures that look alike differ in few bits; None if unknown.
      engine: what ran the model; None where no model has run.
      source: who wrote the caption: `model` or `person`; None for a photo that failed.
      edited_by: the person who wrote the caption; None for a model's caption.
      taken_from: where the caption was made, if the row has taken it over; else None.

    Example:
      >>> import apache_beam as beam
      >>> with beam.Pipeline("FnApiRunner") as pipeline:
      ...   rows = pipeline | beam.Create(["photos/nothing.jpg"]) | beamscribe.CaptionPhotos()
      ...   _ = rows | beam.Map(lambda row: print(row.to_dict()["error"], len(row.to_dict())))
      not_found 29
    """

    photo: str
    etag: str
    sha256: str | None
    width: int | None
    height: int | None
    status: str
    caption: str | None
    score: float | None
    alternatives: tuple[Alternative, ...]
    stage: str | None
    error: str | None
    message: str | None
    model: str
    settings: str
    written_at: datetime.datetime
    attempts: int | None = None
    run_number: int | None = None
    bytes: int | None = None
    image_sha256: str | None = None
    orientation: int | None = None
    taken_at: datetime.datetime | None = None
    description: str | None = None
    tags: tuple[Tag, ...] | None = None
    familiarity: float | None = None
    perceptual_hash: int | None = None
    engine: str | None = None
    source: str | None = None
    edited_by: str | None = None
    taken_from: Origin | None = None

    @property
    def is_taken_over(self) -> bool:
        """Whether the row has the caption of an earlier row."""
        return self.status == CAPTIONED and self.taken_from is not None

    def to_dict(self) -> dict[str, Any]:
        """The columns as JSON has them: no classes, times in ISO 8601. `--export jsonl` writes the same."""
        record = self._as_record()
        for name in ("taken_at", "written_at"):
            record[name] = record[name] and record[name].isoformat()
        return {name: record[name] for name in CAPTION_SCHEMA.names}

    def _as_record(self) -> dict[str, Any]:
        # Not `dataclasses.asdict`, which would copy every field deeply.
        return {
            **vars(self),
            "alternatives": [alternative._asdict() for alternative in self.alternatives],
            "tags": None if self.tags is None else [tag._asdict() for tag in self.tags],
            "taken_from": self.taken_from and self.taken_from._asdict(),
        }


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """The rows of a shard: exactly one for each photo, whether it was captioned or failed.

    Attributes:
      index: number of the shard.
      rows: rows of the shard.
      retries: number of retried requests to remote stores.
    """

    index: int
    rows: tuple[CaptionRow, ...]
    retries: int = 0


CAPTIONED = "captioned"
FAILED = "failed"
# The photo is no longer there. The row keeps all that its latest one said.
GONE = "gone"
# A person has taken a caption back.
WITHDRAWN = "withdrawn"

# What became of a photo in a run, beside the statuses: it has the caption of an earlier row.
TAKEN_OVER = "taken_over"

# Who wrote a caption.
MODEL = "model"
PERSON = "person"

# The schema version that is written. A file states its version in its metadata; a file that does not has version 1.
SCHEMA_VERSION = 3

_RETRIES = b"retries"
_RUN_NUMBER = b"run_number"
_CLOSED_BY = b"closed_by"
_VERSION = b"schema_version"

# Each column with the schema version that introduced it. Later columns are nullable, since older files lack them.
_COLUMNS = (
    (1, pa.field("photo", pa.string(), nullable=False)),
    (1, pa.field("etag", pa.string(), nullable=False)),
    (3, pa.field("bytes", pa.int64())),
    (1, pa.field("sha256", pa.string())),
    (3, pa.field("image_sha256", pa.string())),
    (1, pa.field("width", pa.int32())),
    (1, pa.field("height", pa.int32())),
    (3, pa.field("orientation", pa.int32())),
    (3, pa.field("taken_at", pa.timestamp("us"))),
    (3, pa.field("description", pa.string())),
    (1, pa.field("status", pa.string(), nullable=False)),
    (1, pa.field("caption", pa.string())),
    (1, pa.field("score", pa.float32())),
    (1, pa.field("alternatives", pa.list_(pa.struct([("caption", pa.string()), ("score", pa.float32())])))),
    (3, pa.field("tags", pa.list_(pa.struct([("tag", pa.string()), ("score", pa.float32())])))),
    (3, pa.field("familiarity", pa.float32())),
    (3, pa.field("perceptual_hash", pa.int64())),
    (1, pa.field("stage", pa.string())),
    (1, pa.field("error", pa.string())),
    (1, pa.field("message", pa.string())),
    (1, pa.field("model", pa.string(), nullable=False)),
    (3, pa.field("engine", pa.string())),
    (1, pa.field("settings", pa.string(), nullable=False)),
    (3, pa.field("source", pa.string())),
    (3, pa.field("edited_by", pa.string())),
    (3, pa.field("taken_from", pa.struct([("photo", pa.string()), ("run_number", pa.int64())]))),
    (1, pa.field("written_at", pa.timestamp("us", tz="UTC"), nullable=False)),
    (2, pa.field("attempts", pa.int32())),
    (2, pa.field("run_number", pa.int64())),
)


def schema_of(version: int) -> pa.Schema:
    """The columns of one version of the schema."""
    return pa.schema([field for since, field in _COLUMNS if since <= version])


CAPTION_SCHEMA = schema_of(SCHEMA_VERSION)

PHOTO_SCHEMA = pa.schema(
    [
        ("photo", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("container", pa.string()),
        ("format", pa.string()),
        ("place", pa.int64()),
        ("block", pa.int64()),
        ("same_as", pa.string()),
        ("sha256", pa.string()),
        ("md5", pa.string()),
        ("failure", pa.struct([("stage", pa.string()), ("error", pa.string()), ("message", pa.string())])),
        ("attempts", pa.int32()),
        ("again", pa.bool_()),
    ]
)


def caption_table(rows: Iterable[CaptionRow], retries: int = 0, run_number: int = 0) -> pa.Table:
    """Converts rows to an Arrow table of `CAPTION_SCHEMA`.

    Args:
      rows: output rows.
      retries: number of retried requests, which is added to the metadata of the table's schema.
      run_number: number of the run, which is added to the metadata, too.
    """
    records = [row._as_record() for row in rows]
    return pa.Table.from_pylist(records, schema=versioned_schema(run_number, {_RETRIES: str(retries)}))


def caption_rows(table: pa.Table) -> list[CaptionRow]:
    """Converts a table of `CAPTION_SCHEMA` to rows."""
    return [
        CaptionRow(
            **{
                **record,
                "alternatives": tuple(Alternative(**found) for found in record["alternatives"] or ()),
                "tags": None if record["tags"] is None else tuple(Tag(**found) for found in record["tags"]),
                "taken_from": record["taken_from"] and Origin(**record["taken_from"]),
            }
        )
        for record in table.select(CAPTION_SCHEMA.names).to_pylist()
    ]


def closing_table(number: int) -> pa.Table:
    """The content of a closing file, which holds the place of a shard: all columns and no rows; `control.closing`.

    Args:
      number: number of the job that closes the run.
    """
    return versioned_schema(number, {_CLOSED_BY: str(number)}).empty_table()


def is_closing(table: pa.Table) -> bool:
    """Whether a table, with some or all of its columns, is the content of a closing file."""
    return table.num_rows == 0 and _CLOSED_BY in (table.schema.metadata or {})


def versioned_schema(run_number: int = 0, metadata: Mapping[bytes, str] | None = None) -> pa.Schema:
    """`CAPTION_SCHEMA` with its version, the number of a run and any given entries in its metadata."""
    numbers = {_VERSION: str(SCHEMA_VERSION), _RUN_NUMBER: str(run_number)}
    return CAPTION_SCHEMA.with_metadata({**numbers, **(metadata or {})})


def version_of(schema: pa.Schema) -> int:
    """The version of a shard file's schema.

    Raises:
      pa.ArrowInvalid: the file's metadata holds a version that is not a number.
    """
    said = (schema.metadata or {}).get(_VERSION, b"1")
    if not said.isdigit():
        raise pa.ArrowInvalid(f"the version of its schema is {said!r}, which is not a number")
    return int(said)


def retries_of(table: pa.Table) -> int:
    """The number of retries in the metadata of a table that `caption_table` made."""
    said = (table.schema.metadata or {}).get(_RETRIES, b"0")
    # Nothing depends on it, so a number that is none of ours counts as 0.
    return int(said) if said.isdigit() and len(said) < 10 else 0


def photo_table(photos: Sequence[PhotoRef]) -> pa.Table:
    """Converts references to an Arrow table of `PHOTO_SCHEMA`."""
    records = [{**ref._asdict(), "failure": ref.failure and ref.failure._asdict()} for ref in photos]
    return pa.Table.from_pylist(records, schema=PHOTO_SCHEMA)


def photos_of(table: pa.Table) -> tuple[PhotoRef, ...]:
    """Converts a table of `PHOTO_SCHEMA` to references."""
    return tuple(PhotoRef(**{**record, "failure": _failure(record["failure"])}) for record in table.to_pylist())


def _failure(record: dict[str, str] | None) -> Failure | None:
    return record and Failure(Stage(record["stage"]), ErrorCode(record["error"]), record["message"])  # type: ignore
