"""Tells what an input is, by its bytes."""

import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.model.errors import UserError
from beamscribe.pipelines import stores
from beamscribe.pipelines.images import formats
from beamscribe.pipelines.sources import compression, lists, parquets, tfrecords
from beamscribe.pipelines.sources.base import EXTENSIONS, HEAD_BYTES, ListOptions, Source, extension_of

# Among the files of a glob, what is named like these is looked into.
_NAMES = {
    "tar": re.compile(r"\.(tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$"),
    "zip": re.compile(r"\.zip$"),
    # With its number behind it, too: photos.tfrecord-00000-of-00010.
    "tfrecord": re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$"),
    "parquet": re.compile(r"\.parquet$"),
}


def source_of(uri: str, options: ListOptions) -> Source:
    """What an input is. Whether anything matches a glob is left to whoever lists it.

    Raises:
      UserError: there is no such thing, or it can't be told what it is.
    """
    if stores.has_wildcards(uri) and not stores.is_taken(uri):
        return Source(uri, "glob")
    if stores.is_folder(uri):
        return Source(uri, "folder")
    if not stores.exists(uri):
        raise UserError(f"--input: there is no {uri}; give a folder, a glob, a photo, a list or an archive")
    source = Source(uri, options.format or _file(uri, options))
    check(source, options)
    return source


def check(source: Source, options: ListOptions) -> None:
    """Looks for what an input must have.

    Raises:
      UserError: a list without a column of URIs, say.
    """
    if source.kind == "list":
        lists.check(source.uri, options)
    elif source.kind == "parquet":
        schema = _schema(source.uri)
        if not parquets.image_column(schema, options):
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise UserError(f"--input: {source.uri} has no column of photos, but {columns}; see --image-column")
    elif source.kind == "tfrecord":
        names = tfrecords.features(source.uri)
        wanted = options.image_column or tfrecords.IMAGE_FEATURE
        if names and wanted not in names:
            has = ", ".join(sorted(names))
            raise UserError(f"--input: the examples of {source.uri} have no {wanted}, but {has}; see --image-column")


def kind_in_glob(uri: str, options: ListOptions) -> str | None:
    """What one of the files of a glob is: a kind of container, by its bytes or, where they are damaged, by its name.

    None for others, and for Parquet without photos, which often lies beside archives.
    """
    name = uri.rpartition("/")[2].lower()
    by_name = next((kind for kind, names in _NAMES.items() if names.search(name)), None)
    if options.format or by_name is None:
        return options.format
    try:
        return _container(uri, options) or (None if by_name == "parquet" else by_name)
    except (UserError, OSError):
        return by_name


def _file(uri: str, options: ListOptions) -> str:
    head = stores.head(uri, HEAD_BYTES)
    if formats.codecs(head):
        return "photo"
    kind = _container(uri, options)
    if kind:
        return kind
    if extension_of(uri) in lists.EXTENSIONS:
        return "list"
    if extension_of(uri) in EXTENSIONS:
        # Broken, then: reading it says in which way.
        return "photo"
    raise UserError(f"--input: what {uri} is, its bytes don't say; name it with --input-format")


def _container(uri: str, options: ListOptions) -> str | None:
    """The format of an archive or a record file; None where it is neither."""
    head = stores.head(uri, HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"PAR1"):
        return "parquet" if parquets.image_column(_schema(uri), options) else None
    head = _unpacked(uri, head)
    if tfrecords.is_header(head):
        return "tfrecord"
    return "tar" if _is_tar(head) else None


def _unpacked(uri: str, head: bytes) -> bytes:
    try:
        with compression.opened(uri) as (stream, is_plain):
            return head if is_plain else stream.read(HEAD_BYTES)
    except compression.DAMAGE:
        return b""


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _schema(uri: str) -> pa.Schema:
    try:
        with stores.opened(uri) as file:
            return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--input: can't read {uri}: {' '.join(str(error).split())}") from None
