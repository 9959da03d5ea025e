"""`CaptionPhotos` in somebody's own pipeline, with a tiny model, on Beam's direct runner."""

import collections
import dataclasses
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import cloudpickle
import dill
import nbclient
import nbformat
import pytest
from apache_beam.io import fileio
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from apache_beam.typehints.decorators import TypeCheckError

from beamscribe.model import bundle
from beamscribe.model.captioners.exported_model import CaptionModel
from beamscribe.model.errors import InputError
from beamscribe.pipelines import caption_photos, listing, stores
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_photos import CaptionPhotos
from beamscribe.pipelines.photos import CaptionRow, PhotoRef, caption_table
from beamscribe.pipelines.sources.base import ListOptions
from tests import own_pipeline
from tests.conftest import run_eagerly
from tests.test_caption import options_for, rows_of
from tests.test_gcs import bucket  # noqa: F401 - a fixture


@pytest.fixture
def photos(tmp_path, make_photo) -> list[str]:
    """Paths of 40 photos, and of a file that is none."""
    paths = [str(make_photo(tmp_path / "photos" / f"{index:02d}.jpg", 40 + index)) for index in range(40)]
    (tmp_path / "photos" / "text.jpg").write_text("not a photo")
    return [*paths, str(tmp_path / "photos" / "text.jpg")]


def captioned(tmp_path: Path, elements: Iterable[Any], transform: CaptionPhotos) -> list[CaptionRow]:
    rows = run_eagerly(tmp_path / "rows", lambda root: root | beam.Create(list(elements)) | transform)
    assert all(type(row) is CaptionRow for row in rows)
    return sorted(rows, key=lambda row: row.photo)


