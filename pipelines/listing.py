"""What there is to caption: photos of a folder, a glob or a single file, as references."""

import dataclasses
import itertools
import os
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from pipelines import storage
from pipelines.photos import PhotoRef

# A file is taken for a photo by its name here, and by its bytes when it is read.
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
)


@dataclasses.dataclass
class ListPhotos(beam.PTransform):
    """From inputs (folders, globs, single files) to `PhotoRef`s.

    Attributes:
      limit: take only so many of each input, in the order of their names; None for all.
    """

    limit: int | None = None

    def expand(self, inputs):
        """`inputs` are URIs."""

        def first(uri: str) -> Iterator[PhotoRef]:
            return itertools.islice(list_photos(uri), self.limit)

        return inputs | "ListInput" >> beam.FlatMap(first).with_output_types(PhotoRef)


def list_photos(uri: str) -> Iterator[PhotoRef]:
    """Lists one input.

    Args:
      uri: a folder (all below it), a glob, or a photo; local or of any filesystem that Beam knows.

    Yields:
      Each file that is named like a photo, and what only could not be looked at: reading says why.
    """
    if not storage.is_local(uri):
        yield from _list_remote(uri)
    elif os.path.isdir(uri):
        yield from _walk(os.path.abspath(uri), seen=set())
    elif os.path.lexists(uri):
        yield _local_ref(os.path.abspath(uri))
    else:
        for path in sorted(storage.matching(os.path.abspath(uri))):
            if is_photo_name(path):
                yield _local_ref(path)


def is_photo_name(name: str) -> bool:
    """Whether a file's extension is that of a photo format."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[PhotoRef]:
    """All below a folder, links to folders followed, each real folder once."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            names = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError:
        # A folder that can't be opened may hold photos: it becomes a row, so that somebody learns of it.
        yield PhotoRef(storage.local_uri(folder), etag="")
        return
    for name, is_folder in names:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _walk(path, seen)
        elif is_photo_name(name):
            yield _local_ref(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, say: one entry that can't be looked at must not hide the others of its folder.
        return False


def _local_ref(path: str) -> PhotoRef:
    try:
        status = os.stat(path)
    except OSError:
        try:
            # A link to nothing is listed, too; its own time tells when it was changed.
            status = os.lstat(path)
        except OSError:
            # Gone since its folder was read: reading it will say so.
            return PhotoRef(storage.local_uri(path), etag="")
    return PhotoRef(storage.local_uri(path), etag=f"{status.st_size}-{status.st_mtime_ns}", size=status.st_size)


def _list_remote(uri: str) -> Iterator[PhotoRef]:
    patterns = [uri] if any(wildcard in uri for wildcard in "*?[") else [uri, storage.join(uri, "**")]
    for match in FileSystems.match(patterns):
        for metadata in match.metadata_list:
            if is_photo_name(metadata.path):
                etag = f"{metadata.size_in_bytes}-{metadata.last_updated_in_seconds}"
                yield PhotoRef(metadata.path, etag, metadata.size_in_bytes)
