"""Finds model bundles, and fetches those in a remote store once per machine, where their digest is as it was given."""

import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import filelock

from beamscribe.model import bundle
from beamscribe.model.bundle import DESCRIPTION, Description
from beamscribe.model.errors import PROGRAMMING_ERRORS, BeamscribeError, InputError, one_line, path_of
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import rows
from beamscribe.pipelines.stores import uris

# What stands between a bundle's place and the digest that it must have.
_PIN = "@sha256:"


class _Pinned(NamedTuple):
    """A bundle's place, and the digest that it must have; the digest is empty where none was given."""

    place: str
    digest: str


def located(bundle: str | os.PathLike[str] | None) -> str:
    """The URI by which workers find a bundle: empty for the bundle in the package, whose path differs by machine.

    Args:
      bundle: path or URI of the bundle's folder, with its digest after `@sha256:` or without; None for the bundle in
        the package.

    Raises:
      InputError: the argument is no path, or is empty, as it is where a shell variable is not set; nothing can be read
        from such a URI; or what should be a digest is none.
    """
    if bundle is None:
        return ""
    uri, pin, digest = path_of("bundle", bundle).partition(_PIN)
    if pin and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InputError(f"`bundle`: {digest!r} is no digest: 64 hexadecimal digits come after {_PIN}")
    try:
        folder = stores.absolute(path_of("bundle", uri))
        stores.join(folder, DESCRIPTION)
    except InputError as error:
        raise InputError(f"`bundle`: {str(error).removeprefix('`bundle`: ')}") from None
    except ValueError:
        # Beam has no filesystem for the scheme, and its error is as long as three lines.
        raise _unreadable(uri, f"there is no store for {uris.scheme_of(uri)}://") from None
    except OSError as error:
        raise _unreadable(uri, error) from None
    return folder + pin + digest.lower()


def described(uri: str) -> Description:
    """Reads a bundle's description, and checks the bundle's files; a remote bundle is fetched.

    Args:
      uri: URI of the bundle, as `located` returns it.

    Raises:
      InputError: the folder is not a bundle, or has another digest than the URI; or it is a remote one and the URI has
        no digest. The error says which one the bundle has.
      BeamscribeError: the folder can't be read, or a file of the bundle is missing or changed.
    """
    return _describe(*_folder(uri))


def fetched(uri: str, fingerprint: str) -> Path:
    """The folder of a bundle on this machine; a remote bundle is fetched if this machine has no copy of it.

    Args:
      uri: URI of the bundle, as `located` returns it.
      fingerprint: fingerprint that the bundle must have.

    Raises:
      BeamscribeError: the bundle has another fingerprint or digest, is damaged, or can't be fetched.
    """
    folder, name = _folder(uri)
    found = _describe(folder, name).fingerprint
    if found != fingerprint:
        raise BeamscribeError(
            f"the bundle {name} is not the one that the job was started with: its fingerprint is {found}, not "
            f"{fingerprint}; provide the same bundle on every machine"
        )
    return folder


def _folder(uri: str) -> tuple[Path, str]:
    """The folder of a bundle on this machine, whose digest was checked where one was given, and its name for errors."""
    wanted = _Pinned(*uri.split(_PIN)) if _PIN in uri else _Pinned(uri, "")
    if not uri:
        return bundle.DEFAULT, str(bundle.DEFAULT)
    if not stores.is_local(wanted.place):
        return _cached(wanted), wanted.place
    folder = Path(wanted.place)
    if wanted.digest and (folder / DESCRIPTION).is_file():
        try:
            _check_digest(bundle.digest(folder), wanted)
        except OSError as error:
            raise BeamscribeError(f"can't read the bundle {wanted.place}: {one_line(error)}") from None
    return folder, wanted.place


def _describe(folder: Path, name: str) -> Description:
    try:
        return bundle.describe(folder)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), name)) from None
    except BeamscribeError as error:
        raise BeamscribeError(str(error).replace(str(folder), name)) from None
    except OSError as error:
        raise BeamscribeError(f"can't read the bundle {name}: {one_line(error)}") from None


def _check_digest(found: str, wanted: _Pinned) -> None:
    if found != wanted.digest:
        raise InputError(
            f"`bundle`: {wanted.place} is not the bundle whose digest was given: it has the digest {found}, not "
            f"{wanted.digest}; if you trust it all the same, give {wanted.place}{_PIN}{found}"
        )


