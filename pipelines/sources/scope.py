"""Says what a listing covers: a photo with such a name that is not listed is no longer there."""

import functools
import os
from collections.abc import Iterable, Sequence

from beamscribe.pipelines import stores
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.stores import local, uris


def prefixes(inputs: Iterable[str]) -> tuple[str, ...]:
    """What the names of photos in folders and archives begin with.

    Args:
      inputs: URIs of the inputs. Those that are neither folders nor archives have no photos with such names.
    """
    return tuple(f"{name}{sign}" for uri in inputs for name in _names(uri) for sign in "/#")


def _names(uri: str) -> set[str]:
    """The forms that the name of an input has in the names of its photos: names that are not UTF-8 are `file:` URIs."""
    path = uri.rstrip("/")
    if not stores.is_local(uri):
        return {path}
    return {path, local.name_of(path), uris.file_uri(os.path.abspath(uris.local_path(path))).rstrip("/")}


def unseen(photos: Iterable[PhotoRef]) -> tuple[str, ...]:
    """The folders and archives of a listing whose content could not be listed, or not all of it."""
    return tuple(ref.photo for ref in photos if not ref.container and _is_unseen(ref))


def _is_unseen(ref: PhotoRef) -> bool:
    if ref.failure is not None:
        return True
    return not ref.etag and stores.is_local(ref.photo) and os.path.isdir(uris.local_path(ref.photo))


class Scope:
    """What has been listed whole: a photo there that is not listed is no longer there.

    Args:
      inputs: inputs in which photos were found.
      not_seen: folders and archives that could not be listed.
      options: which files were listed.
    """

    def __init__(self, inputs: Sequence[str], not_seen: Iterable[str], options: ListOptions):
        self._prefixes, self._not_seen, self._options = prefixes(inputs), prefixes(not_seen), options
        self._is_empty = functools.cache(_is_empty)

    def covers(self, photo: str) -> bool:
        """Whether the listing would hold a photo, by its name, if it were there."""
        prefix = max((one for one in self._prefixes if photo.startswith(one)), key=len, default="")
        if not prefix or photo.startswith(self._not_seen) or self._options.ignored_file(photo[len(prefix) :]):
            return False
        # Below an empty folder a disk may be missing.
        return not (stores.is_local(photo) and prefix.endswith("/") and self._is_empty(_folder(photo)))


def _folder(photo: str) -> str:
    return os.path.dirname(uris.local_path(photo))


def _is_empty(folder: str) -> bool:
    """Whether the nearest folder above a photo that exists is empty."""
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        with os.scandir(folder or "/") as entries:
            return next(entries, None) is None
    except OSError:
        return True
