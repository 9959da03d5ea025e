"""A process that ends with the one that started the job: a worker of the direct runner, or a program of Beam's.

Those that Beam starts itself outlive a launcher that was killed, for a minute or for ever. Run as
`python -P -m beamscribe.jobs.runners.worker_process PID` this becomes a worker; with a program and its arguments after
the PID, it becomes that program.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from beamscribe.pipelines.images import image_process


def command(launcher: int, ignored: Sequence[str] = ("INT", "TERM", "HUP")) -> str:
    """The command that a shell runs to become such a process.

    Args:
      launcher: id of the process that the new one ends with, and which runs the shell.
      ignored: signals that the process ignores: Ctrl-C on a terminal, its end, and systemd send them to all processes
        of a job, of which the launcher alone decides how the job ends.
    """
    # By `exec` the shell does not stand between the two. Without -P, Python would take a file of the folder that the
    # user works in, `random.py` say, for its own module.
    return f"trap '' {' '.join(ignored)}; exec {shlex.quote(sys.executable)} -P -m {__name__} {launcher}"


def main() -> None:
    """Becomes a worker, or the program that the command line names."""
    image_process.die_with(int(sys.argv[1]))
    if program := sys.argv[2:]:
        os.execvp(program[0], program)
    from beamscribe.jobs.runners import worker_internals

    worker_internals.become_worker()


if __name__ == "__main__":
    main()
