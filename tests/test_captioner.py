"""`load()`: captions photos in this process, without Beam."""

import concurrent.futures
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

from beamscribe.model import bundle
from beamscribe.model.errors import BeamscribeError, InputError
from beamscribe.pipelines.caption_archive import CaptionArchive
from beamscribe.pipelines.captioner import Caption, Captioner, load
from beamscribe.pipelines.failures import ErrorCode, Stage
from beamscribe.pipelines.images import process_pool, to_pixels
from beamscribe.pipelines.sources import photo_reader
from beamscribe.pipelines.stores import gcs
from beamscribe.pipelines.stores.base import NoCredentialsError
from tests.test_caption import options_for, rows_of
from tests.test_gcs import bucket  # noqa: F401 - a fixture
from tests.test_hostile import MISBEHAVING, bomb_png
from tests.test_to_pixels import encoded, quadrants

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tiny_bundle) -> Captioner:
    return load(tiny_bundle)


@pytest.fixture
def photos(tmp_path, make_photo) -> list[str]:
    return [str(make_photo(tmp_path / "photos" / f"{index:02d}.png", 40 + index)) for index in range(40)]


def failures_of(captions: list[Caption]) -> list[tuple[Stage, ErrorCode] | None]:
    return [caption.failure and (caption.failure.stage, caption.failure.error) for caption in captions]


def test_every_kind_of_photo_has_the_same_caption(model, photos):
    data = Path(photos[0]).read_bytes()
    with os.scandir(Path(photos[0]).parent) as entries:
        entry = next(entry for entry in entries if entry.name == "00.png")
    with Image.open(photos[0]) as image:
        given = [
            photos[0],
            Path(photos[0]),
            f"file://{photos[0]}",
            os.path.relpath(photos[0]),
            entry,
            data,
            bytearray(data),
            memoryview(data),
            # It may be no one piece of memory.
            memoryview(bytes(byte for pair in zip(data, data, strict=True) for byte in pair))[::2],
            image,
            Image.fromarray(np.asarray(image)),
        ]
        captions = model.caption(given, alternatives=1)
    assert captions[0].text and captions[0].score < 0 and len(captions[0].alternatives) == 1
    assert (captions[0].width, captions[0].height, captions[0].failure) == (40, 30, None)
    for caption in captions:
        assert (caption.text, caption.width, caption.height) == (captions[0].text, 40, 30)
        assert caption.score == pytest.approx(captions[0].score)


def test_captions_come_in_order_and_failures_are_values(model, photos, tmp_path):
    data = Path(photos[0]).read_bytes()
    (tmp_path / "text.jpg").write_text("not a photo")
    wrong = {
        str(tmp_path / "none.jpg"): (Stage.READ, ErrorCode.NOT_FOUND),
        str(tmp_path): (Stage.READ, ErrorCode.UNREADABLE),
        "a\0b.jpg": (Stage.READ, ErrorCode.UNREADABLE),
        tmp_path / "text.jpg": (Stage.DECODE, ErrorCode.NOT_AN_IMAGE),
        b"": (Stage.DECODE, ErrorCode.EMPTY),
        data[: len(data) // 2]: (Stage.DECODE, ErrorCode.TRUNCATED),
        bomb_png(60_000, 60_000): (Stage.DECODE, ErrorCode.TOO_LARGE),
    }
    given = [*wrong, *photos]
    mixed = [given[index * 29 % len(given)] for index in range(len(given))]
    assert len({*mixed}) == len(given) == 47
    captions = dict(zip(mixed, model.caption(mixed, batch_size=4), strict=True))
    assert failures_of([captions[photo] for photo in wrong]) == list(wrong.values())
    assert all(captions[photo].text is captions[photo].score is None for photo in wrong)
    assert failures_of([captions[photo] for photo in photos]) == [None] * 40
    assert [captions[photo].width for photo in photos] == list(range(40, 80))
    assert captions[bomb_png(60_000, 60_000)].width == 60_000


def test_fewer_pixels_can_be_asked_for(model, photos):
    with Image.open(photos[0]) as image:
        captions = model.caption([photos[0], Path(photos[0]).read_bytes(), image], max_pixels=1000)
    assert failures_of(captions) == [(Stage.DECODE, ErrorCode.TOO_LARGE)] * 3


@pytest.mark.parametrize(
    "settings", [None, {"beam_width": 4, "min_length": 5}, {"top_p": 0.95, "temperature": 2, "seed": 3}]
)
def test_captions_of_paths_are_those_of_a_job(model, photos, tmp_path, tiny_bundle, settings):
    captions = model.caption(photos, settings=settings, alternatives=1)
    options = options_for(Path(photos[0]).parent, tmp_path / "out", tiny_bundle)
    changed = options.settings._replace(**settings or {})
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | CaptionArchive(dataclasses.replace(options, settings=changed, alternatives=1))
    rows = {row["photo"]: row for row in rows_of(tmp_path / "out")}
    assert [caption.text for caption in captions] == [rows[photo]["caption"] for photo in photos]
    assert [caption.alternatives[0].caption for caption in captions] == [
        rows[photo]["alternatives"][0]["caption"] for photo in photos
    ]
    assert [caption.score for caption in captions] == pytest.approx([rows[photo]["score"] for photo in photos])


def test_drawn_captions_depend_on_path_or_content_and_seed(model, photos):
    drawing = {"top_p": 0.95, "temperature": 2}

    def drawn(given: list, **more) -> list[str]:
        return [caption.text for caption in model.caption(given, settings={**drawing, **more}, batch_size=16)]

    data = [Path(photo).read_bytes() for photo in photos]
    images = [Image.open(io.BytesIO(found)) for found in data]
    for given in (photos, data, images):
        texts = drawn(given)
        assert len({*texts}) > 30
        assert drawn(given[::-1]) == texts[::-1]
        others = drawn(given, seed=1)
        assert sum(text == other for text, other in zip(texts, others, strict=True)) < 10
    # Relative paths are the same photos.
    assert drawn([os.path.relpath(photo) for photo in photos]) == drawn(photos)


def test_nothing_is_captioned_without_photos(model):
    assert model.caption([]) == []
    assert list(model.captions(iter(()))) == []


def test_photos_are_taken_as_they_are_needed(model, photos, monkeypatch):
    monkeypatch.setattr(photo_reader, "CHUNK_PHOTOS", 2)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % len(photos)]

    captions = model.captions(endless(), batch_size=4)
    ahead = 2 * (process_pool.shared().workers + 4) + 4
    for done in range(1, 100):
        assert next(captions).text
        assert done <= taken <= done + ahead
    captions.close()
    before = taken
    # What was in hand is let go.
    assert model.caption(photos[:1])[0].text and taken == before


