import bisect
import itertools

import pytest

from beamscribe.pipelines.sources.ranges import find_cuts


class Names:
    """A store that can be asked for the first name only."""

    def __init__(self, names):
        self.names = sorted(names)
        self.requests = 0

    def first(self, prefix, start):
        self.requests += 1
        place = bisect.bisect_left(self.names, max(prefix, start))
        found = self.names[place] if place < len(self.names) else None
        return found if found and found.startswith(prefix) else None

    def largest(self, cuts):
        """How many names the largest range has."""
        places = [0, *(bisect.bisect_left(self.names, cut) for cut in cuts), len(self.names)]
        return max(end - start for start, end in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("names", "share"),
    [
        ([f"p/{n:07d}.jpg" for n in range(20_000)], 0.1),
        ([f"p/IMG_{n}.jpg" for n in range(20_000)], 0.1),
        ([f"p/{y}/{m:02d}/{n}.jpg" for y in range(2010, 2024) for m in range(1, 13) for n in range(50)], 0.1),
        ([*(f"p/alice/IMG_{n:05}.jpg" for n in range(20_000)), "p/bob/1.jpg"], 0.1),
        ([f"p/{chr(0x4E00 + n % 50)}{n}.jpg" for n in range(20_000)], 0.1),
        # Names that others begin with, and the last characters that there are.
        (["p/", "p/a", "p/aa", "p/\ud7ff", "p/\ue000", "p/\U0010ffff", "p/\U0010ffff\U0010ffff"], 1),
        (["p/one"], 1),
        ([], 1),
    ],
)
def test_names_are_cut_into_ranges_of_about_equal_size(names, share):
    store = Names([*names, "o", "q"])
    cuts = find_cuts("p/", store.first)
    assert cuts == sorted(set(cuts)) and all(cut.startswith("p/") for cut in cuts)
    assert store.largest(cuts) <= share * len(names) + 2
    assert store.requests < 250


def test_a_store_that_lists_only_from_the_beginning_is_not_cut():
    assert find_cuts("p/", lambda prefix, _: "p/abc") == []
