"""The command, as `python -m beamscribe`."""

import sys

from beamscribe.jobs import cli

sys.exit(cli.main())
