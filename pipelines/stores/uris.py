"""Functions on URIs and paths as strings; none of them looks at a file."""

import os
import pathlib
import re
import urllib.parse

_SCHEME = re.compile("([a-zA-Z][-a-zA-Z0-9+.]*)://")


def scheme_of(uri: str) -> str:
    """The scheme of a URI, such as `gs`; `file` for a path."""
    found = _SCHEME.match(uri)
    return found[1] if found else "file"


def local_uri(path: str) -> str:
    """The form of a local path that tables contain: the path, or a `file:` URI if the path is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return file_uri(path)
    return path


def file_uri(path: str) -> str:
    """The `file:` URI of an absolute path, in which `#` and bytes that are not ASCII are escapes."""
    return pathlib.PurePosixPath(path).as_uri()


def local_path(uri: str) -> str:
    """The path of a local file, given its path or its `file:` URI."""
    if not uri.startswith("file://"):
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))


def member_uri(container: str, name: str) -> str:
    """The URI of a photo in a container, for tables; bytes of the name that are not UTF-8 become escapes."""
    return f"{container}#{encodable(name)}"


def encodable(text: str) -> str:
    """Replaces the surrogates in a string, which stand for bytes that are not UTF-8, by escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def has_wildcards(uri: str) -> bool:
    """Whether a URI contains wildcards; it may be a glob, or a file name that contains them."""
    return any(wildcard in uri for wildcard in "*?[")


def without_wildcards(pattern: str) -> str:
    """The folder part of a glob, up to its first component with a wildcard."""
    parts = pattern.split("/")
    first = next((place for place, part in enumerate(parts) if has_wildcards(part)), len(parts) - 1)
    return "/".join(parts[:first]) or "/"


def is_folder_marker(uri: str) -> bool:
    """Whether a remote file is an empty object that stands for a folder, in a store without folders."""
    return uri.endswith("/")
