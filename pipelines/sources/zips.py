"""Photos in zip archives, such as exports of Google Takeout. The `place` of a member is its index in the directory."""

import functools
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from beamscribe.pipelines import failures, stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import damage, zip_names
from beamscribe.pipelines.sources.base import HEAD_BYTES, MAX_BYTES, Ignored, ListOptions, extension_of, is_photo
from beamscribe.pipelines.stores import uris

_ENCRYPTED = 1


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos of an archive; if its directory is damaged, yields a failure of the archive itself."""
    found: dict[str, PhotoRef] = {}
    with stores.opened(uri) as file:
        try:
            archive = _opened(file)
        except Exception as error:  # noqa: BLE001 - `zipfile` raises nearly anything on broken bytes
            yield PhotoRef(uri, etag=stores.version(uri), failure=damage.failure(Stage.LIST, error))
            return
        for place, member in enumerate(archive.infolist()):
            # Not `is_dir`, which fails on the empty name that a damaged directory may hold.
            if member.filename.endswith("/"):
                continue
            if ignored := options.ignored_file(member.filename):
                yield ignored
            elif _may_be_photo(archive, member):
                # If several members have the same name, the last one counts, as when an archive is unpacked.
                found[member.filename] = _ref(uri, member, place)
            else:
                yield Ignored(extension_of(member.filename))
    yield from found.values()


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """Reads members of an archive; see `registry.Container.read`."""
    with stores.opened(uri) as file:
        try:
            archive = _opened(file)
            directory = archive.infolist()
        except Exception as error:  # noqa: BLE001 - `zipfile` raises nearly anything on broken bytes
            yield from (damage.failure(Stage.READ, error) for _ in refs)
            return
        for ref in refs:
            yield _content(archive, directory, ref)


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except UnicodeDecodeError:
        return zipfile.ZipFile(cast(BinaryIO, zip_names.WithoutWrongFlags(file)))


def _content(archive: zipfile.ZipFile, directory: list[zipfile.ZipInfo], ref: PhotoRef) -> bytes | Failure:
    member = directory[ref.place] if ref.place < len(directory) else None
    if member is None or _etag(member) != ref.etag:
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the archive changed after it was listed")
    try:
        with archive.open(member) as file:
            # The size that the directory states may be wrong, and `zipfile` inflates as much as it is asked for.
            data = file.read(min(member.file_size, MAX_BYTES) + 1)
    except NotImplementedError as error:
        return Failure(Stage.READ, ErrorCode.UNSUPPORTED_FORMAT, f"the member's compression is not supported: {error}")
    except Exception as error:  # noqa: BLE001 - one member must not fail other members
        return damage.failure(Stage.READ, error)
    if len(data) > MAX_BYTES:
        return Failure(Stage.READ, ErrorCode.TOO_LARGE, f"the photo has more than {MAX_BYTES} bytes")
    return data


def _ref(uri: str, member: zipfile.ZipInfo, place: int) -> PhotoRef:
    ref = PhotoRef(
        uris.member_uri(uri, member.filename), _etag(member), member.file_size, uri, "zip", place, block=place
    )
    if member.flag_bits & _ENCRYPTED:
        return ref._replace(failure=Failure(Stage.LIST, ErrorCode.UNSUPPORTED_FORMAT, "the member is encrypted"))
    return ref


def _etag(member: zipfile.ZipInfo) -> str:
    return f"{member.file_size}-{member.CRC:08x}"


def _may_be_photo(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether to list a member as a photo; also if its bytes can't be read, so that a failed row reports it."""
    try:
        return is_photo(member.filename, functools.partial(_head, archive, member))
    except Exception as error:  # `zipfile` raises nearly anything on broken bytes
        if failures.is_own_fault(error):
            raise
        return True


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(HEAD_BYTES)
