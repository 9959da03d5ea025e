"""In how many runs in a row a photo has failed: from the plan to the rows, and through a compaction."""

import beamscribe
from beamscribe.jobs import cli
from beamscribe.pipelines import caption_shard
from beamscribe.pipelines.photos import PhotoRef, Shard, photo_table, photos_of
from tests.test_compact import row


def test_rows_count_the_failures_in_a_row():
    refs = (PhotoRef("a", "1", attempts=2), PhotoRef("b", "1"), PhotoRef("c", "1", attempts=4))
    assert photos_of(photo_table(refs)) == refs
    rows = [row("a", error="timeout"), row("b", error="empty"), row("c")]
    found = caption_shard.numbered(Shard(0, refs), rows, 7)
    assert [(one.attempts, one.run_number) for one in found] == [(3, 7), (1, 7), (0, 7)]


def test_plans_of_earlier_versions_have_no_attempts():
    table = photo_table([PhotoRef("a", "1")]).drop_columns(["attempts"])
    assert photos_of(table) == (PhotoRef("a", "1"),)


def test_a_photo_that_is_gone_is_tried_less_and_less_often(tmp_path, tiny_bundle, make_photo, capsys):
    photos, output = tmp_path / "photos", tmp_path / "out"
    make_photo(photos / "a.jpg")
    (photos / "gone.jpg").symlink_to("nowhere")
    given = ["--input", str(photos), "--output", str(output), "--bundle", str(tiny_bundle)]
    tried = []
    for _ in range(5):
        assert cli.main(["caption", *given]) == 0
        tried.append("failed 1" in capsys.readouterr().out)
    assert tried == [True, True, False, True, False]
    assert cli.main(["compact", str(output)]) == 0
    (found,) = (record for record in beamscribe.read(output).to_pylist() if record["error"])
    assert (found["attempts"], found["run_number"]) == (3, 4)
    capsys.readouterr()
    assert cli.main(["plan", *given]) == 0
    said = "to skip: 1 failed several times for a reason that may have passed, to be tried again in a later run"
    assert said in capsys.readouterr().out
    assert cli.main(["caption", *given, "--recaption", "failed"]) == 0
    assert "failed 1" in capsys.readouterr().out
