import apache_beam as beam
import numpy as np

from pipelines import plan
from pipelines.ledger import Done, _digest
from pipelines.photos import PhotoRef
from pipelines.plan import PlannedShard, PlanShards
from tests.conftest import run_eagerly


def make_plan(folder, refs, done=(), **settings):
    """Runs `PlanShards` and returns the shards that it gave."""
    digests = [_digest(ref.photo, ref.etag) for ref in done]

    def transform(pipeline):
        listed = pipeline | "Listed" >> beam.Create(refs).with_output_types(PhotoRef)
        ledger = pipeline | "Done" >> beam.Create([Done.of(digests)])
        return (listed, ledger) | PlanShards(str(folder), "run", **{"shard_size": 40, "workers": 1, **settings})

    return run_eagerly(folder / "shards.pickle", transform)


def photos_in(shards):
    return sorted(ref.photo for shard in shards for ref in plan.read_shard(shard).photos)


def refs_of(*numbers):
    return [PhotoRef(f"/photos/{n:04d}.jpg", "1", 10) for n in numbers]


def test_every_new_photo_is_in_one_shard(tmp_path):
    refs = refs_of(*range(300))
    shards = make_plan(tmp_path, refs, done=refs[:100])
    assert photos_in(shards) == [ref.photo for ref in refs[100:]]
    frozen = plan.read(str(tmp_path))
    assert (frozen.listed, frozen.skipped, frozen.planned) == (300, 100, 200)
    assert set(frozen.shards) == set(shards)
    assert sum(shard.photos for shard in shards) == 200
    assert len({shard.index for shard in shards}) == len(shards)


def test_a_changed_photo_is_new(tmp_path):
    refs = refs_of(1, 2)
    shards = make_plan(tmp_path, [refs[0], PhotoRef(refs[1].photo, "2")], done=refs)
    assert photos_in(shards) == [refs[1].photo]


def test_a_second_attempt_keeps_to_the_first_plan(tmp_path):
    first = make_plan(tmp_path, refs_of(*range(50)))
    frozen = (tmp_path / "plan.json").read_bytes()
    second = make_plan(tmp_path, refs_of(*range(20, 90)))
    assert sorted(second) == sorted(first)
    assert (tmp_path / "plan.json").read_bytes() == frozen
    assert photos_in(second) == [ref.photo for ref in refs_of(*range(50))]


def test_where_there_is_a_plan_nothing_is_listed(tmp_path):
    assert list(plan.unless_planned("x", str(tmp_path))) == ["x"]
    make_plan(tmp_path, refs_of(1))
    assert list(plan.unless_planned("x", str(tmp_path))) == []


def test_nothing_to_do_is_a_plan_too(tmp_path):
    assert make_plan(tmp_path, []) == []
    assert plan.read(str(tmp_path)) == plan.Plan("run", 0, 0, 0, ())


def test_shard_count():
    assert plan.shard_count(1_000_000, 512, workers=1) == 1954
    assert plan.shard_count(1000, 512, workers=1) == 8
    assert plan.shard_count(1000, 512, workers=4) == 32
    assert plan.shard_count(2000, 32, workers=1) == 63
    assert plan.shard_count(5, 512, workers=4) == 1
    assert plan.shard_count(0, 512, workers=1) == 1


def test_shards_are_even_and_equal_in_every_process():
    sizes = np.bincount([plan.shard_of(f"/photos/{i}.jpg", 20) for i in range(10_000)], minlength=20)
    assert sizes.min() > 400 and sizes.max() < 600
    assert plan.shard_of("/photos/é.jpg", 1000) == 771


def test_the_plan_survives_its_file():
    made = plan.Plan("run", 5, 2, 3, (PlannedShard(0, 3, "a.parquet"),))
    assert plan.Plan.from_json(made.to_json()) == made
