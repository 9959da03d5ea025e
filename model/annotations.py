"""Reference captions and splits, in the text formats of Flickr8k (Hodosh et al. 2013)."""

import codecs
import csv
import re
from pathlib import Path

from beamscribe.model.errors import BeamscribeError, InputError, one_line

_HEADER = ["image", "caption"]
# `photo.jpg#0<TAB>a caption`; the number counts the captions of a photo.
_TOKEN_LINE = re.compile(r"\s*(\S.*)#\d+\t(.*)")


class AnnotationError(BeamscribeError):
    """A captions or split file that can't be used; the message is one line for the user."""


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Reads the reference captions of a data set.

    The content tells the two formats apart: `captions.txt`, CSV under the header `image,caption`, where
    a caption with a comma stands in double quotes; and `Flickr8k.token.txt`, lines of
    `photo.jpg#0<TAB>caption`. Both are UTF-8, one caption a line. Blank lines are ignored.

    Args:
      path: the file.

    Returns:
      For each photo's file name its captions, as they were written but for spaces around them, in the
      file's order. Empty captions are left out, and so is a photo that has no others.

    Raises:
      InputError: there is no such file.
      AnnotationError: the file can't be read, a line is in neither format, or there is no caption.
    """
    captions: dict[str, list[str]] = {}
    parse = None
    for number, line in _lines(path, "captions"):
        if parse is None:
            parse = _parse_csv if _is_header(line) else _parse_token
            if parse is _parse_csv:
                continue
        try:
            photo, caption = parse(line)
        except ValueError as error:
            raise AnnotationError(f"{path}:{number}: {error}") from None
        if caption:
            captions.setdefault(photo, []).append(caption)
    if not captions:
        raise AnnotationError(f"{path} has no captions: give a file such as Flickr8k's captions.txt")
    return captions


def read_split(path: str | Path) -> list[str]:
    """Reads the photos of one split, such as `Flickr_8k.trainImages.txt`: a file name a line.

    Args:
      path: the file, UTF-8. Blank lines are ignored.

    Returns:
      The names in the file's order, each once.

    Raises:
      InputError: there is no such file.
      AnnotationError: the file can't be read, or names no photo.
    """
    photos = list(dict.fromkeys(line.strip() for _, line in _lines(path, "split")))
    if not photos:
        raise AnnotationError(f"{path} names no photos: write the file name of one photo a line")
    return photos


def captions_of_split(split: str | Path, captions: str | Path) -> dict[str, list[str]]:
    """Reads the reference captions of one split, in its order.

    Raises:
      InputError: there is no such file.
      AnnotationError: as for `read_captions` and `read_split`, or a photo of the split has no captions.
    """
    written = read_captions(captions)
    photos = read_split(split)
    bare = [photo for photo in photos if photo not in written]
    if bare:
        raise AnnotationError(f"{len(bare)} photos of {split} have no captions in {captions}, {bare[0]} for one")
    return {photo: written[photo] for photo in photos}


def _lines(path: str | Path, kind: str) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1."""
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no {kind} file {path}; check the path") from None
    except OSError as error:
        raise AnnotationError(f"can't read the {kind} file {path}: {one_line(error)}") from None
    lines = []
    # Split as bytes: `str.splitlines` also splits at characters that may stand inside a caption.
    for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise AnnotationError(f"{path}:{number}: not UTF-8 text: save the file as UTF-8") from None
        if line.strip():
            lines.append((number, line))
    return lines


def _is_header(line: str) -> bool:
    return [name.strip().lower() for name in line.split(",")] == _HEADER


def _parse_csv(line: str) -> tuple[str, str]:
    """Photo and caption of one CSV line; a `ValueError` says what is wrong with it."""
    try:
        # One line at a time: a quote left open then spoils its own line, not the rest of the file.
        fields = next(csv.reader([line], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(
            f'not valid CSV ({error}): put the whole caption in double quotes, and write "" for one inside it'
        ) from None
    if len(fields) != 2:
        raise ValueError(
            f"expected a photo, a comma and a caption, found {len(fields)} fields: "
            "put a caption that has commas in double quotes"
        )
    photo, caption = fields[0].strip(), fields[1].strip()
    if not photo:
        raise ValueError("no photo before the comma: write its file name")
    return photo, caption


def _parse_token(line: str) -> tuple[str, str]:
    """Photo and caption of one line of a token file; a `ValueError` says what is wrong with it."""
    fields = _TOKEN_LINE.fullmatch(line)
    if not fields:
        raise ValueError(
            "expected photo.jpg#0, a tab and a caption, or CSV with image,caption as the first line of the file"
        )
    return fields[1], fields[2].strip()
