"""Photos in TFRecord files of `tf.Example`, plain or compressed.

The `place` of a photo is the offset of its record in the uncompressed file. A record consists of its length, the masked
CRC-32C of the length, the data, and the masked CRC-32C of the data
(https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from beamscribe.model.errors import BeamscribeError
from beamscribe.pipelines import stores, tf_examples
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import compression, damage
from beamscribe.pipelines.sources.base import MAX_BYTES, Ignored, ListOptions
from beamscribe.pipelines.stores import uris

IMAGE_FEATURE = "image/encoded"
NAME_FEATURE = "image/filename"

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
# Records are parsed in batches up to this many bytes and records.
_BATCH_BYTES = 32 * 2**20
_BATCH_RECORDS = 256
# A length, in bytes, that exceeds every file.
_LONGEST = 2**50
# The maximum size, in bytes, of a record's features other than the photo.
_OVERHEAD = 16 * 2**20


class _Record(NamedTuple):
    """A record: its offset in the uncompressed file, its data or why they can't be read, and its stated checksum."""

    place: int
    data: bytes | Failure
    checksum: int = 0


def is_header(start: bytes) -> bool:
    """Whether bytes begin with the length of a record and the checksum of that length."""
    if len(start) < _HEADER.size:
        return False
    length, checksum = _HEADER.unpack_from(start)
    return tf_examples.checksum(struct.pack("<Q", length)) == checksum


def features(uri: str) -> list[str]:
    """The names of the features of the first record; empty if there is no valid record.

    Raises:
      OSError: the store reported an error.
      BeamscribeError: tfx-bsl is not installed.
    """
    with compression.opened(uri) as (stream, _):
        try:
            record = next(_records(stream), None)
        except compression.DAMAGE as error:
            if damage.is_of_store(error):
                raise
            return []
    return tf_examples.features(record.data) if record and isinstance(record.data, bytes) else []


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos of a file. If it is damaged, yields the photos before the damage and a failure of the file."""
    names: set[str] = set()
    number = 0
    with compression.opened(uri) as (stream, is_plain):
        try:
            for batch in _batches(_records(stream)):
                for record, (name, image) in zip(batch, _parsed(batch, options), strict=True):
                    # If several records have the same name, or none, each of them is a photo.
                    name = name or str(number)
                    while name in names:
                        name += f"~{number}"
                    names.add(name)
                    yield options.ignored_file(name) or _ref(uri, name, record, image, number if is_plain else 0)
                    number += 1
        except BeamscribeError:
            raise
        except Exception as error:  # noqa: BLE001 - damage may raise anything, and the records before it count
            yield PhotoRef(uri, etag=stores.version(uri), failure=damage.failure(Stage.LIST, error))


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """Reads photos of a file; see `registry.Container.read`."""
    with compression.opened(uri) as (stream, _):
        for ref in refs:
            try:
                stream.seek(ref.place)
                record = next(_records(stream))
            except (StopIteration, *compression.DAMAGE) as error:
                yield damage.failure(Stage.READ, error)
                continue
            ((_, image),) = _parsed([record], options)
            if isinstance(image, bytes) and _etag(image, record) != ref.etag:
                yield Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the file changed after it was listed")
            else:
                yield image


def _records(stream: BinaryIO) -> Iterator[_Record]:
    """Yields the records from the current position of the stream.

    Raises:
      OSError: a length does not match its checksum, so no later record can be found.
      EOFError: the file ends within a record.
    """
    while header := stream.read(_HEADER.size):
        place = stream.tell() - len(header)
        if len(header) == _HEADER.size and not is_header(header):
            raise OSError(f"the record at byte {place} is damaged, so the records after it can't be found")
        length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
        if length > _LONGEST:
            raise EOFError(f"the record at byte {place} states a length of {length} bytes")
        if length > MAX_BYTES + _OVERHEAD:
            stream.seek(length, 1)
            data: bytes | Failure = Failure(Stage.READ, ErrorCode.TOO_LARGE, f"the record has {length} bytes")
        else:
            data = stream.read(length)
        checksum = stream.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise EOFError(f"the file ends within the record at byte {place}")
        expected = _CHECKSUM.unpack(checksum)[0]
        if isinstance(data, bytes) and tf_examples.checksum(data) != expected:
            data = Failure(Stage.READ, ErrorCode.CORRUPT, "the record does not match its checksum")
        yield _Record(place, data, expected)


def _batches(records: Iterator[_Record]) -> Iterator[list[_Record]]:
    batch: list[_Record] = []
    size = 0
    try:
        for record in records:
            batch.append(record)
            size += len(record.data) if isinstance(record.data, bytes) else 0
            if len(batch) == _BATCH_RECORDS or size > _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        # Whatever the damage raises, the records before it count.
        yield batch
        raise
    yield batch


def _parsed(records: Sequence[_Record], options: ListOptions) -> list[tuple[str, bytes | Failure]]:
    """The name and the photo of each record; the name is empty if the record has none."""
    keys = [options.name_column or NAME_FEATURE, options.image_column or IMAGE_FEATURE]
    whole = [record.data for record in records if isinstance(record.data, bytes)]
    parsed = iter(tf_examples.first_values(whole, keys))
    found: list[tuple[str, bytes | Failure]] = []
    for record in records:
        if isinstance(record.data, Failure):
            found.append(("", record.data))
            continue
        values = next(parsed)
        if values is None:
            found.append(("", Failure(Stage.READ, ErrorCode.CORRUPT, "the record is not a tf.Example")))
            continue
        name, image = values
        missing = Failure(Stage.READ, ErrorCode.EMPTY, f"the record has no feature {keys[1]}")
        text = (name or b"")[: damage.LONGEST_NAME].decode("utf-8", "backslashreplace")
        found.append((text, missing if image is None else image))
    return found


def _ref(uri: str, name: str, record: _Record, image: bytes | Failure, block: int) -> PhotoRef:
    ref = PhotoRef(uris.member_uri(uri, name), _etag(image, record), 0, uri, "tfrecord", record.place, block)
    if isinstance(image, Failure):
        return ref._replace(failure=image)
    return ref._replace(size=len(image), sha256=hashlib.sha256(image).hexdigest())


def _etag(image: bytes | Failure, record: _Record) -> str:
    return f"{len(image) if isinstance(image, bytes) else 0}-{record.checksum:08x}"