def comparable(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of their photos, without what differs from run to run."""
    found = sorted(rows, key=lambda row: row["photo"])
    for row in found:
        for name in ("written_at", "attempts", "run_number"):
            del row[name]
        for scored in (row, *row["alternatives"]):
            scored["score"] = scored["score"] and pytest.approx(scored["score"], abs=1e-5)
    return found


def test_rows_are_those_of_a_job(photos, tmp_path, tiny_bundle):
    before = sys.path.copy(), os.getcwd()
    settings = {"top_p": 0.95, "temperature": 2.0}
    rows = captioned(tmp_path, photos, CaptionPhotos(tiny_bundle, settings=settings, alternatives=1, shard_size=7))
    assert (sys.path, os.getcwd()) == before
    options = options_for(tmp_path / "photos", tmp_path / "out", tiny_bundle)
    changed = dataclasses.replace(options, settings=options.settings._replace(**settings), alternatives=1)
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | CaptionArchive(changed)
    expected = comparable(rows_of(tmp_path / "out"))
    assert comparable(caption_table(rows).to_pylist()) == expected
    assert len(expected) == 41 and len({row["caption"] for row in expected}) > 30


def test_files_that_beam_has_matched(photos, tmp_path, tiny_bundle):
    expected = comparable(caption_table(captioned(tmp_path, photos, CaptionPhotos(tiny_bundle))).to_pylist())
    pattern = str(tmp_path / "photos" / "*.jpg")
    matched = run_eagerly(
        tmp_path / "rows", lambda root: root | fileio.MatchFiles(pattern) | CaptionPhotos(tiny_bundle)
    )
    assert comparable(caption_table(matched).to_pylist()) == expected
    opened = run_eagerly(
        tmp_path / "rows",
        lambda root: root | fileio.MatchFiles(pattern) | fileio.ReadMatches() | CaptionPhotos(tiny_bundle),
    )
    assert comparable(caption_table(opened).to_pylist()) == expected
    paths = captioned(tmp_path, map(Path, photos), CaptionPhotos(tiny_bundle))
    assert comparable(caption_table(paths).to_pylist()) == expected


def test_photos_keep_the_names_that_the_pipeline_gives_them(photos, tmp_path, tiny_bundle):
    shutil.copyfile(photos[0], "relative.jpg")
    shutil.copyfile(photos[1], os.fsencode(tmp_path) + b"/\xff.jpg")
    given = ["relative.jpg", f"file://{photos[2]}", Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))]
    rows = captioned(tmp_path, given, CaptionPhotos(tiny_bundle))
    assert [row.photo for row in rows] == [f"file://{tmp_path}/%FF.jpg", f"file://{photos[2]}", "relative.jpg"]
    assert [row.width for row in rows] == [41, 42, 40]


def test_what_fails_is_a_row(photos, tmp_path, tiny_bundle):
    missing = str(tmp_path / "none.jpg")
    rows = captioned(tmp_path, [missing, photos[0], photos[-1], str(tmp_path)], CaptionPhotos(tiny_bundle))
    found = {row.photo: (row.status, row.stage, row.error) for row in rows}
    assert found == {
        missing: ("failed", "read", "not_found"),
        photos[0]: ("captioned", None, None),
        photos[-1]: ("failed", "decode", "not_an_image"),
        str(tmp_path): ("failed", "read", "unreadable"),
    }
    assert {row.photo: bool(row.etag) for row in rows}[missing] is False


def test_a_reference_to_a_container_of_no_known_kind_is_a_row(photos, tmp_path, tiny_bundle):
    wrong = [PhotoRef(f"/x.rar#{name}.jpg", "", container="/x.rar", format=name) for name in ("rar", "")]
    found = captioned(tmp_path, [*wrong, photos[0]], CaptionPhotos(tiny_bundle))
    rows = {row.photo: row for row in found}
    assert rows[photos[0]].status == "captioned" and len(rows) == 3
    for ref in wrong:
        failed = rows[ref.photo]
        assert (failed.stage, failed.error) == ("read", "unsupported_format")
        assert failed.message == (
            f"{ref.format!r} is no format of a container: it must be one of tar, zip, tfrecord, parquet"
        )


def test_each_element_has_its_row(photos, tmp_path, tiny_bundle):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for photo in photos:
            archive.write(photo, os.path.basename(photo))
    members = list(listing.list_photos([str(tmp_path / "photos.zip")], ListOptions()))
    files = list(listing.list_photos([str(tmp_path / "photos")], ListOptions()))
    twin = files[1]._replace(photo=f"file://{photos[1]}", same_as=photos[0])
    # In no order, and some of them twice.
    given = [*members[::-1], *files, *members[:9], twin, *photos[:3], *photos[:3]]
    rows = captioned(tmp_path, given, CaptionPhotos(tiny_bundle, shard_size=50))
    named = [element if isinstance(element, str) else element.photo for element in given]
    assert collections.Counter(row.photo for row in rows) == collections.Counter(named)
    captions = {(os.path.basename(row.photo).rpartition("#")[2], row.caption, row.error) for row in rows}
    assert len(captions) == 41


class InWindow(beam.DoFn):
    """Says of each row in which window it is, and at what time."""

    def process(self, row, window=beam.DoFn.WindowParam, timestamp=beam.DoFn.TimestampParam):
        yield float(window.start), float(window.end), float(timestamp), row.photo


def test_rows_stay_in_the_windows_of_their_elements(photos, tmp_path, tiny_bundle, monkeypatch):
    batches = []
    real = CaptionModel.caption

    def caption(self, images, *arguments):
        batches.append(len(images))
        return real(self, images, *arguments)

    monkeypatch.setattr(CaptionModel, "caption", caption)

    def rows_in(windows: Any, shard_size: int) -> list[tuple[float, float, float, str]]:
        batches.clear()
        found = run_eagerly(
            tmp_path / "rows",
            lambda root: (
                root
                | beam.Create(list(enumerate(photos[:40])))
                | beam.MapTuple(lambda index, photo: TimestampedValue(photo, 2.5 * index))
                | beam.WindowInto(windows)
                | CaptionPhotos(tiny_bundle, shard_size=shard_size)
                | beam.ParDo(InWindow())
                # What is gathered is of all windows.
                | "Global" >> beam.WindowInto(beam.window.GlobalWindows())
            ),
        )
        return sorted(found)

    expected = [(25.0 * (index // 10), 25.0 * (index // 10) + 25, 2.5 * index) for index in range(40)]
    expected = [(*times, photo) for times, photo in zip(expected, photos[:40], strict=True)]
    assert rows_in(FixedWindows(25), 512) == expected
    assert batches == [10, 10, 10, 10]
    assert rows_in(FixedWindows(25), 4) == expected
    assert sorted(batches) == [2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4]
    doubled = rows_in(SlidingWindows(50, 25), 512)
    assert sorted({row[2:] for row in doubled}) == sorted(row[2:] for row in expected)
    assert len(doubled) == 80 and all(start <= time < end for start, end, time, _ in doubled)


def test_rows_can_be_grouped(photos, tmp_path, tiny_bundle):
    grouped = run_eagerly(
        tmp_path / "rows",
        lambda root: (
            root
            | beam.Create(photos)
            | CaptionPhotos(tiny_bundle)
            | beam.GroupBy("status").aggregate_field("photo", beam.combiners.CountCombineFn(), "photos")
        ),
    )
    assert {row.status: row.photos for row in grouped} == {"captioned": 40, "failed": 1}


@pytest.mark.parametrize("pickler", [pickle, cloudpickle, dill])
def test_it_pickles_without_its_model(pickler, photos, tmp_path, tiny_bundle):
    transform = CaptionPhotos(tiny_bundle, settings={"beam_width": 4})
    data = pickler.dumps(transform)
    assert len(data) < 2000
    restored = pickler.loads(data)
    assert restored == transform
    assert [row.status for row in captioned(tmp_path, photos[:2], restored)] == ["captioned"] * 2


def test_two_of_them_in_one_pipeline(photos, tmp_path, tiny_bundle):
    def build(root: beam.Pipeline) -> beam.PCollection:
        paths = root | beam.Create(photos[:4])
        wide = CaptionPhotos(tiny_bundle, settings={"beam_width": 4, "min_length": 5})
        both = [paths | "A" >> CaptionPhotos(tiny_bundle), paths | "B" >> wide, paths | "C" >> CaptionPhotos()]
        return both | beam.Flatten()

    rows = run_eagerly(tmp_path / "rows", build)
    models = collections.Counter((row.model, row.settings.partition(",")[0]) for row in rows)
    tiny, default = (bundle.describe(folder).fingerprint for folder in (tiny_bundle, bundle.DEFAULT))
    assert models == {(tiny, "beam_width=2"): 4, (tiny, "beam_width=4"): 4, (default, "beam_width=3"): 4}


def test_a_bundle_that_is_another_one_on_the_worker_ends_the_pipeline(photos, tmp_path, tiny_bundle):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    transform = CaptionPhotos(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "bundle")
    shutil.copytree(bundle.DEFAULT, tmp_path / "bundle")
    with pytest.raises(Exception, match="is not the one that the job was started with"):
        captioned(tmp_path, photos[:1], transform)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"bundle": "/no/bundle"}, "/no/bundle is not a model bundle: it has no bundle.json"),
        ({"bundle": 5}, "`bundle` must be a path or a URI, not 5 (int)"),
        ({"bundle": ""}, "`bundle` is empty; give a path or a URI"),
        ({"accelerator": 5}, "`accelerator` must be a text, not 5 (int)"),
        ({"settings": {"beam_wdth": 5}}, "there is no setting 'beam_wdth'; did you mean `beam_width`?"),
        ({"settings": 5}, "`settings` must be a mapping such as {'beam_width': 5}, not 5 (int)"),
        ({"alternatives": 3}, "`alternatives` 3: a beam width of 3 gives at most 2; raise `beam_width`"),
        ({"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        ({"max_pixels": None}, "`max_pixels` must be a whole number, not None (NoneType)"),
        ({"shard_size": 0}, "`shard_size` 0: must be at least 1"),
    ],
)
def test_wrong_arguments_are_found_when_it_is_made(arguments, complaint):
    with pytest.raises(InputError) as error:
        CaptionPhotos(**arguments)
    assert str(error.value) == complaint


def test_what_names_no_photo_is_an_error(tmp_path, tiny_bundle):
    # Where the types are known before the pipeline runs,
    with pytest.raises(TypeCheckError, match="expected Union"):
        captioned(tmp_path, [5], CaptionPhotos(tiny_bundle))
    with pytest.raises(TypeCheckError, match="CaptionRow"):
        run_eagerly(
            tmp_path / "rows",
            lambda root: root | beam.Create(["a"]) | CaptionPhotos(tiny_bundle) | beam.Map(len).with_input_types(str),
        )
    # and where they are not.
    with pytest.raises(TypeError, match=r"CaptionPhotos takes paths, and what .* gives, not int"):
        run_eagerly(
            tmp_path / "rows",
            lambda root: (
                root | beam.Create([5]) | beam.Map(lambda x: x).with_output_types(Any) | CaptionPhotos(tiny_bundle)
            ),
        )


def test_photos_are_counted(photos, tiny_bundle):
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | beam.Create([*photos, "none.jpg", photos[0]]) | CaptionPhotos(tiny_bundle)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("beamscribe"))["counters"]
    assert {counter.key.metric.name: counter.committed for counter in found} == {
        "captioned": 41,
        "failed": 2,
        "failed_not_an_image": 1,
        "failed_not_found": 1,
    }


def test_photos_in_buckets(photos, tmp_path, tiny_bundle, bucket):  # noqa: F811 - the fixture
    for photo in photos:
        stores.replace(f"{bucket}/photos/{os.path.basename(photo)}", Path(photo).read_bytes())
    refs = {ref.photo: ref for ref in listing.list_photos([f"{bucket}/photos"])}
    rows = captioned(tmp_path, [*refs, f"{bucket}/none.jpg"], CaptionPhotos(tiny_bundle, shard_size=50))
    local = captioned(tmp_path, photos, CaptionPhotos(tiny_bundle))
    assert rows[0].error == "not_found" and rows[0].etag == ""
    assert [row.caption for row in rows[1:]] == [row.caption for row in local]
    assert {row.photo: row.etag for row in rows[1:]} == {ref.photo: ref.etag for ref in refs.values()}


def test_three_sources_and_several_workers(tmp_path, tiny_bundle, make_photo):
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    own_pipeline.check(tmp_path, tiny_bundle, make_photo, "--runner=FnApiRunner", *workers)


CELLS = [
    """
    import json
    from pathlib import Path
    import apache_beam as beam
    from beamscribe.pipelines.caption_photos import CaptionPhotos
    from beamscribe.pipelines.captioner import load
    """,
    """
    def short(row):
        return json.dumps([row.photo, row.caption])

    def unquoted(path):
        return json.loads(path)

    with beam.Pipeline("FnApiRunner", options=beam.options.pipeline_options.PipelineOptions(OPTIONS)) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(map(json.dumps, PHOTOS)))
            | beam.Map(unquoted)
            | CaptionPhotos(BUNDLE, shard_size=8)
            | beam.Map(short)
            | beam.io.WriteToText("lines")
        )
    """,
    """
    print(json.dumps([caption.text for caption in load(BUNDLE).caption(map(Path, PHOTOS))]))
    """,
]


def test_a_notebook(photos, tmp_path, tiny_bundle):
    notebook = nbformat.v4.new_notebook()
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    given = f"BUNDLE, PHOTOS, OPTIONS = {str(tiny_bundle)!r}, {photos!r}, {options!r}"
    for cell in (given, *CELLS):
        notebook.cells.append(
            nbformat.v4.new_code_cell("\n".join(line.removeprefix("    ") for line in cell.splitlines()))
        )
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = [json.loads(line) for path in tmp_path.glob("lines-*") for line in path.read_text().splitlines()]
    expected = captioned(tmp_path, photos, CaptionPhotos(tiny_bundle))
    assert sorted(found) == [[row.photo, row.caption] for row in expected]
    (printed,) = [output for output in notebook.cells[-1].outputs if output.get("name") == "stdout"]
    assert dict(zip(photos, json.loads(printed["text"]), strict=True)) == {row.photo: row.caption for row in expected}


def test_an_element_names_a_photo_in_one_way(tmp_path):
    metadata = beam.io.filesystem.FileMetadata("/a/b.jpg", 5)
    for element in ("/a/b.jpg", Path("/a/b.jpg"), metadata, fileio.ReadableFile(metadata)):
        assert caption_photos.reference(element).photo == "/a/b.jpg"
    for element in (5, None, b"/a/b.jpg", ["/a/b.jpg"]):
        with pytest.raises(TypeError, match=type(element).__name__):
            caption_photos.reference(element)
