"""Finds model bundles, and fetches those in a remote store once per machine."""

import os
import shutil
import uuid
from pathlib import Path

import filelock

from beamscribe.model import bundle
from beamscribe.model.bundle import DESCRIPTION, Description
from beamscribe.model.errors import PROGRAMMING_ERRORS, BeamscribeError, InputError, one_line, path_of
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import rows
from beamscribe.pipelines.stores import uris


def located(bundle: str | os.PathLike[str] | None) -> str:
    """The URI by which workers find a bundle: empty for the bundle in the package, whose path differs by machine.

    Args:
      bundle: path or URI of the bundle's folder; None for the bundle in the package.

    Raises:
      InputError: the argument is no path, or is empty, as it is where a shell variable is not set; or nothing can be
        read from such a URI.
    """
    if bundle is None:
        return ""
    uri = path_of("bundle", bundle)
    try:
        folder = stores.absolute(uri)
        stores.join(folder, DESCRIPTION)
    except InputError as error:
        raise InputError(f"`bundle`: {error}") from None
    except ValueError:
        # Beam has no filesystem for the scheme, and its error is as long as three lines.
        raise _unreadable(uri, f"there is no store for {uris.scheme_of(uri)}://") from None
    except OSError as error:
        raise _unreadable(uri, error) from None
    return folder


def described(uri: str) -> Description:
    """Reads a bundle's description. The files of a local bundle are checked; those of a remote one when it is fetched.

    Args:
      uri: URI of the bundle, as `located` returns it.

    Raises:
      InputError: the folder is not a bundle.
      BeamscribeError: the folder can't be read, or a file of the bundle is missing or changed.
    """
    try:
        if stores.is_local(uri):
            return bundle.describe(_folder(uri))
        path = stores.join(uri, DESCRIPTION)
        return Description.from_json(stores.read(path), path)
    except FileNotFoundError:
        raise InputError(f"{uri} is not a model bundle: it has no {DESCRIPTION}") from None
    except OSError as error:
        if _is_of_beam(uri):
            raise _unreadable(uri, error) from None
        raise BeamscribeError(f"can't read the bundle {uri}: {one_line(error)}") from None
    except PROGRAMMING_ERRORS as error:
        # So does a filesystem of Beam say that its library or its options are missing.
        if _is_of_beam(uri):
            raise _unreadable(uri, error) from None
        raise


def fetched(uri: str, fingerprint: str) -> Path:
    """The folder of a bundle on this machine; a remote bundle is fetched if this machine has no copy of it.

    Args:
      uri: URI of the bundle, as `located` returns it.
      fingerprint: fingerprint that the bundle must have.

    Raises:
      BeamscribeError: the bundle has another fingerprint, is damaged, or can't be fetched.
    """
    if stores.is_local(uri):
        folder = _folder(uri)
        _check(folder, str(folder), fingerprint)
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "beamscribe", "bundles")
    folder = cache / fingerprint
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # One process fetches the bundle, while the other processes of the machine wait.
        with filelock.FileLock(cache / f"{fingerprint}.lock"):
            if not _is_whole(folder, fingerprint):
                _fetch(uri, folder, fingerprint)
    except OSError as error:
        raise BeamscribeError(f"can't fetch the bundle {uri}: {one_line(error)}") from None
    return folder


def _is_of_beam(uri: str) -> bool:
    return not stores.is_local(uri) and uris.scheme_of(uri) != "gs"


def _unreadable(uri: str, error: object) -> InputError:
    return InputError(f"`bundle`: can't read {uri}: {one_line(error)}; give a folder of this machine or of gs://")


def _folder(uri: str) -> Path:
    return Path(uri) if uri else bundle.DEFAULT


def _check(folder: Path, name: str, fingerprint: str) -> None:
    try:
        found = bundle.describe(folder).fingerprint
    except BeamscribeError as error:
        raise BeamscribeError(str(error).replace(str(folder), name)) from None
    if found != fingerprint:
        raise BeamscribeError(
            f"the bundle {name} is not the one that the job was started with: its fingerprint is {found}, not "
            f"{fingerprint}; provide the same bundle on every machine"
        )


def _is_whole(folder: Path, fingerprint: str) -> bool:
    try:
        _check(folder, str(folder), fingerprint)
    except BeamscribeError:
        return False
    return True


def _fetch(uri: str, folder: Path, fingerprint: str) -> None:
    """Downloads a bundle to a temporary folder, checks it, and renames the folder."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        files = (found.uri for found in stores.below(uri) if not uris.is_folder_marker(found.uri))
        for file, data in rows.read_ahead(stores.read, files):
            path = beside / _checked_name(file, uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.result())
        _check(beside, uri, fingerprint)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _checked_name(file: str, uri: str) -> str:
    """The name of a file of a bundle, below the bundle's folder: an object of a bucket can have any name.

    Raises:
      BeamscribeError: the name leads out of the folder, or no file can have it.
    """
    name = file.removeprefix(f"{uri}/")
    if name == file or {"", ".", ".."} & {*name.split("/")} or not name.isprintable() or "\\" in name:
        raise BeamscribeError(f"the bundle {uri} is refused: its object {file} has a name that no file of a bundle has")
    return name
