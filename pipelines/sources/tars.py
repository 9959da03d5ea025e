"""Photos in tar archives, plain or compressed, WebDataset's shards among them.

A member's `place` is where its bytes begin in the uncompressed archive. A plain archive is read at any place; a
compressed one only from its beginning, so that all its members are one block.
"""

import functools
import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from beamscribe.pipelines import stores
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources import compression, damage
from beamscribe.pipelines.sources.base import HEAD_BYTES, MAX_BYTES, Ignored, ListOptions, extension_of, is_photo

# Names and attributes are far smaller; an archive that says otherwise would fill the memory.
_LARGEST_READ = 2**20


def members(uri: str, options: ListOptions) -> Iterator[PhotoRef | Ignored]:
    """The photos of an archive; where it is damaged, what comes before, and a failure for the archive itself."""
    found: dict[str, PhotoRef] = {}
    links: dict[str, str] = {}
    places: dict[str, PhotoRef] = {}
    failure = None
    version = stores.version(uri)
    with compression.opened(uri) as (stream, is_plain):
        try:
            for number, member in enumerate(_entries(stream)):
                if member.isdir():
                    continue
                is_link = member.issym() or member.islnk()
                ref = _ref(uri, version, member, number if is_plain else 0)
                if member.isfile():
                    places[_normal(member.name)] = ref
                if ignored := options.passed_over(_normal(member.name)):
                    yield ignored
                elif not (is_link or member.isfile()) or not is_photo(
                    member.name, functools.partial(_head, stream, member)
                ):
                    yield Ignored(extension_of(member.name))
                else:
                    # Of several members of one name the last counts, as where an archive is unpacked.
                    links.pop(member.name, None)
                    if is_link:
                        links[member.name] = _target(member)
                    elif not is_plain and not ref.failure and ref.size <= MAX_BYTES:
                        # It passes by only once: whoever compares photos need not unpack the archive again.
                        ref = ref._replace(sha256=_digest(stream, ref))
                        places[_normal(member.name)] = ref
                    found[member.name] = ref
        except Exception as error:  # noqa: BLE001 - whatever the damage leads to, what came before counts
            failure = damage.failure(Stage.LIST, error)
    for name, target in links.items():
        found[name] = _followed(found[name], places.get(target), target)
    yield from found.values()
    if failure:
        yield PhotoRef(uri, etag=version, failure=failure)


def read(uri: str, refs: Sequence[PhotoRef], options: ListOptions) -> Iterator[bytes | Failure]:
    """The bytes of some members, which are in the order of their places."""
    with compression.opened(uri) as (stream, _):
        last: tuple[int, bytes | Failure] | None = None
        for ref in refs:
            # Links share the place of their target, to which a compressed stream would have to go back.
            if last is None or last[0] != ref.place:
                try:
                    last = ref.place, _content(stream, ref)
                except Exception as error:  # noqa: BLE001 - what one member leads to must cost no other
                    last = ref.place, damage.failure(Stage.READ, error)
            yield last[1]


def _digest(stream: BinaryIO, ref: PhotoRef) -> str:
    stream.seek(ref.place)
    return hashlib.sha256(stream.read(ref.size)).hexdigest()


def _content(stream: BinaryIO, ref: PhotoRef) -> bytes | Failure:
    # The header lies right before the bytes, and links share both.
    stream.seek(ref.place - tarfile.BLOCKSIZE)
    header = stream.read(tarfile.BLOCKSIZE)
    if not ref.etag.endswith(f"-{_checksum(header)}"):
        return Failure(Stage.READ, ErrorCode.CHANGED_WHILE_READING, "the archive is not the one that was listed")
    data = stream.read(ref.size)
    if len(data) < ref.size:
        return Failure(Stage.READ, ErrorCode.TRUNCATED, f"the archive ends {ref.size - len(data)} bytes early")
    return data


def _checksum(header: bytes) -> int | None:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").chksum
    except tarfile.HeaderError:
        return None


class _Careful(io.RawIOBase):
    """A stream that refuses to be read in huge pieces, which `tarfile` does where a header says so."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > _LARGEST_READ:
            raise tarfile.ReadError("a header says that it is larger than any honest one")
        return self._stream.read(size)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _entries(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=_Careful(stream), mode="r:") as archive:
        while member := archive.next():
            # It would remember all of them.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.size < 0 or archive.offset <= member.offset:
                # It would come again for ever (CVE-2025-8194).
                raise tarfile.ReadError(f"the header at byte {member.offset} leads backwards")
            if len(member.name) > damage.LONGEST_NAME:
                raise tarfile.ReadError(
                    f"the member at byte {member.offset} has a name of {len(member.name)} characters"
                )
            yield member
        # A header that makes no sense looks to `tarfile` like the end.
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if not end:
            raise EOFError("the archive has no end mark, so that members may be missing")
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"what is at byte {archive.offset} is no member's header")


def _ref(uri: str, version: str, member: tarfile.TarInfo, block: int) -> PhotoRef:
    photo = stores.member_uri(uri, member.name)
    # Archives that are to come out the same each time have no times in them.
    time = f"{member.mtime:.0f}" if member.mtime else version
    etag = f"{member.size}-{time}-{member.chksum}"
    ref = PhotoRef(photo, etag, member.size, uri, "tar", member.offset_data, block)
    if member.issparse():
        message = "it is stored with holes (a sparse file of GNU tar), which is not read"
        return ref._replace(failure=Failure(Stage.LIST, ErrorCode.UNSUPPORTED_FORMAT, message))
    return ref


def _head(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    # The next header lies behind these bytes, so that reading them costs no second pass.
    stream.seek(member.offset_data)
    return stream.read(min(member.size, HEAD_BYTES))


def _target(member: tarfile.TarInfo) -> str:
    """The name of the member that a link leads to."""
    if member.islnk():
        return _normal(member.linkname)
    folder = member.name.rpartition("/")[0]
    return _normal(f"{folder}/{member.linkname}")


def _normal(name: str) -> str:
    """A name without `.`, `..` and what leads out of the archive."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _followed(link: PhotoRef, target: PhotoRef | None, name: str) -> PhotoRef:
    """A link's reference to the bytes of its target; links to links are not followed."""
    if target is None or not target.size:
        message = f"a link to {stores.encodable(name)}, which is not a file of this archive"
        return link._replace(failure=Failure(Stage.LIST, ErrorCode.NOT_FOUND, message))
    return target._replace(photo=link.photo)
