"""The command, as `python -m beamscribe`."""

from beamscribe.jobs import entry

entry.main()
