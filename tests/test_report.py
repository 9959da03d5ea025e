import base64
import datetime
import html.parser
import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beamscribe.pipelines import sharding
from beamscribe.pipelines.failures import ErrorCode
from beamscribe.pipelines.output import frozen_plan, report, report_page
from beamscribe.pipelines.photos import CAPTIONED, FAILED, CaptionRow, PhotoRef, caption_table
from tests import made
from tests.made import RUN, STARTED

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; $run ${run}"


def row(photo, caption="a dog", error=None, message="why"):
    return CaptionRow(
        photo=photo,
        etag="1-2",
        sha256=None,
        width=4,
        height=3,
        status=FAILED if error else CAPTIONED,
        caption=None if error else caption,
        score=None if error else -0.5,
        alternatives=(),
        stage="read" if error else None,
        error=error,
        message=message if error else None,
        model="f1",
        settings="beam_width=3",
        written_at=STARTED,
    )


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


@pytest.fixture
def make_run(output):
    """Makes a run of shards of photos, of which some rows are committed."""

    def make(planned, committed, skipped=0):
        folder = output / "runs" / RUN
        folder.mkdir(parents=True)
        units = [
            frozen_plan.write_unit(str(folder), "", index, [PhotoRef(photo, "1-2") for photo in photos])
            for index, photos in enumerate(planned)
        ]
        count = sum(len(photos) for photos in planned)
        of_plan = {"listed": skipped + count, "skipped": skipped, "planned": count, "duplicates": 1, "outdated": 2}
        frozen = made.plan(**of_plan, ignored={".txt": 3}, shards=sharding.shards_of(units, 100))
        (folder / "plan.json").write_bytes(frozen.to_json())
        (folder / "config.json").write_bytes(made.config(output=str(output)).to_json())
        commit(committed)

    def commit(committed):
        folder = output / "captions" / f"run={RUN}"
        folder.mkdir(parents=True)
        for index, rows in committed.items():
            pq.write_table(caption_table(rows, retries=index + 2), folder / f"shard-{index:05d}.parquet")

    return make


def collect(output, seconds=10):
    return report.collect(str(output), RUN, STARTED + datetime.timedelta(seconds=seconds))


def written(output):
    """The names of what lies in the run's folder."""
    return {path.name for path in (output / "runs" / RUN).iterdir()}


class Page(html.parser.HTMLParser):
    """What a browser would show of a page, and the names of its elements."""

    def __init__(self, page):
        super().__init__()
        self.text = ""
        self.tags = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_counts_a_balanced_run(output, make_run):
    make_run(
        [["/photos/a.jpg", "/photos/b.jpg"], ["/photos/c.jpg", "/photos/d.jpg", "/photos/e.jpg"]],
        {
            0: [row("/photos/a.jpg"), row("/photos/b.jpg", error="truncated")],
            1: [row("/photos/c.jpg", error="empty"), row("/photos/d.jpg", error="truncated"), row("/photos/e.jpg")],
        },
        skipped=7,
    )
    result = collect(output)
    assert (result.listed, result.skipped, result.captioned, result.failed) == (12, 7, 2, 3)
    assert result.balanced
    assert result.missing == ()
    assert result.failures == {"truncated": 2, "empty": 1}
    assert [(example.error, example.photo) for example in result.examples] == [
        ("empty", "/photos/c.jpg"),
        ("truncated", "/photos/b.jpg"),
        ("truncated", "/photos/d.jpg"),
    ]
    assert [sample.photo for sample in result.samples] == ["/photos/a.jpg", "/photos/e.jpg"]
    assert (result.seconds, result.photos_per_second, result.retries) == (10, 0.5, 5)


def test_writes_json_page_and_success(output, make_run):
    make_run([["/photos/a.jpg"]], {0: [row("/photos/a.jpg")]})
    result = collect(output)
    report.write(result, str(output), success=True)
    assert {"report.json", "report.html", "_SUCCESS"} <= written(output)
    fields = json.loads((output / "runs" / RUN / "report.json").read_bytes())
    assert fields["samples"] == [{"photo": "/photos/a.jpg", "caption": "a dog", "score": -0.5, "bytes": None}]
    assert (fields["listed"], fields["balanced"]) == (1, True)
    assert datetime.datetime.fromisoformat(fields["started_at"]) == STARTED


