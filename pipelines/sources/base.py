"""What all kinds of sources share: what to list, and how to tell photos from other files."""

import dataclasses
import fnmatch
import functools
import mimetypes
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from beamscribe.pipelines import stores
from beamscribe.pipelines.images import formats

# Bytes that tell what a file is.
HEAD_BYTES = 512
# The largest photo that is read: more than any honest one of the most pixels that are decoded.
MAX_BYTES = 512 * 2**20

_DECODED = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff heic heif hif avif jp2 j2k jpx"
# Photos, too, though not decoded: each becomes a row that says so, rather than being passed over.
_NOT_DECODED = (
    "3fr arw cr2 cr3 crw dcr dng erf iiq jxl kdc mef mos mrw nef nrw orf pef psb psd raf raw rw2 rwl sr2 srf srw x3f"
)
EXTENSIONS = frozenset(f".{name}" for name in f"{_DECODED} {_NOT_DECODED}".split())

# What other programs keep beside photos: thumbnails, previews, resource forks, deleted files.
_KEPT_BY_PROGRAMS = frozenset(("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information"))

HIDDEN = "hidden"
EXCLUDED = "excluded"


class Ignored(NamedTuple):
    """A file that is not listed.

    Attributes:
      kind: its extension, lower case, with the dot; `hidden` or `excluded`; empty where it has no extension.
    """

    kind: str


class Source(NamedTuple):
    """Something that one worker lists.

    Attributes:
      uri: where it is.
      kind: `folder`, `glob`, `photo`, `list`, `tar`, `zip`, `tfrecord` or `parquet`.
      start: of a folder or a glob in a bucket, the URI from which on it is listed; empty for its beginning.
      end: the URI before which that ends; empty for its end.
    """

    uri: str
    kind: str
    start: str = ""
    end: str = ""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """What to list of the inputs.

    Attributes:
      include: globs of which a path must match one; all paths where there is none.
      exclude: globs of which it must match none.
      hidden: whether hidden files and those that other programs keep beside photos are listed, too.
      format: kind of all inputs that are files; told by their bytes where it is None.
      uri_column: column of a list that holds the photos' URIs.
      image_column: column of a Parquet file, or feature of an example, that holds the bytes.
      name_column: the one that holds the photo's name.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    format: str | None = None
    uri_column: str | None = None
    image_column: str | None = None
    name_column: str | None = None

    def ignored(self, path: str) -> Ignored | None:
        """Why a path below the input, or a member's name, is not listed whatever its bytes; None where it is.

        Also tells whether to enter a folder, which includes cannot keep out.
        """
        if not self.hidden and any(_is_hidden(part) for part in path.split("/")):
            return Ignored(HIDDEN)
        return Ignored(EXCLUDED) if _matches(path, self.exclude) else None

    def passed_over(self, path: str) -> Ignored | None:
        """As `ignored`, for a file, which the includes can keep out."""
        ignored = self.ignored(path)
        if ignored or not self.include or _matches(path, self.include):
            return ignored
        return Ignored(EXCLUDED)


def is_photo(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is to be listed as a photo: by its extension, or by its bytes where that says nothing.

    Args:
      name: of the file.
      head: reads its first bytes; called only where they are needed.
    """
    by_name = is_named_like_a_photo(name)
    return bool(formats.codecs(head())) if by_name is None else by_name


def is_named_like_a_photo(name: str) -> bool | None:
    """Whether a file's extension is a photo's; None where it says nothing."""
    extension = extension_of(name)
    if extension in EXTENSIONS:
        return True
    known = mimetypes.guess_type(f"x{extension}", strict=False)[0] or extension in mimetypes.encodings_map
    return False if known else None


def extension_of(name: str) -> str:
    """The extension in lower case, with the dot; empty where there is none. Bytes that are not UTF-8 as escapes."""
    return stores.encodable(os.path.splitext(name)[1].lower())


def _is_hidden(part: str) -> bool:
    return part in _KEPT_BY_PROGRAMS or (part.startswith(".") and part not in (".", ".."))


def _matches(path: str, globs: tuple[str, ...]) -> bool:
    """A glob without a slash is compared with every part of the path, one with a slash with all of it."""
    return any(
        _compiled(glob).match(path) if "/" in glob else any(map(_compiled(glob).match, path.split("/")))
        for glob in globs
    )


@functools.cache
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))
