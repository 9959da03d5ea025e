import hashlib

import apache_beam as beam
import numpy as np

from beamscribe.pipelines import ledger, planning, sharding
from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.ledger import DoneRule
from beamscribe.pipelines.listing import Listed
from beamscribe.pipelines.output import frozen_plan
from beamscribe.pipelines.output.frozen_plan import Unit
from beamscribe.pipelines.output.run_documents import Plan, PlannedShard
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.planning import PlanShards
from tests import made
from tests.conftest import run_eagerly
from tests.test_compact import commit, row

RULE = DoneRule("m", "s")


def make_plan(folder, refs, done=(), ignored=None, **settings):
    """Runs `PlanShards` and returns the shards that it gave."""
    chunks = [Listed(tuple(refs[start : start + 90]), ignored or {}) for start in range(0, max(len(refs), 1), 90)]
    entries = []
    if done:
        folder_of_rows = folder / "done"
        path = commit(folder_of_rows, "earlier", *(row(ref.photo, etag=ref.etag, model="m") for ref in done))
        entries = list(ledger.entries_of([str(path)], RULE))

    def transform(pipeline):
        listed = pipeline | "Listed" >> beam.Create(chunks)
        known = pipeline | "Done" >> beam.Create(entries)
        files = pipeline | "Files" >> beam.Create([])
        plan = PlanShards(str(folder), "run", RULE, **{"shard_size": 40, "workers": 1, **settings})
        return (listed, known, files) | plan

    return run_eagerly(folder / "shards.pickle", transform)


def photos_in(shards):
    return sorted(ref.photo for shard in shards for ref in frozen_plan.read_shard(shard).photos)


def refs_of(*numbers):
    return [PhotoRef(f"/photos/{n:04d}.jpg", "1", 10 + n) for n in numbers]


def members(container, count, block=None):
    return [
        PhotoRef(f"{container}#{n:04d}", "1", 100_000 + n, container, "tar", 512 * n, n if block is None else block)
        for n in range(count)
    ]


def test_every_new_photo_is_in_one_shard(tmp_path):
    refs = refs_of(*range(300))
    shards = make_plan(tmp_path, refs, done=refs[:100], ignored={".txt": 2})
    assert photos_in(shards) == [ref.photo for ref in refs[100:]]
    frozen = frozen_plan.read(str(tmp_path))
    assert (frozen.listed, frozen.skipped, frozen.planned) == (300, 100, 200)
    assert frozen.ignored == {".txt": 8}
    assert set(frozen.shards) == set(shards)
    assert sum(shard.photos for shard in shards) == 200
    assert len({shard.index for shard in shards}) == len(shards)


def test_a_changed_photo_is_new_and_a_photo_of_two_inputs_is_one(tmp_path):
    refs = refs_of(1, 2)
    shards = make_plan(tmp_path, [refs[0], PhotoRef(refs[1].photo, "2"), *refs[:1]], done=refs)
    assert photos_in(shards) == [refs[1].photo]
    assert frozen_plan.read(str(tmp_path)).listed == 2


def test_a_second_attempt_keeps_to_the_first_plan(tmp_path):
    first = make_plan(tmp_path, refs_of(*range(50)))
    frozen = (tmp_path / "plan.json").read_bytes()
    second = make_plan(tmp_path, refs_of(*range(20, 90)))
    assert sorted(second) == sorted(first)
    assert (tmp_path / "plan.json").read_bytes() == frozen
    assert photos_in(second) == [ref.photo for ref in refs_of(*range(50))]


def test_where_there_is_a_plan_nothing_is_listed(tmp_path):
    assert list(frozen_plan.unless_planned("x", str(tmp_path))) == ["x"]
    make_plan(tmp_path, refs_of(1))
    assert list(frozen_plan.unless_planned("x", str(tmp_path))) == []


def test_nothing_to_do_is_a_plan_too(tmp_path):
    assert make_plan(tmp_path, []) == []
    made = frozen_plan.read(str(tmp_path))
    assert (made.listed, made.skipped, made.planned, made.shards) == (0, 0, 0, ())


def test_members_of_a_container_stay_together_as_ranges_of_it(tmp_path):
    shards = make_plan(tmp_path, [*members("/a.tar", 100), *members("/b.tar", 10), *refs_of(*range(5))])
    contents = [[ref.photo for ref in frozen_plan.read_shard(shard).photos] for shard in shards]
    assert sorted(map(len, contents)) == [5, 14, 32, 32, 32]
    assert [f"/a.tar#{n:04d}" for n in range(32)] in contents
    # The rest of one container and all of a small one make a shard.
    assert [f"/a.tar#{n:04d}" for n in range(96, 100)] + [f"/b.tar#{n:04d}" for n in range(10)] in contents