def test_an_error_of_the_callers_iterator_is_the_callers(model, photos):
    def broken():
        yield photos[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.caption(broken())


@pytest.mark.parametrize("one", ["a.jpg", Path("a.jpg"), b"data", bytearray(b"data"), Image.new("RGB", (9, 9))])
def test_one_photo_is_not_several(model, one):
    with pytest.raises(InputError) as error:
        model.captions(one)
    assert str(error.value) == "`photos` must be a list or another iterable of photos; for one photo, give [photo]"


class BrokenPath(os.PathLike):
    def __fspath__(self):
        return 5


def test_mistakes_of_the_caller_are_errors(model, photos, tmp_path):
    complaints = {
        5: "`photos` must be a list or another iterable of photos, not int",
        None: "`photos` must be a list or another iterable of photos, not NoneType",
    }
    for wrong, complaint in complaints.items():
        with pytest.raises(InputError) as error:
            model.captions(wrong)
        assert str(error.value) == complaint
    for wrong in (5, None, ["a.jpg"], np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(InputError, match=f"^`photos`: item 1 is of the type {type(wrong).__name__}; give paths,"):
            model.caption([photos[0], wrong])
    released = memoryview(b"no photo")
    released.release()
    for wrong, complaint in ((released, "is a memoryview that was released"), (BrokenPath(), "is no path: ")):
        with pytest.raises(InputError, match=f"^`photos`: item 1 {complaint}"):
            model.caption([photos[0], wrong])
    # They are found before any photo is taken.
    for options in ({"settings": {"beam_wdth": 2}}, {"alternatives": 2}, {"batch_size": 0}, {"max_pixels": 1.5}):
        with pytest.raises(InputError):
            model.captions(photos, **options)
    for wrong, complaint in (
        (tmp_path, "is not a model bundle: it has no bundle.json"),
        (5, "must be a path"),
        ("", "is empty"),
    ):
        with pytest.raises(InputError, match=complaint):
            load(wrong)
    with pytest.raises(TypeError, match=r"can't be pickled; .* beamscribe\.CaptionPhotos"):
        pickle.dumps(model)


def test_a_path_that_no_file_can_have_is_a_failure(model, photos):
    captions = model.caption([photos[0], "a\0b.jpg", ""])
    assert [caption.failure and caption.failure.stage for caption in captions] == [None, "read", "read"]


def test_it_says_what_it_is(model, tiny_bundle):
    description = bundle.describe(tiny_bundle)
    assert (model.name, model.fingerprint) == ("tiny", description.fingerprint)
    assert (model.settings, model.image_size) == (description.settings, 64)
    assert repr(model) == f"<Captioner tiny {description.fingerprint}, {tiny_bundle}>"


def test_a_damaged_bundle_is_refused(tiny_bundle, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "bundle.json").write_bytes((tiny_bundle / "bundle.json").read_bytes())
    with pytest.raises(BeamscribeError, match="is damaged"):
        load(damaged)


def test_several_threads_get_the_same_captions(model, photos):
    images = [Image.open(photo) for photo in photos[:8]]
    given = [*photos, *(Path(photo).read_bytes() for photo in photos[:8]), *images]
    expected = [caption.text for caption in model.caption([*photos, *photos[:8], *photos[:8]])]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: [caption.text for caption in model.caption(given)], range(8)))
    assert found == [expected] * 8


