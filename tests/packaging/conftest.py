"""What tests of packages share."""

from pathlib import Path

import pytest

from tests import packages
from tests.packages import installed, wheel  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def sdist(tmp_path_factory) -> Path:
    """An sdist, built from another copy of the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    return packages.build_sdist(packages.copy_checkout(folder / "checkout"), folder / "built")
