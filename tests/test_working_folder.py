"""Jobs whose working folder holds modules of the user's own, named like Python's and like Beamscribe's folders."""

import json
import sys
from pathlib import Path

import pytest

from tests import packages, users_folder
from tests.test_hostile import rows_of

COMMAND = Path(sys.executable).with_name("beamscribe")


@pytest.mark.parametrize("options", [[], ["--direct_num_workers", "2", "--direct_running_mode", "multi_processing"]])
def test_no_module_of_the_user_is_imported(tmp_path, tiny_bundle, make_photo, options):
    for index in range(20):
        make_photo(tmp_path / "photos" / f"{index}.jpg")
    folder = users_folder.make(tmp_path / "folder")
    job = ["caption", "--input", "../photos", "--output", "../out", "--bundle", str(tiny_bundle), "--shard-size", "8"]
    done = packages.start(COMMAND, *job, *options, folder=folder)
    assert users_folder.imported(folder) == ""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 20 and not any(row["error"] for row in rows.values())


def test_image_processes_search_the_current_folder_last_in_any_program(tmp_path, make_photo):
    folder = users_folder.make(tmp_path / "folder")
    photo = make_photo(tmp_path / "photo.jpg")
    # As in a notebook, where the current folder comes first; what the program itself needs is imported before.
    script = (
        "import sys; sys.path.pop(0)\n"
        "import json, os, psutil\n"
        "from beamscribe.pipelines.images import process_pool\n"
        "sys.path.insert(0, '')\n"
        "before = sys.path.copy(), dict(os.environ)\n"
        "pool = process_pool.ImagePool(1)\n"
        f"[picture] = pool.convert([open({str(photo)!r}, 'rb').read()], 16, 10**6)\n"
        "assert picture.failure is None, picture.failure\n"
        "found = json.loads(psutil.Process(*pool.processes).cmdline()[4])\n"
        "pool.close()\n"
        "assert (sys.path, dict(os.environ)) == before\n"
        "print(json.dumps(found))\n"
    )
    done = packages.start(sys.executable, "-c", script, folder=folder)
    assert users_folder.imported(folder) == ""
    assert done.returncode == 0, done.stderr
    searched = json.loads(done.stdout)
    assert searched[-1] == str(folder) and str(folder) not in searched[:-1]
