"""Renames a file only where there is none of the new name, which Python's `os` can't do.

Linux has renameat2(2) with RENAME_NOREPLACE for it, macOS renamex_np(2) with RENAME_EXCL. Not every filesystem obeys.
"""

import ctypes
import errno
import os
import sys

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4


def rename_to_new(source: str, target: str) -> None:
    """Renames a file.

    Args:
      source: path of the file.
      target: path that it gets.

    Raises:
      FileExistsError: there is a file of that name already.
      OSError: as the system says; ENOSYS or EINVAL where it can't promise to replace no file.
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