def test_two_models_side_by_side(model, photos):
    default = load()
    assert default.image_size != model.image_size
    assert "the bundle in the package" in repr(default)
    alone = [model.caption(photos), default.caption(photos[:8])]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        together = [threads.submit(model.caption, photos), threads.submit(default.caption, photos[:8])]
        assert [[c.text for c in found.result()] for found in together] == [[c.text for c in found] for found in alone]


IN_MODES = {
    "1": "PNG",
    "L": "PNG",
    "P": "PNG",
    "RGB": "PNG",
    "RGBA": "PNG",
    "LA": "PNG",
    "PA": None,
    "RGBX": None,
    "RGBa": None,
    "La": None,
    "CMYK": "TIFF",
    "YCbCr": None,
    "LAB": "TIFF",
    "HSV": None,
    "I": "TIFF",
    "F": "TIFF",
    "I;16": "PNG",
    "I;16B": "TIFF",
}


def in_mode(mode: str) -> Image.Image:
    plain = quadrants()
    if mode == "LAB":
        return Image.frombytes("LAB", plain.size, plain.tobytes())
    if mode == "F":
        return Image.fromarray(np.asarray(plain.convert("L")) / np.float32(255))
    if mode.startswith("I;16"):
        grey = np.asarray(plain.convert("L")).astype(">u2" if mode.endswith("B") else "<u2") * 257
        return Image.frombytes(mode, plain.size, grey.tobytes())
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        plain = plain.convert("RGBA")
        plain.putalpha(Image.linear_gradient("L").resize(plain.size))
        plain = plain.convert("LA") if mode == "La" else plain
    return plain.convert(mode)


def state_of(image: Image.Image) -> tuple:
    return image.mode, image.size, image.format, image.tobytes(), dict(image.info)


