"""The Python of README.md runs as it stands, on an output with old rows, and gives one row a photo."""

import re
from pathlib import Path

import pandas as pd

from tests.test_compact import commit, row

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_snippets_give_one_row_a_photo(tmp_path):
    commit(tmp_path, "1", row("/p/a.jpg", error="not_found"), row("/p/b.jpg", "a cat"))
    commit(tmp_path, "2", row("/p/a.jpg", "a dog", hours=1))
    blocks = re.findall(r"(?:^    .*\n)+", README, re.MULTILINE)
    snippets = [re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks if "import beamscribe" in block]
    assert snippets
    for snippet in snippets:
        *lines, last = snippet.replace('"/captions"', repr(str(tmp_path))).splitlines()
        names: dict[str, object] = {}
        exec("\n".join(lines), names)
        found = eval(last, names)
        assert isinstance(found, pd.DataFrame)
        assert found[["photo", "caption"]].values.tolist() == [["/p/b.jpg", "a cat"], ["/p/a.jpg", "a dog"]]