@pytest.mark.parametrize(
    ("committed", "missing"),
    [({}, ("/photos/a.jpg", "/photos/b.jpg")), ({0: [row("/photos/a.jpg")]}, ("/photos/b.jpg",))],
)
def test_names_photos_without_a_row(output, make_run, committed, missing):
    make_run(
        [["/photos/a.jpg", "/photos/b.jpg"], ["/photos/c.jpg"]],
        {**committed, 1: [row("/photos/c.jpg", error="empty")]},
    )
    result = collect(output)
    assert not result.balanced
    assert result.missing == missing
    report.write(result, str(output), success=False)
    assert "_SUCCESS" not in written(output)
    page = Page((output / "runs" / RUN / "report.html").read_text())
    assert "do not add up" in page.text
    assert all(photo.removeprefix("/photos/") in page.text for photo in missing)


def test_sees_a_row_too_many_beside_one_too_few(output, make_run):
    make_run(
        [["/photos/a.jpg"], ["/photos/b.jpg"]],
        {0: [], 1: [row("/photos/b.jpg"), row("/photos/b.jpg")]},
    )
    result = collect(output)
    assert result.captioned == 2
    assert result.missing == ("/photos/a.jpg",)
    assert not result.balanced


def test_sees_a_shard_that_was_not_planned(output, make_run):
    make_run([["/photos/a.jpg"]], {0: [row("/photos/a.jpg")], 1: [row("/photos/b.jpg")]})
    result = collect(output)
    assert not result.balanced
    assert "1 more rows than photos" in report_page.render(result)


def test_names_no_more_than_some_missing_photos(output, make_run):
    make_run([[f"/photos/{number}.jpg" for number in range(50)]] * 3, {})
    assert len(collect(output).missing) == report.MAX_MISSING


def test_rare_errors_are_among_the_examples(output, make_run):
    photos = [f"/photos/{number:03d}.jpg" for number in range(100)]
    make_run([photos], {0: [row(photo, error="empty" if photo == photos[-1] else "timeout") for photo in photos]})
    result = collect(output)
    assert len(result.examples) == report.MAX_EXAMPLES
    assert result.examples[0].photo == photos[-1]


def test_samples_are_spread_and_stay_the_same(output, make_run):
    photos = [[f"/photos/{shard}/{number}.jpg" for number in range(100)] for shard in range(6)]
    make_run(photos, {index: [row(photo) for photo in shard] for index, shard in enumerate(photos)})
    samples = collect(output).samples
    assert len(samples) == report.MAX_SAMPLES
    assert len({sample.photo.split("/")[2] for sample in samples}) >= 3
    assert collect(output).samples == samples


def test_a_run_with_nothing_new(output, make_run):
    make_run([], {}, skipped=3)
    result = collect(output, seconds=0)
    assert result.balanced
    assert (result.photos_per_second, result.samples, result.failures) == (0, (), {})
    text = Page(report_page.render(result)).text
    assert "0 photos captioned" in text
    assert "Failures" not in text


def test_an_empty_archive(output, make_run):
    make_run([], {})
    assert "Every photo is accounted for" in report_page.render(collect(output))


def test_page_escapes_all_that_comes_from_outside(output, make_run):
    photos = [f"/photos/{HOSTILE}{number}.jpg" for number in range(3)]
    make_run(
        [photos[:2], photos[2:]],
        {0: [row(photos[0], caption=HOSTILE), row(photos[1], error="corrupt", message=HOSTILE)]},
    )
    page = Page(report_page.render(collect(output)))
    # As two captioned or failed photos, a missing one, a caption and a message.
    assert page.text.count(HOSTILE) == 5
    assert "script" not in page.tags


def test_page_needs_nothing_else(output, make_run):
    make_run([["/photos/a.jpg"]], {0: [row("/photos/a.jpg", error="empty")]})
    page = report_page.render(collect(output))
    assert not re.search(r"https?://|\bsrc=\"(?!data:)|@import|url\(", page)
    assert "prefers-color-scheme" in page


def test_page_explains_every_error_code(output, make_run):
    photos = {f"/photos/{code}.jpg": code.value for code in ErrorCode}
    make_run([list(photos)], {0: [row(photo, error=code) for photo, code in photos.items()]})
    text = Page(report_page.render(collect(output))).text
    assert all(code.sentence in text for code in ErrorCode)


def test_thumbnails_are_small_upright_and_in_proportion(tmp_path, output, make_run):
    pixels = np.zeros((300, 900, 3), np.uint8)
    pixels[:, :450] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right: what is left goes up
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif)
    gone = str(tmp_path / "gone.jpg")
    make_run([[gone, str(path)]], {0: [row(gone, "what is gone"), row(str(path))]})

    page = report_page.render(collect(output))
    assert "what is gone" in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
        assert thumbnail.size == (80, 240)
        red = np.asarray(thumbnail)[:, 40, 0]
    assert red[20] > 200
    assert red[220] < 50
