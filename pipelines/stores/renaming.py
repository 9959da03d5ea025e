"""Renames a file without replacing an existing one, which Python's `os` can't do.

Linux has renameat2(2) with RENAME_NOREPLACE, macOS has renamex_np(2) with RENAME_EXCL. Some filesystems have neither.
"""

import ctypes
import errno
import os
import sys

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4


def rename_to_new(source: str, target: str) -> None:
    """Renames a file without replacing an existing one.

    Args:
      source: path of the file.
      target: new path of the file.

    Raises:
      FileExistsError: the new path already exists.
      OSError: the system reported an error; ENOSYS or EINVAL if it does not support this kind of rename.
    """
    library = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(source), os.fsencode(target)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(old, new, _RENAME_EXCL)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), source, None, target)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)