def _cached(wanted: _Pinned) -> Path:
    """The folder of this machine's copy of a remote bundle.

    Raises:
      InputError: the bundle has another digest, or no digest was given.
      BeamscribeError: it can't be fetched.
    """
    try:
        if not wanted.digest:
            found = bundle.digest_of({name: hashlib.sha256(data).digest() for name, data in _files(wanted.place)})
            raise InputError(
                f"`bundle`: {wanted.place} is not on this machine, and a bundle from elsewhere is loaded only with its "
                f"digest, which is now {found}; if you trust whoever made it, give {wanted.place}{_PIN}{found}"
            )
        cache = _cache()
        folder = cache / wanted.digest
        # One process fetches the bundle, while the other processes of the machine wait.
        with filelock.FileLock(cache / f"{wanted.digest}.lock"):
            if not (folder / DESCRIPTION).is_file() or bundle.digest(folder) != wanted.digest:
                _clean_up(cache, wanted.digest)
                _fetch(wanted, folder)
        return folder
    except OSError as error:
        if _is_of_beam(wanted.place):
            raise _unreadable(wanted.place, error) from None
        raise BeamscribeError(f"can't fetch the bundle {wanted.place}: {one_line(error)}") from None
    except PROGRAMMING_ERRORS as error:
        # So does a filesystem of Beam say that its library or its options are missing.
        if _is_of_beam(wanted.place):
            raise _unreadable(wanted.place, error) from None
        raise


def _fetch(wanted: _Pinned, folder: Path) -> None:
    """Downloads a bundle to a folder beside its own, checks it, and renames the folder."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        for name, data in _files(wanted.place):
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        _check_digest(bundle.digest(beside), wanted)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _files(place: str) -> Iterator[tuple[str, bytes]]:
    """The files of a remote bundle that are loaded: their names below the bundle's folder, and their bytes.

    Raises:
      InputError: there is no bundle.
      BeamscribeError: a name leads out of the folder.
      OSError: the store reported an error.
    """
    listed = [found.uri for found in stores.below(place) if not uris.is_folder_marker(found.uri)]
    names = {uri: name for uri in listed if bundle.is_loaded(name := _checked_name(uri, place))}
    if DESCRIPTION not in names.values():
        raise InputError(f"{place} is not a model bundle: it has no {DESCRIPTION}")
    for uri, data in rows.read_ahead(stores.read, names):
        yield names[uri], data.result()


def _checked_name(file: str, place: str) -> str:
    """The name of a file of a bundle, below the bundle's folder: an object of a bucket can have any name.

    Raises:
      BeamscribeError: the name leads out of the folder, or no file can have it.
    """
    name = file.removeprefix(f"{place}/")
    if name == file or {"", ".", ".."} & {*name.split("/")} or not name.isprintable() or "\\" in name:
        raise BeamscribeError(
            f"the bundle {place} is refused: its object {file} has a name that no file of a bundle has"
        )
    return name


def _cache() -> Path:
    """The folder of fetched bundles, which is made where there is none; nobody else can put a bundle there.

    Raises:
      BeamscribeError: it is another user's.
      OSError: it can't be made.
    """
    folders = [Path("beamscribe"), Path("beamscribe", "bundles")]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:
        # A container may run as a user who has no home.
        base, folders = Path(tempfile.gettempdir()), [Path(f"beamscribe-{os.geteuid()}")]
    base.mkdir(parents=True, exist_ok=True)
    for folder in (base / name for name in folders):
        folder.mkdir(mode=0o700, exist_ok=True)
        if {folder.lstat().st_uid, folder.stat().st_uid} != {os.geteuid()}:
            raise BeamscribeError(
                f"can't keep a bundle in {folder}: the folder is another user's, who could change it; set the "
                "environment variable XDG_CACHE_HOME to a folder of your own"
            )
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            folder.chmod(0o700)
    return folder


def _clean_up(cache: Path, digest: str) -> None:
    """Deletes what processes that were killed have fetched in part.

    Args:
      cache: the folder of fetched bundles.
      digest: of the bundle that this process alone fetches now.
    """
    for folder in cache.glob(".*.*"):
        owner = folder.name.split(".")[1]
        lock = filelock.FileLock(cache / f"{owner}.lock")
        try:
            # Whoever fetches a bundle holds its lock.
            if owner != digest:
                lock.acquire(timeout=0)
            shutil.rmtree(folder, ignore_errors=True)
        except filelock.Timeout:
            continue
        finally:
            lock.release()


def _is_of_beam(place: str) -> bool:
    return not stores.is_local(place) and uris.scheme_of(place) != "gs"


def _unreadable(place: str, error: object) -> InputError:
    return InputError(f"`bundle`: can't read {place}: {one_line(error)}; give a folder of this machine or of gs://")
