"""Packages as users get them: built from a copy of the checkout, and installed where no checkout is on the path."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Of the checkout's own installation.
_OWN = ("__editable__*beamscribe*", "beamscribe-*.dist-info", "*.pth")


def start(*command: str | Path, folder: Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, without variables of the environment that change where Python looks for modules."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )


def run(*command: str | Path, folder: Path) -> str:
    """Runs a command in a folder and returns what it prints.

    Raises:
      AssertionError: it failed; the message is what it printed.
    """
    done = start(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(folder: Path) -> Path:
    """Copies what the checkout holds and git does not ignore."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder=ROOT)
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_symlink() or source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds a wheel of a source tree or an sdist, with what is installed here."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, folder=source.parent)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_sdist(source: Path, folder: Path) -> Path:
    """Builds an sdist of a source tree, as Beam does it with `--setup_file`."""
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", folder, folder=source)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


class Environment:
    """A virtual environment that shares the libraries of this one, but not the checkout.

    Args:
      folder: of the environment, a new one.

    Attributes:
      bin: the folder of its programs.
      packages: the folder of what is installed in it.
    """

    def __init__(self, folder: Path):
        run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
        self.bin = folder / "bin"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        libraries = folder / "libraries"
        libraries.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not any(path.match(pattern) for pattern in _OWN):
                (libraries / path.name).symlink_to(path)
        (self.packages / "libraries.pth").write_text(f"{libraries}\n")

    def install(self, *packages: Path) -> None:
        """Installs packages, without what they need, which is there."""
        pip = (self.bin / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", *packages, folder=self.packages)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_checkout(folder / "checkout"), folder / "built")


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Environment:
    """An environment that has the wheel."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "environment")
    environment.install(wheel)
    return environment
