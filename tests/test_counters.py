"""Beam's counters and distributions, read from a pipeline that has ended; and that they load no Beam elsewhere."""

import subprocess
import sys

import apache_beam as beam
import pytest

from beamscribe.jobs.runners import beam_runner
from beamscribe.model.recipe import Encoder
from beamscribe.pipelines import batches, counters
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.caption_options import CaptionOptions
from beamscribe.pipelines.images.pictures import Picture
from beamscribe.pipelines.photos import PhotoRef
from beamscribe.pipelines.prepare_dataset import PrepareDataset, PrepareOptions
from beamscribe.pipelines.sources.photo_reader import Photo


def measured(result):
    """The counters of a finished pipeline, and its distributions as (count, sum, min, max)."""
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(counters.NAMESPACE))
    of_counters = {metric.key.metric.name: metric.committed for metric in found["counters"]}
    of_distributions = {
        metric.key.metric.name: (
            metric.committed.count,
            metric.committed.sum,
            metric.committed.min,
            metric.committed.max,
        )
        for metric in found["distributions"]
    }
    return of_counters, of_distributions


def run(transform, *options):
    """Runs a pipeline, on the direct runner unless options name another, and reads what it has measured."""
    pipeline = beam.Pipeline(options=beam_runner.pipeline_options(options))
    pipeline | transform
    result = pipeline.run()
    result.wait_until_finish()
    return measured(result)


def check_milliseconds(distribution, count):
    times, total, least, most = distribution
    assert times == count and 0 <= least <= most <= total < 600_000


def check_captioning(tmp_path, tiny_bundle, make_photo, *runner):
    """Captions photos, some of which can't be, on a runner, and checks what it says of them."""
    from beamscribe.model import bundle

    for index in range(20):
        make_photo(tmp_path / "photos" / f"{index}.jpg", width=50 + index)
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "text.jpg").write_bytes(b"Dear diary")
    (tmp_path / "photos" / "other.jpg").write_bytes(b"no photo")
    (tmp_path / "photos" / "link.jpg").symlink_to("nothing")
    model = bundle.describe(tiny_bundle)
    options = CaptionOptions(
        inputs=(str(tmp_path / "photos"),),
        output=str(tmp_path / "out"),
        run="run",
        bundle=str(tiny_bundle),
        model=model.fingerprint,
        settings=model.settings,
        shard_size=100,
        batch_size=8,
    )
    found, distributions = run(CaptionArchive(options), *runner)
    assert found == {"captioned": 20, "failed": 4, "failed_empty": 1, "failed_not_an_image": 2, "failed_not_found": 1}
    # The link has no bytes that could be read, or decoded.
    check_milliseconds(distributions["read_ms"], 23)
    check_milliseconds(distributions["decode_ms"], 23)
    count, total, _, most = distributions["batch_size"]
    assert total == 20 and most <= 8
    check_milliseconds(distributions["model_ms"], count)
    assert set(distributions) == {"read_ms", "decode_ms", "batch_size", "model_ms"}


def test_a_captioning_job_counts_photos_and_measures_them(tmp_path, tiny_bundle, make_photo):
    check_captioning(tmp_path, tiny_bundle, make_photo)


def test_preparing_counts_photos_too(tmp_path, make_photo):
    make_photo(tmp_path / "photos" / "1.jpg")
    (tmp_path / "photos" / "2.jpg").write_bytes(b"")
    names = ["1.jpg", "2.jpg"]
    captions = {name: ["a photo"] for name in names}
    encoder = Encoder(name="efficientnet_lite0", image_size=64)
    found, distributions = run(
        PrepareDataset(
            PrepareOptions(str(tmp_path / "photos"), captions, names, str(tmp_path / "out"), encoder, store="images")
        )
    )
    assert found == {"prepared": 1, "failed": 1, "failed_empty": 1}
    assert distributions["batch_size"] == (1, 1, 1, 1)


def test_outside_of_a_step_nothing_is_counted_and_nothing_fails():
    photo = Photo(PhotoRef("/a.jpg", ""), Picture("", pixels=[[[0, 0, 0]]], read_ms=1.5, decode_ms=2.5))
    counters.count_row("failed", "empty")
    assert list(batches.infer([photo], lambda images, photos: photos, 4)) == [(photo, "/a.jpg")]


@pytest.mark.parametrize("module", ["batches", "counters"])
def test_counting_loads_no_beam(module):
    script = (
        f"import sys\nfrom beamscribe.pipelines import counters, {module}\n"
        "counters.count_row('captioned', None)\ncounters.measure_call(1, 2.0)\ncounters.measure_photo(1.0, 2.0)\n"
        "assert 'apache_beam' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
