"""The parts of Beam that are not its public interface, each with why there is no way around it.

Nothing else under `jobs/` uses such parts, except for `worker_internals`. tests/test_private_parts.py fails where a new
version changes one of them.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner

from beamscribe.jobs import argparse_internals
from beamscribe.model.errors import InputError, one_line

# What Beam logs of an error in a step, with its traceback, before it raises the error.
_STEPS = logging.getLogger("apache_beam.runners.common")
# How argparse says that a value has the wrong type.
_WRONG_TYPE = re.compile(r"argument ([^\s/:]+)[^:]*: invalid (\w+) value: '(.*)'", re.DOTALL)
_WRONG_CHOICE = re.compile(r"argument ([^\s/:]+)[^:]*: invalid choice: '?(.*?)'? \(choose from (.*)\)", re.DOTALL)
_TYPES = {"int": "a whole number", "float": "a number", "loads": "JSON"}


class _Parser(pipeline_options._BeamArgumentParser):
    """A parser of all options of Beam, which raises `InputError` where argparse prints its usage and exits."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, conflict_handler="resolve")
        for kind in PipelineOptions.__subclasses__():
            kind._add_argparse_args(self)

    def error(self, message: str) -> NoReturn:
        if wrong := _WRONG_TYPE.fullmatch(message):
            option, kind, value = wrong.groups()
            raise InputError(f"{option} {value}: must be {_TYPES.get(kind, kind)}")
        if wrong := _WRONG_CHOICE.fullmatch(message):
            option, value, choices = wrong.groups()
            unquoted = choices.replace("'", "")
            raise InputError(f"{option} {value}: must be one of {unquoted}")
        raise InputError(message.removeprefix("argument "))


def option_names() -> set[str]:
    """All options of Beam, in all their spellings, such as `--runner`.

    Beam passes over an option that it does not know, so that a misspelt one would have no effect. It has no list of
    those that it knows: each class of options adds its own to a parser.
    """
    return argparse_internals.names_in(_Parser())


def check_values(options: Sequence[str] | PipelineOptions) -> None:
    """Checks that Beam can understand the values of options, for which it would end the process with a page of usage.

    Args:
      options: Beam's options as on a command line; or those that somebody has made, which Beam parses when it needs
        them.

    Raises:
      InputError: a value is none that the option may have.
    """
    given = options._flags if isinstance(options, PipelineOptions) else options
    try:
        _Parser().parse_known_args(None if given is None else list(given))
    except ValueError as error:
        # Some options parse their values in ways that argparse does not know of.
        raise InputError(f"an option of Beam has a value that it can't have: {one_line(error)}") from None


@contextlib.contextmanager
def steps_tell_once(job: str) -> Iterator[None]:
    """A block in which Beam does not log the errors of a job's steps, which it raises, too.

    Where the logger lets `INFO` through, they are logged.

    Args:
      job: the name of the job's root transform.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return _STEPS.isEnabledFor(logging.INFO) or f"[while running '{job}/" not in record.getMessage()

    _STEPS.addFilter(is_wanted)
    try:
        yield
    finally:
        _STEPS.removeFilter(is_wanted)


def look_for_no_credentials() -> None:
    """Has Beam's clients of Google Cloud take it that there are no credentials.

    Where there is only an emulator, which knows no accounts, Beam would look for credentials for more than a minute; no
    option tells it not to.
    """
    from apache_beam.internal.gcp import auth

    auth._Credentials._credentials_init = True


def flink_url(master: str) -> str | None:
    """URL of the job manager that `--flink_master` names; None where Beam starts a Flink of its own for the job.

    Beam decides this within its runner, by names that have a meaning of their own.
    """
    return None if master in MAGIC_HOST_NAMES else FlinkRunner.add_http_scheme(master).rstrip("/")
