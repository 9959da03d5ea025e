"""Splits what is listed of a bucket among workers, by ranges of names.

Ranges that follow on each other hold every name once, wherever they are cut; only how equal they come out depends on
finding good places. A few requests for one name each find the characters that names go on with.
"""

import concurrent.futures
import functools
import itertools
import re
from collections.abc import Callable, Iterator

from beamscribe.pipelines import stores
from beamscribe.pipelines.sources.base import Source
from beamscribe.pipelines.stores import gcs

# Fewer objects are listed by a single request, or some.
SMALLEST = 2000
# Ranges to find: enough for many workers though they come out unequal.
_WANTED = 16
# Letters and digits are fewer; more next characters than these are not looked for.
_MOST_NEXT = 100
# Names that are looked for at once.
_LOOKERS = 8

# The first name that begins with a text, from another one on.
First = Callable[[str, str], str | None]


def parts(source: Source) -> Iterator[Source]:
    """A folder or a glob in a bucket as several sources, in order, which together list the same; others as they are."""
    if source.kind not in ("folder", "glob") or not stores.is_object(source.uri):
        yield source
        return
    prefix = f"{source.uri}/" if source.kind == "folder" else re.split(r"[[*?]", source.uri)[0]
    few = len(list(itertools.islice(gcs.listed(prefix), SMALLEST))) < SMALLEST
    cuts = [] if few else found_cuts(prefix, gcs.first)
    for start, end in itertools.pairwise(["", *cuts, ""]):
        yield source._replace(start=start, end=end)


def found_cuts(prefix: str, first: First) -> list[str]:
    """Where to cut the names that begin with a text, in order; nowhere in a store that can't list from a name on.

    Args:
      prefix: what they begin with.
      first: gives the first name that begins with its first argument and is not before its second.
    """
    beginnings = [prefix]
    with concurrent.futures.ThreadPoolExecutor(_LOOKERS) as lookers:
        while len(beginnings) < _WANTED:
            longer = list(itertools.chain.from_iterable(lookers.map(functools.partial(_longer, first), beginnings)))
            if longer == beginnings:
                break
            beginnings = longer
    return beginnings[1:]


def _longer(first: First, beginning: str) -> list[str]:
    """What names with a beginning begin with, a character further or, where that is the same for all, several."""
    name = first(beginning, "")
    if name is None:
        return [beginning]
    common = _common(first, beginning, name)
    found: list[str] = []
    start = common
    while len(found) < _MOST_NEXT:
        following = first(common, start)
        if following is None or following < start or following[: len(common) + 1] in found[-1:]:
            # There is none, or not where it should be: the store does not know what was asked.
            break
        if following == common:
            start = f"{common}\1"
            continue
        found.append(following[: len(common) + 1])
        start = _after(found[-1])
    return found or [beginning]


def _common(first: First, beginning: str, name: str) -> str:
    """What all names with a beginning begin with, of which the first is given."""
    least, most = len(beginning), len(name)
    while least < most:
        middle = (least + most + 1) // 2
        if first(beginning, _after(name[:middle])) is None:
            least = middle
        else:
            most = middle - 1
    return name[:least]


def _after(text: str) -> str:
    """The least text that is after all that begin with this one."""
    code = ord(text[-1]) + 1
    # No name has surrogates.
    code = 0xE000 if 0xD800 <= code < 0xE000 else min(code, 0x10FFFF)
    return text[:-1] + chr(code)
