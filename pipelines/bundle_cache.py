"""Model bundles where they are needed: those of a remote store are fetched once a machine."""

import os
import shutil
import uuid
from pathlib import Path

import filelock

from beamscribe.model import bundle
from beamscribe.model.bundle import Description
from beamscribe.model.errors import UserError
from beamscribe.pipelines import stores
from beamscribe.pipelines.output import rows


def located(uri: str | None) -> str:
    """A bundle as it is passed on to workers: the package's own, which may lie elsewhere there, as an empty text."""
    if not uri:
        return ""
    return os.path.abspath(stores.local_path(uri)) if stores.is_local(uri) else uri.rstrip("/")


def described(uri: str) -> Description:
    """What a bundle says of itself; the files of a remote one are checked where they are fetched.

    Args:
      uri: of the bundle, as `located` gives it.

    Raises:
      UserError: it is no bundle, it can't be read, or a file of it is missing or changed.
    """
    if stores.is_local(uri):
        return bundle.describe(_folder(uri))
    try:
        return bundle.parse(stores.read(stores.join(uri, bundle.DESCRIPTION)), uri)
    except FileNotFoundError:
        raise UserError(f"{uri} is not a model bundle: it has no {bundle.DESCRIPTION}") from None
    except OSError as error:
        raise UserError(f"the bundle {uri} can't be read: {error}") from None


def fetched(uri: str, fingerprint: str) -> Path:
    """The folder of a bundle on this machine.

    Args:
      uri: of the bundle, as `located` gives it.
      fingerprint: that it must have.

    Raises:
      UserError: it is another one, it is damaged, or it can't be fetched.
    """
    if stores.is_local(uri):
        folder = _folder(uri)
        _check(folder, str(folder), fingerprint)
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "beamscribe", "bundles")
    folder = cache / fingerprint
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # One process fetches it, and the others of the machine wait.
        with filelock.FileLock(cache / f"{fingerprint}.lock"):
            if not _is_whole(folder, fingerprint):
                _fetch(uri, folder, fingerprint)
    except OSError as error:
        raise UserError(f"the bundle {uri} can't be fetched: {error}") from None
    return folder


def _folder(uri: str) -> Path:
    return Path(uri) if uri else bundle.DEFAULT


def _check(folder: Path, name: str, fingerprint: str) -> None:
    try:
        found = bundle.describe(folder).fingerprint
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from None
    if found != fingerprint:
        raise UserError(f"the bundle {name} is not the one that the job was started with: {found}, not {fingerprint}")


def _is_whole(folder: Path, fingerprint: str) -> bool:
    try:
        _check(folder, str(folder), fingerprint)
    except UserError:
        return False
    return True


def _fetch(uri: str, folder: Path, fingerprint: str) -> None:
    """Downloads a bundle beside its place, and moves it there once it is whole."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        for file, data in rows.read_ahead(stores.read, stores.within(uri, "**")):
            path = beside / file.removeprefix(f"{uri}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.result())
        _check(beside, uri, fingerprint)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
