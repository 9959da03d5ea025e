"""The holder of a lease: which process, or which job on a runner, writes to an output folder."""

import os
import pathlib
import socket
import urllib.parse
from typing import Annotated

import psutil
import pydantic

from beamscribe.model.documents import Document

# What `Holder.job` says of a job, beside its runner.
_JOB_KEYS = {
    "FlinkRunner": ("name", "address", "host"),
    "DataflowRunner": ("name", "project", "region", "endpoint"),
}


class Holder(Document):
    """The holder of a lease; the content of the lease's JSON file.

    Attributes:
      purpose: what the holder does, for users who must wait; for example `caption` and the id of the run.
      host: host name of the machine.
      machine: identifies the boot of the machine and the PID namespace of the process, since host names may be equal.
      pid: id of the process.
      started: start time of the process, seconds since 1970, since process ids are reused.
      job: a job on a runner that continues after the process ends: its name, and where to ask for it; else None.
      run: id of the run that the holder writes; empty if there is none.
    """

    purpose: str
    host: str
    machine: str
    pid: Annotated[int, pydantic.Field(gt=0, lt=2**31)]
    started: pydantic.FiniteFloat
    job: dict[str, str] | None = None
    run: str = ""

    @pydantic.field_validator("job")
    @classmethod
    def _check_job(cls, job: dict[str, str] | None) -> dict[str, str] | None:
        if job is not None:
            needed = _JOB_KEYS.get(job.get("runner", ""))
            if needed is None or set(needed) - job.keys():
                raise ValueError("it does not say where to ask for the job")
            # It raises a ValueError for what is no address.
            urllib.parse.urlsplit(job.get("address", ""))
        return job

    @classmethod
    def myself(cls, purpose: str, job: dict[str, str] | None = None) -> "Holder":
        """Describes this process.

        Args:
          purpose: what this process does.
          job: the job on a runner that continues after this process ends, if there is one.
        """
        return cls(
            purpose=purpose,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            job=job,
        )

    def has_died(self) -> bool | None:
        """Whether the process has ended; None if this process can't tell."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            process = psutil.Process(self.pid)
            # Another start time: another process has this id, or somebody set the clock that gives start times.
            if abs(process.create_time() - self.started) >= 5.0:
                return None
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        job = f"; job {self.job['name']} on {self.job['runner']}" if self.job else ""
        return f"{self.purpose} (process {self.pid} on {self.host}{job})"


def _machine() -> str:
    """Identifies the boot of this machine and, on Linux, the PID namespace of this process."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