@pytest.mark.parametrize("mode", IN_MODES)
def test_images_of_all_modes_are_as_their_files(mode):
    image = in_mode(mode)
    before = state_of(image)
    picture = to_pixels.convert_image(image, 32)
    assert picture.failure is None and (picture.width, picture.height) == (60, 40)
    assert state_of(image) == before
    if kind := IN_MODES[mode]:
        expected = to_pixels.convert(encoded(image, kind), 32)
    else:
        plain = image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
        expected = to_pixels.convert(encoded(plain, "PNG"), 32)
    np.testing.assert_allclose(picture.pixels.astype(int), expected.pixels, atol=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_as_their_files(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quadrants(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = Image.open(io.BytesIO(data))
    picture, expected = to_pixels.convert_image(image, 32), to_pixels.convert(data, 32)
    np.testing.assert_array_equal(picture.pixels, expected.pixels)
    assert (picture.width, picture.height) == (expected.width, expected.height)
    # Turned by its owner, it needs no turning.
    if kind != "TIFF":
        assert image.getexif()[0x0112] == orientation
    turned = to_pixels.convert_image(ImageOps.exif_transpose(image), 32)
    np.testing.assert_allclose(turned.pixels.astype(int), expected.pixels, atol=4)


def test_an_image_that_does_not_load_is_a_failure(model, photos):
    cut = Image.open(io.BytesIO(encoded(Image.open(photos[0]).convert("RGB").resize((400, 400)))[:5000]))
    closed = Image.open(photos[0])
    closed.close()
    empty = Image.new("RGB", (0, 5))
    captions = model.caption([cut, closed, empty, photos[0]])
    assert failures_of(captions) == [
        (Stage.DECODE, ErrorCode.TRUNCATED),
        (Stage.DECODE, ErrorCode.CORRUPT),
        (Stage.DECODE, ErrorCode.TOO_SMALL),
        None,
    ]
    assert "0 bytes" not in captions[0].failure.message


def test_an_image_may_be_given_several_times_before_it_is_loaded(model, tmp_path, make_photo):
    path = make_photo(tmp_path / "large.jpg", 1200, 900)
    expected = model.caption([str(path)])[0].text
    with Image.open(path) as image:
        assert [caption.text for caption in model.caption([image] * 40)] == [expected] * 40


def test_a_fault_of_ours_is_logged_and_costs_its_photo_alone(model, photos, monkeypatch, caplog):
    real = to_pixels._resize

    def faulty(image, size):
        if image.size == (41, 30):
            raise TypeError("ours")
        return real(image, size)

    monkeypatch.setattr(to_pixels, "_resize", faulty)
    monkeypatch.setitem(faulty.__globals__, "__package__", "beamscribe.pipelines.images")
    captions = model.caption([Image.open(photo) for photo in photos[:3]])
    assert failures_of(captions) == [None, (Stage.DECODE, ErrorCode.INTERNAL_ERROR), None]
    assert "TypeError: ours" in caplog.text and "Traceback" in caplog.text


def test_photos_in_buckets_are_read(model, photos, bucket):  # noqa: F811 - the fixture
    from beamscribe.pipelines import stores

    for index, photo in enumerate(photos[:10]):
        stores.replace(f"{bucket}/photos/{index}.png", Path(photo).read_bytes())
    captions = model.caption([*(f"{bucket}/photos/{index}.png" for index in range(10)), f"{bucket}/none.jpg"])
    assert [caption.text for caption in captions[:10]] == [caption.text for caption in model.caption(photos[:10])]
    assert failures_of(captions[10:]) == [(Stage.READ, ErrorCode.NOT_FOUND)]


def test_missing_credentials_are_an_error(model, monkeypatch):
    def client():
        raise NoCredentialsError("there are no credentials; run it")

    monkeypatch.setattr(gcs, "_client", client)
    with pytest.raises(BeamscribeError, match=r"^there are no credentials; run it$"):
        model.caption(["gs://archive/a.jpg"])


def test_a_forked_process_is_told_that_it_can_not_use_the_model(model, photos, tmp_path):
    child = os.fork()
    if not child:
        for use in (lambda: model.caption(photos[:1]), load):
            try:
                use()
            except BeamscribeError as error:
                with open(tmp_path / "said.txt", "a") as file:
                    print(error, file=file)
        os._exit(0)
    os.waitpid(child, 0)
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert len(said) == 2
    assert all("was forked after a model was loaded" in line and "spawn" in line for line in said)


# Without `if __name__ == "__main__"`.
PROGRAM = """
import json, os, sys
import psutil
from PIL import Image
from beamscribe.pipelines.captioner import load

before = Image.MAX_IMAGE_PIXELS, sorted(Image.OPEN)
model = load(sys.argv[1])
good, abort = open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()
with Image.open(sys.argv[2]) as image:
    captions = model.caption([sys.argv[2], good, good + b"abort", abort, good + b"hang", image])
# The process that hung was ended; this one is there at the end.
assert model.caption([good])[0].failure is None
found = {
    "errors": [caption.failure and caption.failure.error for caption in captions],
    "beam": "apache_beam" in sys.modules,
    "cloud": "google.cloud.storage" in sys.modules,
    "pillow": before == (Image.MAX_IMAGE_PIXELS, sorted(Image.OPEN)),
    "children": [child.pid for child in psutil.Process().children(recursive=True)],
}
open(sys.argv[4], "w").write(json.dumps(found))
"""


def test_a_process_of_ones_own(tmp_path, tiny_bundle, photos):
    """It loads no Beam, prints nothing, survives hostile bytes and leaves nothing running."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        f"import sys\nif 'program.py' not in ' '.join(sys.orig_argv):\n{indented(MISBEHAVING)}"
        "else:\n    from beamscribe.pipelines.images import process_pool\n"
        "    make = process_pool.ImagePool.__init__\n"
        "    make.__defaults__ = (60.0, 3.0, *make.__defaults__[2:])\n"
    )
    data = Path(photos[1]).read_bytes()
    (tmp_path / "abort.png").write_bytes(data + b"abort")
    arguments = [tmp_path / "program.py", tiny_bundle, photos[0], tmp_path / "abort.png", tmp_path / "found.json"]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["errors"] == [None, None, "decoder_crash", "decoder_crash", "timeout", None]
    assert (found["beam"], found["cloud"], found["pillow"]) == (False, False, True)
    assert found["children"]
    wait_until(lambda: not any(map(psutil.pid_exists, found["children"])), 10.0)


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_module_loads_neither_beam_nor_tensorflow():
    code = "import sys, beamscribe.pipelines.captioner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"apache_beam", "tensorflow", "keras", "google.cloud.storage"} & {*done.stdout.split()}
