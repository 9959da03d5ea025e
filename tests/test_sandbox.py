"""What image processes can't do once they have their codecs, and that they decode all the same."""

import functools
import io
import platform
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features

from beamscribe.pipelines.failures import ErrorCode, Failure, Stage
from beamscribe.pipelines.images import sandbox, to_pixels
from beamscribe.pipelines.images.pictures import Picture
from beamscribe.pipelines.images.preloading import LateImports
from beamscribe.pipelines.images.process_pool import ImagePool
from tests.test_process_pool import misbehave, said

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in sandbox._ARCHITECTURES, reason="the kernel has no such filters"
)


@pytest.fixture
def pool(monkeypatch, tmp_path):
    misbehave(monkeypatch, tmp_path)
    pool = ImagePool(workers=1)
    yield pool
    pool.close()


def tried(pool, statement):
    """The number of the error that a statement ends in, in an image process; None where it ends in none."""
    code = f"try:\n  {statement}\n  found = None\nexcept OSError as error:\n  found = error.errno"
    return said(pool, f"(found := {{}}, exec({code!r}, globals(), found))[0]['found']")


def called(pool, number, *arguments):
    """The number of the error of a system call, by its number, in an image process."""
    given = ", ".join(f"ctypes.c_long({argument})" for argument in arguments)
    call = f"ctypes.CDLL(None, use_errno=True).syscall({number}, {given})"
    return said(pool, f"[{call}, ctypes.get_errno()]")


@pytest.mark.parametrize(
    "statement",
    [
        "open('/etc/passwd')",
        "open('/tmp/beamscribe-written', 'w')",
        "open('/proc/self/mem', 'rb')",
        "os.listdir('/')",
        "os.stat('/etc/passwd')",
        "os.unlink('/tmp/beamscribe-nothing')",
        "os.mkdir('/tmp/beamscribe-made')",
        "os.rename('/tmp/beamscribe-a', '/tmp/beamscribe-b')",
        "os.chdir('/')",
        "os.memfd_create('a')",
        "os.dup(1)",
        "os.pipe()",
        "__import__('_socket').socket()",
        "__import__('_socket').socket(1, 1)",
        "__import__('_socket').socketpair()",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "__import__('_posixsubprocess') and os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)",
        "os.kill(1, 0)",
        "os.kill(-1, 0)",
        "os.kill(0, 0)",
        "os.setuid(0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        "os.sched_setaffinity(0, {0})",
    ],
)
def test_it_can_not(pool, statement):
    assert tried(pool, statement) == 1


# Of x86-64: openat, connect, ptrace, process_vm_readv, execveat, bpf, io_uring_setup, userfaultfd, open_by_handle_at,
# pidfd_open, pidfd_send_signal, mount, unshare, clone without CLONE_THREAD, mmap and mprotect of executable memory.
CALLS = [
    *(
        (257, -100, 0, 0),
        (42, 0, 0, 0),
        (101, 16, 1, 0, 0),
        (310, 1, 0, 0, 0, 0, 0),
        (322, 0, 0, 0, 0, 0),
        (321, 0, 0, 0),
    ),
    *((425, 1, 0), (323, 0), (304, 0, 0, 0), (434, 1, 0), (424, 0, 0, 0, 0), (165, 0, 0, 0, 0, 0), (272, 0)),
    *((56, 17, 0, 0, 0, 0), (9, 0, 4096, 7, 34, -1, 0), (10, 0, 4096, 5)),
]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are numbers of x86-64")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call[0]))
def test_it_can_not_call(pool, call):
    assert called(pool, *call) == [-1, 1]
    # Those of the x32 table.
    assert called(pool, call[0] | 0x40000000, *call[1:]) == [-1, 1]


def test_it_can_start_threads_and_say_nothing(pool, capfd):
    assert said(pool, "[t := __import__('threading').Thread(target=print, args=('said',)), t.start(), t.join()][1:]")
    assert said(pool, "[sys.stderr.write('said'), sys.stderr.flush(), os.write(1, b'said'), os.write(2, b'said')]")
    pool.close()
    assert capfd.readouterr() == ("", "")


