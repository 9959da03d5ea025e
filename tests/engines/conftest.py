"""What tests of engines share."""

from tests.object_store import object_store  # noqa: F401 - a fixture
from tests.packages import installed, wheel  # noqa: F401 - fixtures
