"""No photo is lost or doubled on its way from one step to the next, however many there are."""

import apache_beam as beam
import pytest

from beamscribe.pipelines import passing
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.passing import Partition
from beamscribe.pipelines.photos import PhotoRef
from tests.conftest import run_eagerly

REFS = [PhotoRef(f"/photos/{number:03d}.jpg", "1", number) for number in range(100)]


def by_remainder(refs, several):
    (divisor,) = several
    for number in range(divisor):
        yield number, [ref for ref in refs if ref.size % divisor == number]


@pytest.mark.parametrize("most", [1, 30, 1000])
@pytest.mark.parametrize("is_packed", [False, True])
def test_each_photo_comes_once_with_its_key(tmp_path, monkeypatch, most, is_packed):
    monkeypatch.setattr(passing, "MOST", most)
    chunks = [REFS[start : start + 7] for start in range(0, 100, 7)]

    def transform(pipeline):
        photos = pipeline | beam.Create([passing.packed(chunk) if is_packed else chunk for chunk in chunks])
        divisor = beam.pvalue.AsIter(pipeline | "Divisor" >> beam.Create([3]))
        return photos | beam.ParDo(Partition(by_remainder), divisor) | beam.GroupByKey()

    found = {key: list(passing.unpacked(several)) for key, several in run_eagerly(tmp_path / "found", transform)}
    assert {key: sorted(refs) for key, refs in found.items()} == {key: REFS[key::3] for key in range(3)}


def test_references_stay_as_they_are():
    failed = REFS[0]._replace(failure=Failure(Stage.LIST, ErrorCode.CORRUPT, "why"), attempts=2, again=True)
    assert list(passing.unpacked([passing.packed([failed]), passing.packed(REFS[1:3])])) == [failed, *REFS[1:3]]
