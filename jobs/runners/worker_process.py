"""A process that ends with the one that started the job: a worker of the direct runner, or a program of Beam's.

Beam's own outlive a launcher that was killed, for a minute or for ever. Run as
`python -m beamscribe.jobs.runners.worker_process PID` it becomes a worker; with a program and its arguments behind,
that program.
"""

import os
import shlex
import sys

from beamscribe.pipelines.images import image_process


def command(launcher: int) -> str:
    """What a shell is to run.

    Args:
      launcher: id of the process that runs the shell.
    """
    # Replaced by the worker, the shell does not stand between the two.
    return f"exec {shlex.quote(sys.executable)} -m {__name__} {launcher}"


def main() -> None:
    """Becomes a worker, or the program that is given."""
    image_process.die_with(int(sys.argv[1]))
    if program := sys.argv[2:]:
        os.execvp(program[0], program)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main()
