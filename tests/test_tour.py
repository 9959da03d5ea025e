"""The code of docs/tour.md runs as it stands, and says what the text says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tour(working_folder):
    shutil.copytree(ROOT / "samples", working_folder / "samples")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "tour.md").read_text(), re.MULTILINE | re.DOTALL)
    script = working_folder / "tour.py"
    # A line between the blocks tells what each has printed.
    script.write_text("print('--')\n".join(blocks))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("--\n")
    assert len(said) == len(blocks) == 7
    captioned, wrong, frame, sql, single, other, pipeline = said
    assert captioned == "12 captioned, 1 failed: {'truncated': 1}\n"
    assert "no/such/folder does not exist" in wrong and wrong.count("\n") == 1
    assert re.search(r"^ *astronaut.jpg +a man in a red shirt", frame, re.MULTILINE) and "truncated" in frame
    assert "dog" in sql
    assert re.match(r"a .+ \(Alternative\(caption=", single)
    assert "failed: not_an_image ()" in single
    assert 0 < len(other.split()) <= 8
    assert pipeline == ""
    (written,) = working_folder.glob("captions-*.jsonl")
    rows = {row["photo"]: row for row in map(json.loads, written.read_text().splitlines())}
    assert len(rows) == 12 and rows["samples/astronaut.jpg"]["caption"].startswith("a man in a red shirt")
