"""Matches local files against globs. Unlike Python's `glob`, it reports folders that can't be opened."""

import collections
import errno
import fnmatch
import os
from collections.abc import Callable, Iterator, Sequence

from beamscribe.pipelines.stores.uris import has_wildcards


def matching(path: str, refused: Callable[[str], None]) -> Iterator[str]:
    """The paths of the files that match a glob, in any order; none if the folder does not exist.

    Args:
      path: the glob.
      refused: called with each folder that can't be opened, since it may contain matching files.
    """
    start, parts = ("/" if path.startswith("/") else ""), path.lstrip("/").split("/")
    if "**" in parts:
        yield from _matching_below(start, parts, refused)
    else:
        yield from (found for found in _matching(start, parts, refused) if not os.path.isdir(found))


def _matching(folder: str, parts: Sequence[str], refused: Callable[[str], None]) -> Iterator[str]:
    """The paths of the files and folders that match a glob without `**`.

    Args:
      folder: folder to search; empty for the current one.
      parts: components of the glob, relative to the folder.
      refused: as in `matching`.
    """
    if not parts:
        yield folder or "."
        return
    name, *rest = parts
    try:
        if has_wildcards(name):
            names = fnmatch.filter(os.listdir(folder or "."), name)
        else:
            os.lstat(os.path.join(folder, name))
            names = [name]
    except OSError as error:
        _refuse(folder or ".", error, refused)
        return
    for name in names:
        yield from _matching(os.path.join(folder, name), rest, refused)


def _refuse(folder: str, error: OSError, refused: Callable[[str], None]) -> None:
    """Reports a folder that can't be opened, unless the folder does not exist."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        refused(folder)


def _matching_below(start: str, parts: Sequence[str], refused: Callable[[str], None]) -> Iterator[str]:
    """The paths of the files that match a glob with `**`. Arguments are as in `_matching`.

    Unlike `glob`, it follows links to folders, but visits each real folder once: by its own path, if that is below the
    start, or else by the first link.
    """
    first = parts.index("**")
    seen: set[tuple[int, int]] = set()
    for top in _matching(start, parts[:first], refused):
        left = collections.deque([top])
        while left:
            walk = os.walk(left.popleft(), onerror=lambda error: _refuse(error.filename, error, refused))
            for folder, folders, files in walk:
                try:
                    status = os.stat(folder)
                except OSError:
                    continue
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                left += (path for name in sorted(folders) if os.path.islink(path := os.path.join(folder, name)))
                below = [] if folder == top else os.path.relpath(folder, top).split("/")
                yield from (os.path.join(folder, name) for name in files if _matches([*below, name], parts[first:]))


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[skipped:], patterns[1:] or ["*"]) for skipped in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
