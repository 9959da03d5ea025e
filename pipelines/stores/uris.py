"""URIs and paths as texts: what can be told of a file by its name alone."""

import os
import pathlib
import re
import urllib.parse

_SCHEME = re.compile("([a-zA-Z][-a-zA-Z0-9+.]*)://")


def scheme_of(uri: str) -> str:
    """The scheme of a URI, such as `gs`; `file` for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else "file"


def local_uri(path: str) -> str:
    """A path as it is written to tables: itself, or a `file:` URI where its name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return pathlib.PurePosixPath(path).as_uri()
    return path


def local_path(uri: str) -> str:
    """The path of a local file, which may be given as a `file:` URI."""
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))


def member_uri(container: str, name: str) -> str:
    """How a photo inside a container is written to tables; bytes that are not UTF-8 as escapes."""
    return f"{container}#{encodable(name)}"


def encodable(text: str) -> str:
    """A text that may hold bytes which are not UTF-8, with these as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def has_wildcards(uri: str) -> bool:
    """Whether a URI looks like a glob, which a name may, too."""
    return any(wildcard in uri for wildcard in "*?[")


def without_wildcards(pattern: str) -> str:
    """The folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    first = next((place for place, part in enumerate(parts) if has_wildcards(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


def is_folder_marker(uri: str) -> bool:
    """Whether a remote file is only the empty object that stands for a folder where a store has none."""
    return uri.endswith("/")
