"""Photos in zip archives, Google Takeout's exports among them. A member's `place` is its number in the directory."""

import contextlib
import functools
import zipfile
from collections.abc import Iterator, Sequence

from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import damage
from beamscribe.pipelines.sources.base import HEAD_BYTES, MAX_BYTES, Ignored, ListOptions, extension_of, is_photo

_ENCRYPTED = 1


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """The photos of an archive, or a failure for the archive itself."""
    found: dict[str, PhotoRef] = {}
    with stores.opened(uri) as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # noqa: BLE001 - it raises nearly anything on broken bytes
            yield PhotoRef(uri, etag=stores.version(uri), failure=damage.failure(Stage.LIST, error))
            return
        for place, member in enumerate(archive.infolist()):
            if member.is_dir():
                continue
            if ignored := options.passed_over(member.filename):
                yield ignored
            elif is_photo(member.filename, functools.partial(_head, archive, member)):
                # Of several members of one name the last counts, as where an archive is unpacked.
                found[member.filename] = _ref(uri, member, place)
            else:
                yield Ignored(extension_of(member.filename))
    yield from found.values()


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """The bytes of some members."""
    with stores.opened(uri) as file:
        try:
            archive = zipfile.ZipFile(file)
            directory = archive.infolist()
        except Exception as error:  # noqa: BLE001 - it raises nearly anything on broken bytes
            yield from (damage.failure(Stage.READ, error) for _ in refs)
            return
        for ref in refs:
            yield _content(archive, directory, ref)


def _content(archive: zipfile.ZipFile, directory: list[zipfile.ZipInfo], ref: PhotoRef) -> bytes | Failure:
    member = directory[ref.place] if ref.place < len(directory) else None
    if member is None or _etag(member) != ref.etag:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the archive is not the one that was listed")
    try:
        with archive.open(member) as file:
            # What a member says of its size need not be true.
            data = file.read(MAX_BYTES + 1)
    except NotImplementedError as error:
        return Failure(Stage.READ, ErrorCode.UNSUPPORTED_FORMAT, f"packed in a way that is not read: {error}")
    except Exception as error:  # noqa: BLE001 - what one member leads to must cost no other
        return damage.failure(Stage.READ, error)
    if len(data) > MAX_BYTES:
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"more than {MAX_BYTES} bytes, whatever the archive says")
    return data


def _ref(uri: str, member: zipfile.ZipInfo, place: int) -> PhotoRef:
    ref = PhotoRef(
        stores.member_uri(uri, member.filename), _etag(member), member.file_size, uri, "zip", place, block=place
    )
    if member.flag_bits & _ENCRYPTED:
        return ref._replace(failure=Failure(Stage.LIST, ErrorCode.UNSUPPORTED_FORMAT, "it is encrypted"))
    return ref


def _etag(member: zipfile.ZipInfo) -> str:
    return f"{member.file_size}-{member.CRC:08x}"


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with contextlib.suppress(Exception), archive.open(member) as file:
        return file.read(HEAD_BYTES)
    return b""
