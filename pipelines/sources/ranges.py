"""Splits the listing of a bucket among workers, by ranges of names.

Adjacent ranges contain every name exactly once, wherever they are cut; the cuts only decide how equal the ranges are.
Good cuts are found with a few requests, each for a single name, which show the characters that follow a prefix.
"""

import concurrent.futures
import functools
import itertools
import re
from collections.abc import Callable, Iterator

from beamscribe.pipelines import stores
from beamscribe.pipelines.sources.base import Source
from beamscribe.pipelines.stores.base import RangedStore

# Fewer objects than this are not split: a few requests list them.
SMALLEST = 2000
# The number of ranges to aim for: enough for many workers, although the ranges are unequal.
_WANTED = 16
# The maximum number of characters that are searched after a prefix; letters and digits are fewer.
_MAX_NEXT = 100
# Requests that are made in parallel.
_THREADS = 8

# Returns the first name that begins with its first argument and is not before its second; None if there is none.
First = Callable[[str, str], str | None]


def parts(source: Source) -> Iterator[Source]:
    """Splits a folder or a glob in a bucket into sources that together list the same, in order; passes others on."""
    store = stores.store_of(source.uri)
    if source.kind not in ("folder", "glob") or not isinstance(store, RangedStore):
        yield source
        return
    prefix = f"{source.uri}/" if source.kind == "folder" else re.split(r"[[*?]", source.uri)[0]
    few = len(list(itertools.islice(store.list_prefix(prefix), SMALLEST))) < SMALLEST
    cuts = [] if few else find_cuts(prefix, store.first)
    for start, end in itertools.pairwise(["", *cuts, ""]):
        yield source._replace(start=start, end=end)


def find_cuts(prefix: str, first: First) -> list[str]:
    """Finds the names at which to cut a listing.

    Args:
      prefix: prefix of all names.
      first: returns the first name that begins with its first argument and is not before its second, or None.

    Returns:
      The cuts, in order; empty if the store can't list from a name on.
    """
    beginnings = [prefix]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        while len(beginnings) < _WANTED:
            longer = list(itertools.chain.from_iterable(threads.map(functools.partial(_longer, first), beginnings)))
            if longer == beginnings:
                break
            beginnings = longer
    return beginnings[1:]


def _longer(first: First, beginning: str) -> list[str]:
    """The prefixes, in order, of the names that start with `beginning`: longer by one character.

    If all names continue with the same characters, these are added first.
    """
    name = first(beginning, "")
    if name is None:
        return [beginning]
    common = _common(first, beginning, name)
    found: list[str] = []
    start = common
    while len(found) < _MAX_NEXT:
        following = first(common, start)
        if following is None or following < start or following[: len(common) + 1] in found[-1:]:
            # There are no more names; or the answer is out of range, so the store does not support such requests.
            break
        if following == common:
            start = f"{common}\1"
            continue
        found.append(following[: len(common) + 1])
        start = _after(found[-1])
    return found or [beginning]


def _common(first: First, beginning: str, name: str) -> str:
    """The longest common prefix of all names that start with `beginning`; `name` is the first of them."""
    least, most = len(beginning), len(name)
    while least < most:
        middle = (least + most + 1) // 2
        if first(beginning, _after(name[:middle])) is None:
            least = middle
        else:
            most = middle - 1
    return name[:least]


def _after(text: str) -> str:
    """The least string that sorts after all strings with this prefix."""
    code = ord(text[-1]) + 1
    # Names contain no surrogates.
    code = 0xE000 if 0xD800 <= code < 0xE000 else min(code, 0x10FFFF)
    return text[:-1] + chr(code)
