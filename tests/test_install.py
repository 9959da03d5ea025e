"""`install.py` shows how far pip is, with a pip that the tests write."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "

# What a real pip prints, with a pause after each part.
PARTS = [
    """Looking in links: /opt/wheels
Collecting rich
  Using cached rich-15.0.0-py3-none-any.whl.metadata (18 kB)
Requirement already satisfied: six in ./lib (1.17.0)
Collecting charset_normalizer[fast]<4,>=2 (from requests)
  Downloading charset_normalizer-3.5.2-cp311-cp311-manylinux_2_28_x86_64.whl (269 kB)
""",
    """Using cached https://index/rich-15.0.0-py3-none-any.whl (310 kB)
Installing collected packages: charset_normalizer, rich
""",
    "INSTALL rich\n",
    """Successfully installed charset_normalizer-3.5.2 rich-15.0.0
""",
]


@pytest.fixture
def started(tmp_path):
    """Starts `install.py` with a pip that is a script, whose `PAUSE` lasts half a second; its lines come often."""
    packages = tmp_path / "packages"
    (packages / "old-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text(
        "# via rich\nrich==15.0.0\n    # via six\nsix==1.17.0 ; x\nrequests==2.0\n"
    )
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__init__.py").touch()
    script = (
        "import sys, sysconfig, install\n"
        f"sysconfig.get_path = lambda _: {str(packages)!r}\n"
        "install.LINE_SECONDS = install.TERMINAL_SECONDS = 0.2\n"
        "sys.exit(install.install(sys.argv[1:]))\n"
    )

    def start(pip, **options):
        prelude = f"import os, pathlib, sys, time\nPACKAGES = pathlib.Path({str(packages)!r})\n"
        (tmp_path / "fake" / "pip" / "__main__.py").write_text(prelude + pip)
        command = [sys.executable, "-c", script, "--constraint", str(tmp_path / "constraints.txt"), "--editable", "."]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'fake'}", "COLUMNS": "80"}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, **options)

    return start


WORKING = f"""
assert sys.argv[1:4] == ["install", "--disable-pip-version-check", "--progress-bar=off"], sys.argv
assert sys.argv[6:] == ["--editable", "."] and os.environ["PIP_NO_INPUT"] == "1"
for part in {PARTS!r}:
    if part.startswith("INSTALL"):
        (PACKAGES / "rich-15.0.0.dist-info").mkdir()
    else:
        print(part, end="")
    time.sleep(0.5)
(PACKAGES / "charset_normalizer-3.5.2.dist-info").mkdir()
"""


def test_lines_with_times_where_there_is_no_terminal(started):
    process = started(WORKING, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, lines = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")
    assert "\r" not in lines and all(re.match(TIME, line) for line in lines.splitlines())
    told = list(dict.fromkeys(re.sub(TIME, "", line) for line in lines.splitlines()))
    assert [text for text in told if "found 0" not in text] == [
        "setting up: found 3 and downloaded 1 of about 3 packages",
        "setting up: installed 0 of 2 packages",
        "setting up: installed 1 of 2 packages",
        "setting up: installed 2 of 2 packages",
    ]


def test_one_line_on_a_terminal(started):
    controller, screen = pty.openpty()
    process = started(
        WORKING + "print('WARNING: a warning of pip', file=sys.stderr)", stdout=subprocess.PIPE, stderr=screen
    )
    os.close(screen)
    written = b""
    try:
        while data := os.read(controller, 65536):
            written += data
    except OSError:
        # The other side is closed.
        pass
    assert process.wait(60) == 0
    assert process.stdout.read() == b""
    *_, warning, last, rest = written.decode().split("\r\n")
    assert warning.endswith("\r\x1b[KWARNING: a warning of pip") and "\n" not in warning
    assert last == "\r\x1b[Ksetting up: installed 2 of 2 packages" and rest == ""
    assert "\r\x1b[Ksetting up: found 3 and downloaded 1 of about 3 packages\r" in warning


@pytest.mark.parametrize(
    ("pip", "status", "said"),
    [
        ("print('ERROR: no such version', file=sys.stderr); sys.exit(3)", 3, "ERROR: no such version\nLAST"),
        ("[print(line) for line in range(99)]; sys.exit(2)", 2, "LAST" + "".join(f"{n}\n" for n in range(79, 99))),
        ("os.kill(os.getpid(), 15)", 143, "LAST"),
    ],
)
def test_where_pip_fails_its_words_and_its_status_count(started, pip, status, said):
    process = started(pip, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status and output == ""
    assert re.sub(f"{TIME}setting up: .*\n", "", errors) == said.replace("LAST", "the last lines of pip's output:\n")


def test_another_pip_only_changes_the_numbers(started, tmp_path):
    pip = "print('Fetching 5 things'); print(b'\\xff'.decode('latin-1')); os.write(1, b'\\xff\\n'); time.sleep(0.3)"
    (tmp_path / "constraints.txt").unlink()
    process = started(pip, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.fullmatch(f"({TIME}setting up: found 0 and downloaded 0 packages\n)+", lines)
