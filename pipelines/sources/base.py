"""Shared by all kinds of sources: the options of listing, and how photos are told from other files."""

import dataclasses
import fnmatch
import functools
import mimetypes
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from beamscribe.pipelines.images import formats
from beamscribe.pipelines.stores import uris

# The first bytes of a file, this many, are enough to tell its format.
HEAD_BYTES = 512
# Size of the largest file that is read as a photo: more than any valid photo within the limit of pixels needs.
MAX_BYTES = 512 * 2**20

_DECODED = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff heic heif hif avif jp2 j2k jpx"
# Photos that are not decoded: each is listed and becomes a failed row, rather than being ignored.
_NOT_DECODED = (
    "3fr arw cr2 cr3 crw dcr dng erf iiq jxl kdc mef mos mrw nef nrw orf pef psb psd raf raw rw2 rwl sr2 srf srw x3f"
)
EXTENSIONS = frozenset(f".{name}" for name in f"{_DECODED} {_NOT_DECODED}".split())

# Folders in which other programs keep thumbnails, previews, resource forks or deleted files beside photos.
_KEPT_BY_PROGRAMS = frozenset(("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information"))

HIDDEN = "hidden"
EXCLUDED = "excluded"


class Ignored(NamedTuple):
    """A file that is not listed.

    Attributes:
      kind: its extension in lower case, with the dot, or empty; or `hidden` or `excluded`.
    """

    kind: str


class Source(NamedTuple):
    """An input, or a part of one, that one worker lists.

    Attributes:
      uri: URI of the input.
      kind: `folder`, `glob`, `photo`, `list`, `tar`, `zip`, `tfrecord` or `parquet`.
      start: for a folder or a glob in a bucket, the URI at which the listing starts; empty for the first one.
      end: the URI before which the listing ends; empty for no end.
      input: the input that the source belongs to: another URI for a container that matches a glob.
    """

    uri: str
    kind: str
    start: str = ""
    end: str = ""
    input: str = ""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Which files of the inputs to list, and how to read lists and record files.

    Attributes:
      include: globs; a path must match one of them. Without globs, every path is included.
      exclude: globs; a path must match none of them.
      hidden: whether to list hidden files and files that other programs keep beside photos.
      format: kind of all inputs that are files; None to tell it by their bytes.
      uri_column: column of a list that holds the URIs of photos; None for the known names.
      image_column: column of a Parquet file, or feature of a `tf.Example`, that holds the bytes; None for the known
        names.
      name_column: column or feature that holds the name of the photo; None for the known names.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    format: str | None = None
    uri_column: str | None = None
    image_column: str | None = None
    name_column: str | None = None

    def ignored(self, path: str) -> Ignored | None:
        """Whether hidden names or excludes keep a path out; includes do not count, since this may be a folder.

        Args:
          path: path of a file or folder relative to the input, or name of a member.

        Returns:
          Why the path is ignored, or None.
        """
        if not self.hidden and any(_is_hidden(part) for part in path.split("/")):
            return Ignored(HIDDEN)
        return Ignored(EXCLUDED) if _matches(path, self.exclude) else None

    def ignored_file(self, path: str) -> Ignored | None:
        """Whether hidden names, excludes or includes keep a file out; arguments and result are those of `ignored`."""
        ignored = self.ignored(path)
        if ignored or not self.include or _matches(path, self.include):
            return ignored
        return Ignored(EXCLUDED)


def is_photo(name: str, head: Callable[[], bytes]) -> bool:
    """Whether to list a file as a photo: by its extension or, if that is unknown, by its first bytes.

    Args:
      name: name of the file.
      head: reads the first bytes of the file; called only if they are needed.
    """
    by_name = is_named_like_a_photo(name)
    return bool(formats.codecs(head())) if by_name is None else by_name


def is_named_like_a_photo(name: str) -> bool | None:
    """Whether a file has the extension of a photo; None if the extension is unknown."""
    extension = extension_of(name)
    if extension in EXTENSIONS:
        return True
    known = mimetypes.guess_type(f"x{extension}", strict=False)[0] or extension in mimetypes.encodings_map
    return False if known else None


def extension_of(name: str) -> str:
    """The extension in lower case, with the dot, or empty. Bytes that are not UTF-8 become escapes."""
    return uris.encodable(os.path.splitext(name)[1].lower())


def _is_hidden(part: str) -> bool:
    return part in _KEPT_BY_PROGRAMS or (part.startswith(".") and part not in (".", ".."))


def _matches(path: str, globs: tuple[str, ...]) -> bool:
    """Whether a path matches a glob: one with a slash must match the whole path, others any component of it."""
    return any(
        _compiled(glob).match(path) if "/" in glob else any(map(_compiled(glob).match, path.split("/")))
        for glob in globs
    )


@functools.cache
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