def test_what_can_only_be_read_together_is_one_shard(tmp_path):
    shards = make_plan(tmp_path, [*members("/a.tgz", 100, block=0), *members("/b.parquet", 30, block=3)])
    assert sorted(shard.photos for shard in shards) == [30, 100]


def test_photos_with_the_same_bytes_are_planned_beside_the_one_that_is_read(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    contents = {f"{n:02d}.jpg": bytes([n // 3]) * 1000 for n in range(60)}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    refs = [PhotoRef(str(folder / name), "1", 1000) for name in contents]
    refs.append(PhotoRef(str(folder / "gone.jpg"), "1", 1000))
    shards = make_plan(tmp_path, refs)
    assert frozen_plan.read(str(tmp_path)).duplicates == 40
    assert photos_in(shards) == sorted(ref.photo for ref in refs)
    for shard in shards:
        photos = {ref.photo: ref for ref in frozen_plan.read_shard(shard).photos}
        for ref in photos.values():
            if ref.same_as:
                original = photos[ref.same_as]
                assert not original.same_as and original.sha256 == ref.sha256
                name, twin = (photo.photo.rpartition("/")[2] for photo in (ref, original))
                assert contents[name] == contents[twin]
                assert ref.sha256 == hashlib.sha256(contents[name]).hexdigest()


def test_without_looking_for_them_there_are_no_duplicates(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    make_plan(tmp_path, [PhotoRef(str(tmp_path / name), "1", 4) for name in "ab"], deduplicate=False)
    assert frozen_plan.read(str(tmp_path)).duplicates == 0


def test_a_duplicate_of_a_member_goes_where_the_container_is():
    original = members("/a.tar", 1)[0]
    loose = PhotoRef("/x.jpg", "1", original.size, same_as=original.photo)
    ((key, photos),) = sharding.by_group([loose, original], 7)
    assert key == ("/a.tar", 0) and set(photos) == {loose, original}
    assert list(sharding.cut(photos, 10)) == [[original, loose]]


def test_cut_keeps_the_order_of_the_container():
    refs = members("/a.tar", 25)
    units = list(sharding.cut(reversed(refs), 10))
    assert [len(unit) for unit in units] == [10, 10, 5]
    assert [ref for unit in units for ref in unit] == refs


def test_small_units_of_containers_share_a_shard():
    units = [Unit(f"/{n}.zip", 0, 15, 0, f"{n}") for n in range(4)] + [Unit("", 0, 3, 0, "loose")]
    shards = sharding.shards_of(units, 32)
    assert [(shard.photos, shard.paths) for shard in shards] == [(3, ("loose",)), (30, ("0", "1")), (30, ("2", "3"))]
    assert [shard.index for shard in shards] == [0, 1, 2]


def test_photos_a_shard():
    assert sharding.photos_per_shard(1_000_000, 512, workers=1) == 512
    assert sharding.photos_per_shard(1000, 512, workers=1) == 125
    assert sharding.photos_per_shard(1000, 512, workers=4) == 32
    assert sharding.photos_per_shard(5, 512, workers=4) == 32
    assert sharding.photos_per_shard(1000, 8, workers=1) == 8


def test_shards_are_even_and_equal_in_every_process():
    sizes = np.bincount([sharding.shard_of(f"/photos/{i}.jpg", 20) for i in range(10_000)], minlength=20)
    assert sizes.min() > 400 and sizes.max() < 600
    assert sharding.shard_of("/photos/é.jpg", 1000) == 771


def test_the_plan_survives_its_file():
    shards = (PlannedShard(0, 3, ("a.parquet", "b.parquet")),)
    written = made.plan(listed=5, skipped=2, planned=3, ignored={".txt": 1}, shards=shards)
    assert Plan.from_json(written.to_json(), "plan.json") == written


def test_references_survive_their_file(tmp_path):
    failed = members("/a.tar", 1)[0]._replace(failure=Failure(Stage.LIST, ErrorCode.CORRUPT, "why"), sha256="ab")
    unit = frozen_plan.write_unit(str(tmp_path), "", 0, [failed, *refs_of(1)])
    assert frozen_plan.read_shard(PlannedShard(0, 2, (unit.path,))).photos == (failed, *refs_of(1))


def test_many_kinds_of_ignored_files_are_told_in_few_words():
    some = {f".{number}": 1 for number in range(5000)} | {".txt": 7, "": 3}
    kinds = planning.most_frequent(some)
    assert list(kinds)[:3] == [".txt", "", ".0"] and len(kinds) == 11
    assert kinds["of 4,992 other kinds"] == 4992 and sum(kinds.values()) == sum(some.values())
    eleven = {f".{number}": 1 for number in range(11)}
    assert planning.most_frequent(eleven) == dict(sorted(eleven.items()))
