"""A worker process of the direct runner: Beam's own, but one that ends with the process that started the job.

Beam's waits for a launcher that was killed, a minute or for ever. Run as `python -m pipelines.worker_process PID`.
"""

import sys

from pipelines import decoder_process


def command(launcher: int) -> str:
    """What a shell is to run.

    Args:
      launcher: id of the process that runs the shell.
    """
    # Replaced by the worker, the shell does not stand between the two.
    return f"exec {sys.executable} -m {__name__} {launcher}"


def main() -> None:
    """Becomes a worker."""
    decoder_process.die_with(int(sys.argv[1]))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main()
