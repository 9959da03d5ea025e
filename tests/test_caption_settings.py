"""The caption settings that a caller asks for, and what is said of wrong ones."""

import numpy as np
import pytest

from beamscribe.model import caption_settings
from beamscribe.model.caption_settings import CaptionSettings, check_alternatives, chosen, whole_number
from beamscribe.model.errors import InputError

OF_MODEL = CaptionSettings(3, 18, min_length=2, length_penalty=0.5)
LONGEST = 20


def test_every_setting_has_its_range():
    assert {*caption_settings._RANGES} == {*CaptionSettings._fields}


def test_what_is_not_asked_for_stays():
    assert chosen(None, OF_MODEL, LONGEST) == OF_MODEL
    assert chosen({}, OF_MODEL, LONGEST) == OF_MODEL
    asked = {"min_length": 5, "no_repeat_ngram": 3}
    assert chosen(asked, OF_MODEL, LONGEST) == OF_MODEL._replace(**asked)
    asked = {"beam_width": 5, "length_penalty": 2.0, "max_length": 20, "min_length": 20}
    assert chosen(asked, OF_MODEL, LONGEST) == OF_MODEL._replace(**asked)


def test_equal_settings_have_equal_fingerprints_whatever_their_types():
    plain = chosen({"top_p": 1.0, "temperature": 0.5, "seed": 7}, OF_MODEL, LONGEST)
    other = chosen({"top_p": 1, "temperature": np.float32(0.5), "seed": np.int64(7)}, OF_MODEL, LONGEST)
    assert plain.fingerprint == other.fingerprint
    assert list(map(type, other)) == list(map(type, plain))


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"beam_width": 0}, "`beam_width` 0: must be from 1 to 100"),
        ({"beam_width": 101}, "`beam_width` 101: must be from 1 to 100"),
        ({"beam_width": 10**5000}, "`beam_width` is too large"),
        ({"top_p": 0.9, "temperature": 1e-9}, "`temperature` 1e-09: must be from 0.01 to 100"),
        ({"top_p": 0.9, "seed": 2**63}, "`seed` is too large"),
        ({"max_length": 0}, "`max_length` 0: must be at least 1"),
        ({"max_length": 99}, "`max_length` 99: the model writes at most 20 words"),
        ({"min_length": 0}, "`min_length` 0: must be at least 1"),
        ({"min_length": 19}, "`min_length` 19: must be at most `max_length`, 18"),
        ({"min_length": 5, "max_length": 4}, "`min_length` 5: must be at most `max_length`, 4"),
        # The other one may be the model's.
        ({"max_length": 1}, "`min_length` 2: must be at most `max_length`, 1"),
        ({"length_penalty": -1}, "`length_penalty` -1.0: must be from 0 to 10"),
        ({"length_penalty": float("nan")}, "`length_penalty` nan: must be from 0 to 10"),
        ({"length_penalty": 10**400}, "`length_penalty` is too large"),
        ({"no_repeat_ngram": -1}, "`no_repeat_ngram` -1: must be at least 0"),
        ({"no_repeat_ngram": 21}, "`no_repeat_ngram` 21: the model writes at most 20 words"),
        ({"top_p": 0}, "`top_p` 0.0: must be above 0, up to 1"),
        ({"top_p": 1.1}, "`top_p` 1.1: must be above 0, up to 1"),
        ({"top_p": 0.9, "temperature": 0}, "`temperature` 0.0: must be from 0.01 to 100"),
        ({"top_p": 0.9, "temperature": float("inf")}, "`temperature` inf: must be from 0.01 to 100"),
        ({"top_p": 0.9, "seed": -1}, "`seed` -1: must be at least 0"),
        ({"temperature": 2}, "`temperature` has no effect without `top_p`; give `top_p`, too"),
        ({"seed": 2}, "`seed` has no effect without `top_p`; give `top_p`, too"),
        ({"top_p": 0.9, "beam_width": 2}, "`beam_width` has no effect with `top_p`; leave out one of the two"),
        ({"beam_wdth": 2}, "there is no setting 'beam_wdth'; did you mean `beam_width`?"),
        (
            {"x": 2},
            "there is no setting 'x'; choose from beam_width, max_length, min_length, length_penalty, no_repeat_ngram,"
            " top_p, temperature, seed",
        ),
        ({"beam_width": True}, "`beam_width` must be a whole number, not True (bool)"),
        ({"beam_width": 3.0}, "`beam_width` must be a whole number, not 3.0 (float)"),
        ({"beam_width": None}, "`beam_width` must be a whole number, not None (NoneType)"),
        ({"top_p": "0.9"}, "`top_p` must be a number, not '0.9' (str)"),
        ({"top_p": np.True_}, "`top_p` must be a number, not np.True_ (bool)"),
        (5, "`settings` must be a mapping such as {'beam_width': 5}, not 5 (int)"),
        ("beam_width=5", "`settings` must be a mapping such as {'beam_width': 5}, not 'beam_width=5' (str)"),
    ],
)
def test_a_mistake_is_one_clear_line(asked, complaint):
    with pytest.raises(InputError) as error:
        chosen(asked, OF_MODEL, LONGEST)
    assert str(error.value) == complaint


def test_beam_search_has_no_more_alternatives_than_it_keeps():
    assert check_alternatives(2, OF_MODEL) == 2
    with pytest.raises(InputError) as error:
        check_alternatives(3, OF_MODEL)
    assert str(error.value) == "`alternatives` 3: a beam width of 3 gives at most 2; raise `beam_width`"
    assert check_alternatives(99, OF_MODEL._replace(top_p=0.9)) == 99
    with pytest.raises(InputError, match=r"^`alternatives` 100: must be at most 99$"):
        check_alternatives(100, OF_MODEL._replace(top_p=0.9))
    for wrong in (-1, 1.0, None, "1", True):
        with pytest.raises(InputError, match=r"^`alternatives`"):
            check_alternatives(wrong, OF_MODEL)


def test_whole_numbers():
    assert whole_number("batch_size", np.int32(4), least=1) == 4
    with pytest.raises(InputError, match=r"^`batch_size` 0: must be at least 1$"):
        whole_number("batch_size", 0, least=1)
    with pytest.raises(InputError, match=r"^`batch_size` must be a whole number, not .{40} [(]list[)]$"):
        whole_number("batch_size", [0] * 100, least=1)
