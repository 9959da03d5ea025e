"""Checks the arguments of jobs: each error names the argument, what is wrong with it, and what to do."""

import os
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beamscribe.model.caption_settings import whole_number
from beamscribe.model.errors import BeamscribeError, InputError, nearest, one_line, path_of, shown
from beamscribe.pipelines import listing, stores
from beamscribe.pipelines.control.progress import Limit
from beamscribe.pipelines.sources.base import ListOptions
from beamscribe.pipelines.stores import uris

Path = str | os.PathLike[str]

# The argument that sets each field of `ListOptions` which an error may name.
_ARGUMENTS = {
    "format": "input_format",
    "uri_column": "uri_column",
    "image_column": "image_column",
    "name_column": "name_column",
}


def inputs(given: Path | Sequence[Path], options: ListOptions) -> tuple[str, ...]:
    """The inputs' absolute paths or URIs.

    Raises:
      InputError: an input is not there, or its format can't be told.
      BeamscribeError: the store of an input reported an error.
    """
    several = [given] if isinstance(given, str | os.PathLike) else _listed("inputs", given)
    if not several:
        raise InputError("`inputs` is empty; give a folder, a glob, a photo, a list or an archive")
    found = tuple(_absolute_input(path_of("inputs", path)) for path in several)
    for uri in found:
        try:
            listing.check(uri, options)
        except InputError as error:
            remedy = f" with `{_ARGUMENTS[error.field]}`" if error.field else ""
            raise InputError(f"`inputs`: {error}{remedy}") from None
        except ValueError as error:
            # Beam has no filesystem for the scheme.
            raise InputError(f"`inputs`: can't read {uri}: {one_line(error)}") from None
        except OSError as error:
            raise BeamscribeError(f"`inputs`: can't read {uri}: {one_line(error)}") from error
    return found


def output(given: Path) -> str:
    """The absolute path or URI of an output folder, which need not be there.

    Raises:
      InputError: there is a file in its place, or no store that it can be in.
      BeamscribeError: its store reported an error.
    """
    uri = path_of("output", given)
    try:
        folder = stores.absolute(uri)
        # Where Beam lacks a filesystem for the scheme, its error says which.
        stores.join(folder, "runs").encode()
    except InputError as error:
        raise InputError(f"`output`: {error}") from None
    except UnicodeError:
        raise InputError(f"`output`: the name of {uri!r} is not UTF-8; choose another folder") from None
    except ValueError as error:
        raise InputError(f"`output`: can't write to {uri}: {one_line(error)}") from None
    except OSError as error:
        raise BeamscribeError(f"`output`: can't write to {uri}: {one_line(error)}") from error
    if stores.is_local(folder) and os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"`output`: {folder} is a file; give a folder")
    return folder


def choice(name: str, value: str | None, choices: Collection[str]) -> str | None:
    """One of several texts, or None.

    Raises:
      InputError: it is something else.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"`{name}` must be one of {', '.join(choices)}, not {shown(value)}")
    if value not in choices:
        raise InputError(f"`{name}` {value}: must be one of {', '.join(choices)}{nearest(value, choices)}")
    return value


def texts(name: str, values: Collection[str]) -> tuple[str, ...]:
    """Several texts, where a single one may be given by itself.

    Raises:
      InputError: one of them is no text.
    """
    several = (values,) if isinstance(values, str) else tuple(_listed(name, values))
    if wrong := [value for value in several if not isinstance(value, str)]:
        raise InputError(f"`{name}` must be a text, or a list of texts; one of them is {shown(wrong[0])}")
    return several


def beam_options(given: Any) -> list[str] | PipelineOptions:
    """Beam's own options: a list of texts, or options that are parsed.

    Raises:
      InputError: they are something else.
    """
    if isinstance(given, PipelineOptions):
        return given
    problem = "`beam_options` must be a list of texts, one for each option, or PipelineOptions"
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(f"{problem}, not {shown(given)}")
    several = list(given)
    if wrong := [value for value in several if not isinstance(value, str)]:
        raise InputError(f"{problem}; one of them is {shown(wrong[0])}")
    return several


def limit_of_failures(value: int | str | None) -> Limit | None:
    """How many photos may fail: a number, or a share of the photos to caption, such as `5%`; None for any number.

    Raises:
      InputError: it is something else.
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else str(whole_number("max_failures", value, least=0))
    if re.fullmatch(r"\d{1,18}", text):
        return Limit(photos=int(text))
    if re.fullmatch(r"\d+(\.\d+)?%", text) and float(text[:-1]) <= 100:
        return Limit(share=float(text[:-1]) / 100)
    raise InputError(f"`max_failures` {text}: must be a number of photos, or a percentage from 0% to 100%, such as 5%")


def function(name: str, value: Any) -> None:
    """Checks what is to be called: a function, or None.

    Raises:
      InputError: it is something else.
    """
    if value is not None and not callable(value):
        raise InputError(f"`{name}` must be a function, not {shown(value)}")


def event(name: str, value: Any) -> None:
    """Checks what is to be looked at: an event, or None.

    Raises:
      InputError: it is something else.
    """
    if value is not None and not callable(getattr(value, "is_set", None)):
        raise InputError(f"`{name}` must be a threading.Event, not {shown(value)}")


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise InputError(f"`{name}` must be a text, or a list of texts, not {shown(values)}")
    return list(values)


def _absolute_input(uri: str) -> str:
    # A path that is not UTF-8 can be passed on as a URI.
    try:
        return uris.local_uri(stores.absolute(uri)) if stores.is_local(uri) else stores.absolute(uri)
    except InputError as error:
        raise InputError(f"`inputs`: {error}") from None
