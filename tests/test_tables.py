"""`beamscribe.read` and `beamscribe.scan`: what they take, and what they say of wrong arguments."""

import os
import re

import pytest

import beamscribe
from tests.test_show import LATER, commit, row  # noqa: F401 - the fixture


@pytest.fixture
def output(tmp_path, commit):  # noqa: F811 - the fixture
    commit("1", row("/p/a.jpg", "a dog"), row("/p/b.jpg", "a cat"))
    commit("2", row("/p/a.jpg", "two dogs", written_at=LATER))
    return tmp_path


class BytesPath(os.PathLike):
    def __init__(self, path):
        self._path = path

    def __fspath__(self):
        return os.fsencode(self._path)


def test_an_output_may_be_any_path(output):
    for path in (output, str(output), BytesPath(output)):
        assert beamscribe.read(path).num_rows == 2


def test_columns_come_in_the_order_that_is_asked_for(output):
    for columns in (["caption", "photo"], ("caption", "photo"), iter(["caption", "photo"])):
        assert beamscribe.read(output, columns).column_names == ["caption", "photo"]
    assert beamscribe.read(output, "photo").column_names == ["photo"]
    assert beamscribe.read(output, ["caption"], history=True).num_rows == 3


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (5, "`columns` must be a list of names, not 5 (int)"),
        (b"photo", "`columns` must be a list of names, not b'photo' (bytes)"),
        (["photo", 5], "`columns` must be a list of names; one of them is 5 (int)"),
        ([["photo"]], "`columns` must be a list of names; one of them is ['photo'] (list)"),
        (["photo", "photo"], "`columns`: photo comes twice; name each column once"),
        ([], "`columns` is empty; name a column, or give None for all"),
        (["captoin"], "`columns`: there is no column captoin; did you mean caption?"),
    ],
)
def test_wrong_columns(output, columns, complaint, history):
    for function in (beamscribe.read, beamscribe.scan):
        with pytest.raises(beamscribe.InputError) as error:
            function(output, columns, history=history)
        assert str(error.value) == complaint


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (None, "`output` must be a path or a URI, not None (NoneType)"),
        (5, "`output` must be a path or a URI, not 5 (int)"),
        (b"x", "`output` must be a path or a URI, not b'x' (bytes)"),
        ("", "`output` is empty; give a path or a URI"),
        ("a\0b", "`output` a\\x00b: no name can hold the character NUL"),
    ],
)
def test_wrong_outputs(wrong, complaint):
    for function in (beamscribe.read, beamscribe.scan):
        with pytest.raises(beamscribe.InputError, match=f"^{re.escape(complaint)}$"):
            function(wrong)


@pytest.mark.parametrize("history", [1, None, "no"])
def test_wrong_histories(output, history):
    with pytest.raises(beamscribe.InputError, match=r"^`history` must be True or False, not "):
        beamscribe.read(output, history=history)
