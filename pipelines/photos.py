"""What flows through the pipelines: frozen dataclasses, and the one Arrow schema of the rows."""

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from beamscribe.pipelines.failures import ErrorCode, Failure, Stage


class PhotoRef(NamedTuple):
    """A photo as listed.

    Attributes:
      photo: its URI, or its path where it is local; `URI#member` where it lies in a container.
      etag: the version of its bytes: size and modification time, or an object's generation.
      size: bytes, as listed; 0 where that is not known.
      container: URI of the archive or record file that it lies in; empty for a file of its own.
      format: of the container: `tar`, `zip`, `tfrecord` or `parquet`.
      place: where in the container it lies; members are read in this order.
      block: those of one block can only be read together.
      same_as: the photo of the same shard that has the same bytes, and is read in its place; empty where none has.
      sha256: of the bytes, where the plan knows it, hexadecimal; else empty.
      md5: of the bytes, where the store's listing has it, hexadecimal; else empty. Reading checks it.
      failure: why it can't be read, where listing knew.
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


@dataclasses.dataclass(frozen=True)
class Shard:
    """The unit of work: what one worker takes, retries and commits.

    Attributes:
      index: its number in the plan, from 0.
      photos: the photos to caption.
    """

    index: int
    photos: tuple[PhotoRef, ...]

    def __len__(self) -> int:
        return len(self.photos)


class Alternative(NamedTuple):
    """A caption and its score, mean log-probability a token in nats."""

    caption: str
    score: float


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """One photo's row of the output; the fields are the columns of `CAPTION_SCHEMA`."""

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


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A shard's rows, failures included: exactly one for each photo of the shard.

    Attributes:
      index: the shard's number.
      rows: its rows.
      retries: requests to remote stores that had to be made again.
    """

    index: int
    rows: tuple[CaptionRow, ...]
    retries: int = 0


CAPTIONED = "captioned"
FAILED = "failed"

_RETRIES = b"retries"

CAPTION_SCHEMA = pa.schema(
    [
        pa.field("photo", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("alternatives", pa.list_(pa.struct([("caption", pa.string()), ("score", pa.float32())]))),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
        pa.field("written_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

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
    ]
)


def caption_table(rows: Iterable[CaptionRow], retries: int = 0) -> pa.Table:
    """The rows as an Arrow table of `CAPTION_SCHEMA`, with the number of retries beside it."""
    # `vars`, not `dataclasses.asdict`, which would copy every field deeply.
    records = [
        {**vars(row), "alternatives": [alternative._asdict() for alternative in row.alternatives]} for row in rows
    ]
    return pa.Table.from_pylist(records, schema=CAPTION_SCHEMA.with_metadata({_RETRIES: str(retries)}))


def retries_of(table: pa.Table) -> int:
    """How many retries a table that `caption_table` made tells of."""
    return int((table.schema.metadata or {}).get(_RETRIES, b"0"))


def photo_table(photos: Sequence[PhotoRef]) -> pa.Table:
    """The references as an Arrow table of `PHOTO_SCHEMA`."""
    records = [{**ref._asdict(), "failure": ref.failure and ref.failure._asdict()} for ref in photos]
    return pa.Table.from_pylist(records, schema=PHOTO_SCHEMA)


def photos_of(table: pa.Table) -> tuple[PhotoRef, ...]:
    """The references that `photo_table` wrote."""
    return tuple(PhotoRef(**{**record, "failure": _failure(record["failure"])}) for record in table.to_pylist())


def _failure(record: dict[str, str] | None) -> Failure | None:
    return record and Failure(Stage(record["stage"]), ErrorCode(record["error"]), record["message"])  # type: ignore
