"""Tells the kind of an input by its bytes or, where they don't tell, by its name."""

import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from beamscribe.model.errors import BeamscribeError, InputError, one_line
from beamscribe.pipelines import stores
from beamscribe.pipelines.images import formats
from beamscribe.pipelines.sources import compression, damage, lists, parquets, tfrecords
from beamscribe.pipelines.sources.base import EXTENSIONS, HEAD_BYTES, ListOptions, Source, extension_of
from beamscribe.pipelines.stores import local, uris

# Names of containers: among the files that match a glob, only those with such a name are opened to tell their kind. Of
# a file whose bytes are none or zeros, as those of an archive of nothing are, the name tells its kind.
_NAMES = {
    "tar": re.compile(r"\.(tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$"),
    "zip": re.compile(r"\.zip$"),
    # The number of a shard may follow: photos.tfrecord-00000-of-00010.
    "tfrecord": re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$"),
    "parquet": re.compile(r"\.parquet$"),
}


def source_of(uri: str, options: ListOptions) -> Source:
    """Tells the kind of an input. It does not check whether a file matches a glob.

    Raises:
      InputError: the input does not exist, its kind is unknown, or it lacks a column that is needed.
    """
    if uris.has_wildcards(uri) and not stores.is_taken(uri):
        return Source(uri, "glob")
    if stores.is_folder(uri):
        return Source(uri, "folder")
    if not stores.exists(uri):
        raise InputError(f"{uri} does not exist; give a folder, a glob, a photo, a list or an archive")
    name = local.name_of(uris.local_path(uri)) if stores.is_local(uri) else uri
    source = Source(name, options.format or _file(uri, options))
    check(source, options)
    return source


def check(source: Source, options: ListOptions) -> None:
    """Checks that an input has the columns or features that its kind needs.

    Raises:
      InputError: a column or feature is missing, or the input can't be read.
    """
    if source.kind == "list":
        lists.check(source.uri, options)
    elif source.kind == "parquet":
        schema = _schema(source.uri)
        if not parquets.image_column(schema, options):
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            problem = f"can't find a column of photos in {source.uri}; it has {columns}; name the column"
            raise InputError(problem, "image_column")
    elif source.kind == "tfrecord":
        names = tfrecords.features(source.uri)
        wanted = options.image_column or tfrecords.IMAGE_FEATURE
        if names and wanted not in names:
            has = ", ".join(sorted(names))
            problem = f"the examples of {source.uri} have no feature {wanted}; they have {has}; name the feature"
            raise InputError(problem, "image_column")


def kind_in_glob(uri: str, options: ListOptions) -> str | None:
    """The kind of container of a file that matches a glob: by its bytes or, if they are damaged, by its name.

    Returns:
      None for other files, and for Parquet files without photos, which often lie beside archives.
    """
    by_name = _kind_by_name(uri)
    if options.format or by_name is None:
        return options.format
    try:
        return _container(uri, options) or (None if by_name == "parquet" else by_name)
    except (BeamscribeError, OSError):
        return by_name


def _kind_by_name(uri: str) -> str | None:
    name = uri.rpartition("/")[2].lower()
    return next((kind for kind, names in _NAMES.items() if names.search(name)), None)


def _file(uri: str, options: ListOptions) -> str:
    head = stores.head(uri, HEAD_BYTES)
    if formats.codecs(head):
        return "photo"
    kind = _container(uri, options)
    if kind is None and not _unpacked(uri, head).strip(b"\0"):
        kind = _kind_by_name(uri)
    if kind:
        return kind
    if extension_of(uri) in lists.EXTENSIONS:
        return "list"
    if extension_of(uri) in EXTENSIONS:
        # The photo is broken: reading it reports why.
        return "photo"
    raise InputError(f"can't tell what {uri} is; name its format", "format")


def _container(uri: str, options: ListOptions) -> str | None:
    """The kind of an archive or a record file; None for other files."""
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
    except compression.DAMAGE as error:
        if damage.is_of_store(error):
            raise
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
        raise InputError(f"can't read {uri}: {one_line(error)}") from None
