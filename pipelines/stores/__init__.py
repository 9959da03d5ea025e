"""Local and remote files behind one small interface: each function calls the store of the URI.

A store is a class (`base.Store`): `local` for files of this machine, `gcs` for `gs://`, `beam_files` for the other
filesystems that Beam can read. This module alone chooses the store, by the scheme of the URI.
"""

import contextlib
import glob
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines.stores.base import FileInfo, NotExclusiveError, Store
from beamscribe.pipelines.stores.beam_files import BeamStore
from beamscribe.pipelines.stores.gcs import GcsStore
from beamscribe.pipelines.stores.local import LocalStore
from beamscribe.pipelines.stores.uris import is_folder_marker, local_path, local_uri, scheme_of

_STORES: dict[str, Store] = {"file": LocalStore(), "gs": GcsStore()}
_OTHERS = BeamStore()


def store_of(uri: str) -> Store:
    """The store that a URI belongs to."""
    return _STORES.get(scheme_of(uri), _OTHERS)


def is_local(uri: str) -> bool:
    """Whether a URI is a path of this machine."""
    return store_of(uri).is_local


def absolute(uri: str) -> str:
    """An absolute path, or a URI without a slash at its end.

    Raises:
      InputError: a URI ends after its scheme, as it does where a shell variable is not set.
    """
    if re.fullmatch(r"[a-z][a-z0-9+.-]*:/*", uri):
        raise InputError(f"{uri} names no bucket; is a shell variable not set?")
    return os.path.abspath(local_path(uri)) if is_local(uri) else uri.rstrip("/")


def join(base: str, *parts: str) -> str:
    """Joins path components with the separator of the store that holds `base`."""
    return store_of(base).join(base, *parts)


def folder_of(uri: str) -> str:
    """The folder that contains a file."""
    return store_of(uri).folder_of(uri)


def resolved(folder: str, entry: str) -> str:
    """Resolves an entry of a list of URIs: a relative entry is relative to the list's folder."""
    if not is_local(entry):
        return entry
    path = local_path(entry)
    if is_local(folder) or os.path.isabs(path):
        return local_uri(os.path.normpath(os.path.join(local_path(folder), path)))
    return join(folder, *(part for part in entry.split("/") if part != "."))


def read(uri: str, most: int | None = None) -> bytes:
    """Reads a whole file; retries if a remote store reports a transient error.

    Args:
      uri: URI of the file.
      most: number of bytes that the file may have; None for any number.

    Raises:
      TooLongError: the file has more than `most` bytes; hardly more of them were read.
      OSError: the store reported an error.
    """
    return store_of(uri).read(uri, most)


def opened(uri: str) -> AbstractContextManager[BinaryIO]:
    """Opens a file as a seekable stream of bytes.

    Raises:
      OSError: the store reported an error.
    """
    return store_of(uri).open(uri)


def head(uri: str, size: int) -> bytes:
    """Reads the first `size` bytes of a file; fewer if the file is shorter.

    Raises:
      NotAFileError: the path can't be read as a file; it is a socket, for example.
      OSError: the store reported an error.
    """
    return store_of(uri).head(uri, size)


def stat(uri: str) -> FileInfo | None:
    """The store's information about a file; None if the file does not exist.

    Raises:
      OSError: the store reported an error.
    """
    return store_of(uri).stat(uri)


def version(uri: str) -> str:
    """The version of a file's bytes, the same as in listings; empty if the file does not exist.

    Raises:
      OSError: the store reported an error.
    """
    found = stat(uri)
    return found.version if found else ""


def exists(uri: str) -> bool:
    """Whether a file exists; on a local disk, a folder or a broken link counts, too.

    Raises:
      OSError: the store reported an error.
    """
    return store_of(uri).exists(uri)


def is_taken(uri: str) -> bool:
    """Whether a file or folder of exactly this name exists; wildcards in it are taken literally."""
    return store_of(uri).is_taken(uri)


def is_folder(uri: str) -> bool:
    """Whether a folder exists; in a store without folders, whether files exist below the name."""
    return store_of(uri).is_folder(uri)


def below(folder: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """Lists all files below a folder; see `base.Store.list`."""
    return store_of(folder).list(folder, start, end)


def listed(pattern: str, start: str = "", end: str = "") -> Iterator[FileInfo]:
    """Lists the files that match a glob; see `base.Store.matching`."""
    return store_of(pattern).matching(pattern, start, end)


def matching(pattern: str, refused: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """The URIs of the files that match a glob, in any order; none if the folder does not exist.

    Args:
      pattern: the glob.
      refused: called with each local folder that can't be opened, since it may contain matching files.
    """
    found = store_of(pattern).matching(pattern, refused=refused)
    return (info.uri for info in found if not is_folder_marker(info.uri))


def within(folder: str, *pattern: str) -> Iterator[str]:
    """The URIs of the files in a folder that match a glob; wildcards in the folder's name are taken literally.

    Args:
      folder: the folder.
      pattern: components of the glob, relative to the folder.
    """
    return matching(join(glob.escape(folder), *pattern))


def create(uri: str, data: bytes) -> bool:
    """Writes a new file atomically; an existing file stays as it is.

    Returns:
      Whether this call wrote the file; False if the file already existed.

    Raises:
      NotExclusiveError: a local filesystem can't create files exclusively.
      OSError: the store reported an error.
    """
    return store_of(uri).create(uri, data)


def replace(uri: str, data: bytes) -> None:
    """Writes a file atomically; an existing file is replaced.

    Raises:
      OSError: the store reported an error.
    """
    store_of(uri).replace(uri, data)


def delete(uri: str) -> None:
    """Deletes a file if it exists; on a local disk, its folder, too, if that is empty afterwards.

    Raises:
      OSError: the store reported an error.
    """
    store_of(uri).delete(uri)


def check_exclusive(folder: str) -> None:
    """Checks that the store of a folder creates files exclusively, which commits and leases depend on.

    The check creates a probe file twice, and deletes it.

    Raises:
      BeamscribeError: the store does not create files exclusively.
      OSError: the folder is not writable.
    """
    problem = None if store_of(folder).is_exclusive else "its store lets the last writer of a file win"
    problem = problem or _not_exclusive(join(folder, f".probe-{uuid.uuid4().hex}"))
    if problem:
        raise BeamscribeError(
            f"{folder} can't hold captions: {problem}; choose a folder on another disk or in another store"
        )


def _not_exclusive(path: str) -> str | None:
    try:
        created = create(path, b"1"), create(path, b"2")
        if created == (True, False) and read(path) == b"1":
            return None
    except NotExclusiveError as error:
        return error.strerror
    finally:
        # A probe that can't be deleted does no harm: its name is hidden, and no job uses it again.
        with contextlib.suppress(OSError):
            delete(path)
    return "its store created the same file twice, so two jobs could overwrite each other's files"
