"""The process of the command `beamscribe`: its streams, its exit status, and signals before and after the command."""

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line in this process, and exits with its status.

    Args:
      arguments: the command line without the program's name; None for that of the process.
    """
    # Modules are being imported: Ctrl-C must not print where.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from beamscribe.jobs import interruption, streams

    streams.install()
    status = _status(sys.argv[1:] if arguments is None else arguments)
    # All is done and said: a signal only hastens the end.
    interruption.end_at_signals(status)
    sys.exit(status)


def _status(arguments: Sequence[str]) -> int:
    """Runs a command line, and returns the exit status."""
    from beamscribe.jobs import cli, exits
    from beamscribe.jobs.streams import ReaderGone
    from beamscribe.model.errors import BeamscribeError

    try:
        status = cli.main(arguments)
    except SystemExit as end:
        # Of `--help` and `--version`.
        status = end.code if isinstance(end.code, int) else exits.DONE if end.code is None else exits.FAILED
    except ReaderGone:
        # As `head` does once it has seen enough.
        return exits.DONE
    try:
        sys.stdout.flush()
    except ReaderGone:
        pass
    except BeamscribeError as error:
        print(f"beamscribe: {error}", file=sys.stderr)
        return status or exits.FAILED
    return status
