"""How captions are written: what the caller may choose for each call of a model, and the randomness of drawing."""

import difflib
import hashlib
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from beamscribe.model.errors import InputError, shown


class CaptionSettings(NamedTuple):
    """What the caller may choose for each call of the model.

    Attributes:
      beam_width: captions that beam search keeps at each step.
      max_length: most words in a caption.
      min_length: fewest words in a caption.
      length_penalty: how much beam search favours long captions (Wu et al. 2016, arXiv:1609.08144, equation 14).
      no_repeat_ngram: no sequence of so many words occurs twice in a caption; 0 allows all.
      top_p: above 0, captions are drawn, not searched for: from the most probable words that together have this
        probability (Holtzman et al. 2020, arXiv:1904.09751).
      temperature: of the drawing; above 1 for more varied captions.
      seed: of the drawing.
    """

    beam_width: int
    max_length: int
    min_length: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    top_p: float = 0.0
    temperature: float = 1.0
    seed: int = 0

    @property
    def idle(self) -> frozenset[str]:
        """The fields that change nothing: those of drawing in a search, and the other way round."""
        return _OF_SEARCH if self.top_p else _OF_DRAWING

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for settings that write the same captions."""
        return ",".join(f"{name}={value}" for name, value in self._asdict().items() if name not in self.idle)


_OF_SEARCH = frozenset(("beam_width", "length_penalty"))
_OF_DRAWING = frozenset(("top_p", "temperature", "seed"))


# Beam search and drawing keep all captions of a batch in memory, and need time for each of them.
MOST_CAPTIONS = 100
# Whole numbers from here on are no counts, and the longest of them can't even be printed.
_TOO_LARGE = 2**63


class _Range(NamedTuple):
    kind: type
    must_be: str
    allows: Callable[[float], bool]


_RANGES = {
    "beam_width": _Range(int, f"from 1 to {MOST_CAPTIONS}", lambda n: 1 <= n <= MOST_CAPTIONS),
    "max_length": _Range(int, "at least 1", lambda n: n >= 1),
    "min_length": _Range(int, "at least 1", lambda n: n >= 1),
    "length_penalty": _Range(float, "from 0 to 10", lambda x: 0 <= x <= 10),
    "no_repeat_ngram": _Range(int, "at least 0", lambda n: n >= 0),
    "top_p": _Range(float, "above 0, up to 1", lambda x: 0 < x <= 1),
    # Outside, the logits over the temperature are numbers that float32 does not tell apart.
    "temperature": _Range(float, "from 0.01 to 100", lambda x: 0.01 <= x <= 100),
    "seed": _Range(int, "at least 0", lambda n: n >= 0),
}


def chosen(asked: Mapping[str, Any] | None, settings: CaptionSettings, longest: int) -> CaptionSettings:
    """A model's settings with the changes that a caller asks for.

    Args:
      asked: new values by the names of fields of `CaptionSettings`; None for no changes.
      settings: default settings of the model.
      longest: most words that a caption of the model can have.

    Raises:
      InputError: there is no such setting, its value is of another type or out of range, or it has no effect together
        with the other settings.
    """
    if asked is not None and not isinstance(asked, Mapping):
        raise InputError(f"`settings` must be a mapping such as {{'beam_width': 5}}, not {shown(asked)}")
    changes = {name: _checked(name, value) for name, value in (asked or {}).items()}
    changed = settings._replace(**changes)
    for name in changes:
        if name in changed.idle:
            raise InputError(
                f"`{name}` has no effect with `top_p`; leave out one of the two"
                if changed.top_p
                else f"`{name}` has no effect without `top_p`; give `top_p`, too"
            )
    if changed.max_length > longest:
        raise InputError(f"`max_length` {changed.max_length}: the model writes at most {longest} words")
    if changed.min_length > changed.max_length:
        raise InputError(f"`min_length` {changed.min_length}: must be at most `max_length`, {changed.max_length}")
    if changes.get("no_repeat_ngram", 0) > longest:
        raise InputError(f"`no_repeat_ngram` {changed.no_repeat_ngram}: the model writes at most {longest} words")
    return changed


def check_alternatives(alternatives: Any, settings: CaptionSettings) -> int:
    """Checks the number of captions to write in addition to the best one.

    Raises:
      InputError: it is no whole number, or more than beam search keeps or is drawn at most.
    """
    number = whole_number("alternatives", alternatives, least=0)
    if number >= settings.beam_width and not settings.top_p:
        raise InputError(
            f"`alternatives` {number}: a beam width of {settings.beam_width} gives at most "
            f"{settings.beam_width - 1}; raise `beam_width`"
        )
    if number >= MOST_CAPTIONS:
        raise InputError(f"`alternatives` {number}: must be at most {MOST_CAPTIONS - 1}")
    return number


def whole_number(name: str, value: Any, least: int) -> int:
    """Checks an argument that counts something.

    Args:
      name: name of the argument, for the message.
      value: the argument.
      least: smallest number that is allowed.

    Raises:
      InputError: the value is no whole number, smaller than `least`, or too large for a count.
    """
    number = _number(name, value, int)
    if number < least:
        raise InputError(f"`{name}` {number}: must be at least {least}")
    return number


def _checked(name: Any, value: Any) -> Any:
    if name not in _RANGES:
        nearest = difflib.get_close_matches(str(name), _RANGES, 1)
        known = f"did you mean `{nearest[0]}`?" if nearest else f"choose from {', '.join(_RANGES)}"
        raise InputError(f"there is no setting {name!r}; {known}")
    kind, must_be, allows = _RANGES[name]
    number = _number(name, value, kind)
    if not allows(number):
        raise InputError(f"`{name}` {number}: must be {must_be}")
    return number


def _number(name: str, value: Any, kind: type) -> Any:
    """The value as the type that a setting has, so that equal settings have equal fingerprints."""
    wanted = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool | np.bool_) or not isinstance(value, wanted):
        raise InputError(f"`{name}` must be a {'whole ' if kind is int else ''}number, not {shown(value)}")
    if isinstance(value, numbers.Integral) and abs(int(value)) >= _TOO_LARGE:
        raise InputError(f"`{name}` is too large")
    try:
        return kind(value)
    except OverflowError:
        raise InputError(f"`{name}` is too large") from None


def draws(names: Sequence[str], settings: CaptionSettings, captions: int, longest: int) -> np.ndarray | None:
    """Makes the randomness of drawing captions, which depends on the seed and on each photo's name alone.

    A photo's captions are thus the same in any batch, shard and run.

    Args:
      names: of the photos of a batch.
      settings: whether to draw at all, and the seed.
      captions: how many to draw for each photo.
      longest: most words that a caption of the model can have.

    Returns:
      `[batch, captions, longest + 1]`, float32, in [0, 1); None where captions are searched for.
    """
    if not settings.top_p:
        return None
    digests = [hashlib.sha256(f"{settings.seed} {name}".encode(errors="surrogatepass")).digest() for name in names]
    generators = [np.random.default_rng(int.from_bytes(digest, "little")) for digest in digests]
    return np.stack([generator.random((captions, longest + 1), np.float32) for generator in generators])