def pictures():
    """Pictures of all formats and many modes, by names."""
    noise = np.random.default_rng(0)
    rgb = Image.fromarray(noise.integers(0, 256, (40, 50, 3), np.uint8))
    grey16 = Image.fromarray(noise.integers(0, 60_000, (40, 50)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    profile = pillow_profile()
    found = {
        "jpeg": saved(rgb, "JPEG", exif=exif, icc_profile=profile, comment=b"said"),
        "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "mpo": saved(rgb, "MPO", save_all=True, append_images=[rgb]),
        "png": saved(rgb, "PNG", exif=exif, icc_profile=profile, pnginfo=png_texts()),
        "png16": saved(grey16, "PNG"),
        "palette": saved(rgb.convert("P"), "PNG", transparency=3),
        "gif": saved(rgb, "GIF", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)]),
        "bmp": saved(rgb, "BMP"),
        "tiff": saved(rgb, "TIFF", compression="tiff_lzw", exif=exif),
        "tiff of JPEG": saved(rgb, "TIFF", compression="jpeg"),
        "float": saved(Image.fromarray(noise.random((40, 50), np.float32)), "TIFF"),
        "jpeg2000": saved(rgb, "JPEG2000"),
        "webp": saved(rgb, "WEBP", exif=exif),
        "cut short": saved(rgb, "JPEG")[:-400],
        "nothing": b"no photo",
        "empty": b"",
    }
    if features.check("avif"):
        found["avif"] = saved(rgb, "AVIF", exif=exif)
    pillow_heif.register_heif_opener()
    found["heic"] = saved(rgb, "HEIF", exif=exif)
    return found


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png_texts():
    from PIL import PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b", zip=True)
    texts.add_itxt("c", "d", lang="de", tkey="ü", zip=True)
    return texts


def test_it_decodes_all_formats_as_any_process_does(pool):
    before = set(said(pool, "sorted(sys.modules)"))
    for name, data in pictures().items():
        [there] = pool.convert([data], 16, 10**6)
        here = to_pixels.convert(data, 16, 10**6)
        assert there.failure == here.failure and there.width == here.width, (name, there.failure)
        assert (there.pixels is None) == (here.pixels is None)
        assert there.pixels is None or np.array_equal(there.pixels, here.pixels), name
    # All is there before the first photo comes.
    assert set(said(pool, "sorted(sys.modules)")) == before


def test_a_module_that_comes_too_late_is_a_fault_of_ours():
    late = LateImports()
    corrupt = Picture(None, failure=Failure(Stage.DECODE, ErrorCode.CORRUPT, "why"))
    assert late.explained(corrupt) is corrupt
    assert late.find_spec("PIL.NewPlugin") is None
    explained = late.explained(corrupt)
    assert explained.failure == Failure(
        Stage.DECODE, ErrorCode.INTERNAL_ERROR, "the module PIL.NewPlugin was not loaded before the first photo"
    )
    assert "test_sandbox" in explained.fault.traceback
    late.find_spec("PIL.NewPlugin")
    # A codec may do without.
    assert not late.explained(Picture("0")).fault and not late.explained(corrupt).fault


def test_other_processors_have_none(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not sandbox.enter()


@pytest.mark.parametrize("machine", sandbox._ARCHITECTURES)
def test_the_filter_returns_from_every_path(machine):
    """The filter, run as the kernel would run it, for both architectures."""
    column, number = sandbox._ARCHITECTURES[machine]
    decide = functools.partial(decided, sandbox._filter(column, number, 77), number)
    allow, refuse = 0x7FFF0000, 0x00050001
    for numbers in sandbox._ALLOWED.values():
        assert numbers[column] is None or decide(numbers[column]) == allow
    assert decide(sandbox._CLONE[column], 0x3D0F00) == allow and decide(sandbox._CLONE[column], 17) == refuse
    assert decide(sandbox._CLONE3[column]) == 0x00050000 | 38
    assert decide(sandbox._KILL[column], 77) == allow and decide(sandbox._KILL[column], 78) == refuse
    assert decide(sandbox._TGKILL[column], 77) == allow and decide(sandbox._TGKILL[column], 1) == refuse
    assert decide(sandbox._MMAP[column], 0, 1, 3) == allow and decide(sandbox._MMAP[column], 0, 1, 7) == refuse
    assert decide(sandbox._PRLIMIT[column], 0) == allow and decide(sandbox._PRLIMIT[column], 77) == refuse
    assert decided(sandbox._filter(column, number, 77), 0x40000003, 0) == 0x80000000
    assert decide(0 | 0x40000000) == refuse and decide(1000) == refuse


def decided(program, architecture, call, *arguments):
    """What the filter returns for a call."""
    words = {0: call, 4: architecture} | {16 + 8 * place: value for place, value in enumerate((*arguments, 0, 0, 0))}
    place, value = 0, 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = words[operand]
        elif code == 0x54:
            value &= operand
        else:
            place += if_true if (value == operand if code == 0x15 else value >= operand) else if_false
