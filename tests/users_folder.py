"""A folder that a user works in, with modules of the user's own that are named like others'."""

from pathlib import Path

# Of Beamscribe's former folders, and of Python's own that libraries import.
NAMES = ("model.py", "jobs.py", "logging.py", "random.py", "pipelines/__init__.py")
_MARK = "imported.txt"


def make(folder: Path) -> Path:
    """Makes the folder; whoever imports a module of it fails, and is recorded."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = str(folder / _MARK)
        path.write_text(
            f"import sys\nwith open({mark!r}, 'a') as file:\n    print({name!r}, sys.orig_argv, file=file)\n"
            f"raise ImportError('{name} is the user\\'s own')\n"
        )
    return folder


def imported(folder: Path) -> str:
    """The modules that were imported, a line each, with the command line of the process that did it."""
    mark = folder / _MARK
    return mark.read_text() if mark.exists() else ""
