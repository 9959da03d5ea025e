"""Photos in tar archives, plain or compressed, such as WebDataset's shards.

The `place` of a member is the offset of its bytes in the uncompressed archive. A plain archive is read at any offset. A
compressed one can only be read from its beginning, so all its members are one block.
"""

import functools
import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import compression, damage
from beamscribe.pipelines.sources.base import HEAD_BYTES, MAX_BYTES, Ignored, ListOptions, extension_of, is_photo
from beamscribe.pipelines.stores import uris
from beamscribe.pipelines.stores.base import WrappedFile

# Names and attributes are far smaller. A header with a larger size would make `tarfile` fill the memory.
_LARGEST_READ = 2**20


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """Lists the photos of an archive. If it is damaged, yields the photos before the damage and a failure of itself."""
    found: dict[str, PhotoRef] = {}
    links: dict[str, str] = {}
    places: dict[str, PhotoRef] = {}
    failure = None
    version = stores.version(uri)
    with compression.opened(uri) as (stream, is_plain):
        try:
            if not stream.read(1):
                # To `tar`, it is an archive of nothing. As it may also be a copy that failed, the report counts it.
                yield Ignored(extension_of(uri))
                return
            stream.seek(0)
            for number, member in enumerate(_entries(stream)):
                if member.isdir():
                    continue
                is_link = member.issym() or member.islnk()
                ref = _ref(uri, version, member, number if is_plain else 0)
                if member.isfile():
                    places[_normal(member.name)] = ref
                if ignored := options.ignored_file(_normal(member.name)):
                    yield ignored
                elif not (is_link or member.isfile()) or not is_photo(
                    member.name, functools.partial(_head, stream, member)
                ):
                    yield Ignored(extension_of(member.name))
                else:
                    # If several members have the same name, the last one counts, as when an archive is unpacked.
                    links.pop(member.name, None)
                    if is_link:
                        links[member.name] = _target(member)
                    elif not is_plain and not ref.failure and ref.size <= MAX_BYTES:
                        # With its digest, finding duplicates does not have to decompress the archive again.
                        ref = ref._replace(sha256=_digest(stream, ref))
                        places[_normal(member.name)] = ref
                    found[member.name] = ref
        except Exception as error:  # noqa: BLE001 - damage may raise anything, and the members before it count
            failure = damage.failure(Stage.LIST, error)
    for name, target in links.items():
        found[name] = _followed(found[name], places.get(target), target)
    yield from found.values()
    if failure:
        yield PhotoRef(uri, etag=version, failure=failure)


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """Reads members of an archive; see `registry.Container.read`."""
    with compression.opened(uri) as (stream, _):
        last: tuple[int, bytes | Failure] | None = None
        for ref in refs:
            # Links share the place of their target; reading it again would decompress the archive again.
            if last is None or last[0] != ref.place:
                try:
                    last = ref.place, _content(stream, ref)
                except Exception as error:  # noqa: BLE001 - one member must not fail other members
                    last = ref.place, damage.failure(Stage.READ, error)
            yield last[1]


def _digest(stream: BinaryIO, ref: PhotoRef) -> str:
    stream.seek(ref.place)
    return hashlib.sha256(stream.read(ref.size)).hexdigest()


def _content(stream: BinaryIO, ref: PhotoRef) -> bytes | Failure:
    # The header comes right before the bytes; a link shares both with its target.
    stream.seek(ref.place - tarfile.BLOCKSIZE)
    header = stream.read(tarfile.BLOCKSIZE)
    if not ref.etag.endswith(f"-{_checksum(header)}"):
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the archive changed after it was listed")
    data = stream.read(ref.size)
    if len(data) < ref.size:
        return Failure(Stage.READ, ErrorCode.TRUNCATED, f"the archive ends {ref.size - len(data)} bytes too early")
    return data


def _checksum(header: bytes) -> int | None:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").chksum
    except tarfile.HeaderError:
        return None


class _BoundedStream(WrappedFile):
    """A stream that refuses huge reads, which `tarfile` makes if a header states a huge size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > _LARGEST_READ:
            raise tarfile.ReadError("a header states a size that is larger than in any valid archive")
        return super().read(size)


def _entries(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=_BoundedStream(stream), mode="r:") as archive:
        while member := archive.next():
            # Otherwise, `tarfile` would keep all members in memory.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.size < 0 or archive.offset <= member.offset:
                # Otherwise, `tarfile` would read the same member again for ever (CVE-2025-8194).
                raise tarfile.ReadError(f"the header at byte {member.offset} points backwards")
            if len(member.name) > damage.LONGEST_NAME:
                raise tarfile.ReadError(
                    f"the member at byte {member.offset} has a name of {len(member.name)} characters"
                )
            yield member
        # `tarfile` takes an invalid header for the end of the archive.
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if not end:
            raise EOFError("the archive has no end mark, so members may be missing")
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"the header at byte {archive.offset} is invalid")


def _ref(uri: str, version: str, member: tarfile.TarInfo, block: int) -> PhotoRef:
    photo = uris.member_uri(uri, member.name)
    # Reproducible archives contain no modification times.
    time = f"{member.mtime:.0f}" if member.mtime else version
    etag = f"{member.size}-{time}-{member.chksum}"
    ref = PhotoRef(photo, etag, member.size, uri, "tar", member.offset_data, block)
    if member.issparse():
        message = "the member is a sparse file of GNU tar, which is not supported"
        return ref._replace(failure=Failure(Stage.LIST, ErrorCode.UNSUPPORTED_FORMAT, message))
    return ref


def _head(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    # The next header comes after these bytes, so a compressed archive is not decompressed again.
    stream.seek(member.offset_data)
    return stream.read(min(member.size, HEAD_BYTES))


def _target(member: tarfile.TarInfo) -> str:
    """The name of the member that a link points to."""
    if member.islnk():
        return _normal(member.linkname)
    folder = member.name.rpartition("/")[0]
    return _normal(f"{folder}/{member.linkname}")


def _normal(name: str) -> str:
    """Removes `.`, `..` and the leading slash from a name, so that it stays inside the archive."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _followed(link: PhotoRef, target: PhotoRef | None, name: str) -> PhotoRef:
    """The reference of a link, which points to the bytes of the link's target. Links to links are not followed."""
    if target is None or not target.size:
        message = f"the member is a link to {uris.encodable(name)}, which is not a file of this archive"
        return link._replace(failure=Failure(Stage.LIST, ErrorCode.NOT_FOUND, message))
    return target._replace(photo=link.photo)
