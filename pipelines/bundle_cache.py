"""Finds model bundles, and fetches those in a remote store once per machine."""

import os
import shutil
import uuid
from pathlib import Path

import filelock

from beamscribe.model import bundle
from beamscribe.model.bundle import Description
from beamscribe.model.errors import BeamscribeError, InputError, one_line, path_of
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import rows
from beamscribe.pipelines.stores import uris


def located(bundle: str | os.PathLike[str] | None) -> str:
    """The URI by which workers find a bundle: empty for the bundle in the package, whose path differs by machine.

    Args:
      bundle: path or URI of the bundle's folder; None for the bundle in the package.

    Raises:
      InputError: the argument is no path, or is empty, as it is where a shell variable is not set.
    """
    if bundle is None:
        return ""
    uri = path_of("bundle", bundle)
    return os.path.abspath(uris.local_path(uri)) if stores.is_local(uri) else uri.rstrip("/")


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
        path = stores.join(uri, bundle.DESCRIPTION)
        return Description.from_json(stores.read(path), path)
    except FileNotFoundError:
        raise InputError(f"{uri} is not a model bundle: it has no {bundle.DESCRIPTION}") from None
    except OSError as error:
        raise BeamscribeError(f"can't read the bundle {uri}: {one_line(error)}") from None


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
            path = beside / file.removeprefix(f"{uri}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.result())
        _check(beside, uri, fingerprint)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
