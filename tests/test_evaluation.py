import math
import subprocess
import sys

import pytest

from beamscribe.model import evaluation
from beamscribe.model.evaluation import EvaluationError, evaluate, java_available

needs_java = pytest.mark.skipif(not java_available(), reason="the scorers need a Java runtime on the PATH")

REFERENCES = {
    "dog.jpg": ["A brown dog runs on the grass .", "The dog is running , fast .", "A dog chases a red ball ."],
    "girl.jpg": ["A girl in a pink dress climbs the stairs .", "A little girl goes up to her playhouse ."],
    "surf.jpg": ["A surfer rides a big wave .", "A man on a surfboard in the ocean ."],
}
FIRSTS = {photo: captions[0] for photo, captions in REFERENCES.items()}
KEYS = {
    *("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"),
    *("copied_share", "distinct_captions", "vocabulary", "mean_length", "photos"),
}


@pytest.fixture
def processes(monkeypatch):
    """Every process that was started."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


@pytest.fixture
def no_meteor(monkeypatch):
    """Leaves METEOR out, which takes seconds to start."""
    monkeypatch.setattr(evaluation, "_meteor", lambda *_: 0.0)


@needs_java
def test_scores_own_references_in_full_and_cleans_up(monkeypatch, capfd, processes):
    # Java would announce these options, and write its figures with decimal commas.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de")
    scores = evaluate(FIRSTS, REFERENCES)
    assert scores.keys() == KEYS
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l"):
        assert scores[name] == pytest.approx(100, abs=1e-4)
    assert scores["cider"] > 300
    assert scores["copied_share"] is None
    assert scores["photos"] == 3
    assert capfd.readouterr() == ("", "")
    assert [process.poll() is None for process in processes] == [False] * 3


@needs_java
def test_meteor_of_missing_and_unrelated_captions():
    # Two photos of five are right: nothing else may be taken for their captions, nor they for another's.
    references = {"first.jpg": ["A house ."], **REFERENCES, "last.jpg": ["A tree ."]}
    captions = {
        "dog.jpg": FIRSTS["dog.jpg"],
        "girl.jpg": "quantum caf\u00e9 \U0001f600",
        "surf.jpg": FIRSTS["surf.jpg"],
    }
    assert 40 < evaluate(captions, references)["meteor"] < 80


@needs_java
def test_unrelated_captions_score_next_to_nothing(no_meteor):
    scores = evaluate(dict.fromkeys(REFERENCES, "quantum ledger"), REFERENCES)
    assert max(scores[name] for name in ("bleu_1", "bleu_4", "rouge_l", "cider")) < 1
    assert scores["distinct_captions"] == 1


@needs_java
def test_scores_nothing_but_missing_captions():
    assert evaluate({}, REFERENCES, ["A dog"]) == pytest.approx(dict.fromkeys(KEYS, 0) | {"photos": 3})


@needs_java
@pytest.mark.parametrize("absent", ["dog.jpg", "girl.jpg", "surf.jpg"])
def test_a_missing_caption_costs_its_own_photo_only(no_meteor, absent):
    captions = {photo: caption for photo, caption in FIRSTS.items() if photo != absent}
    # Line breaks of all kinds are spaces, and photos without references don't count.
    broken = {photo: caption.replace(" ", "\r").replace("\r.", "\u2028.") for photo, caption in captions.items()}
    scores = evaluate({**broken, "other.jpg": "A zebra"}, REFERENCES)
    assert scores["rouge_l"] == pytest.approx(100 * 2 / 3)
    # Every word is right, so only BLEU's brevity penalty is left: the shortest reference of the absent photo.
    written = sum(len(caption.split()) - 1 for caption in captions.values())
    shortest = {"dog.jpg": 5, "girl.jpg": 8, "surf.jpg": 6}[absent]
    assert scores["bleu_4"] == pytest.approx(100 * math.exp(-shortest / written), abs=1e-3)
    assert scores["photos"] == 3
    assert scores["distinct_captions"] == 2
    assert scores["mean_length"] == written / 2


@needs_java
def test_tells_how_original_the_captions_are(no_meteor):
    captions = {"dog.jpg": "a dog runs", "girl.jpg": "A dog runs .", "surf.jpg": "a man surfs a wave"}
    references = REFERENCES | {"none.jpg": ["A house ."], "blank.jpg": ["A tree ."]}
    scores = evaluate(captions | {"blank.jpg": " . "}, references, iter(["A DOG runs!", "a man surfs", ""]))
    assert scores["copied_share"] == pytest.approx(2 / 3)
    assert scores["distinct_captions"] == 2
    assert scores["vocabulary"] == 6
    assert scores["mean_length"] == pytest.approx(11 / 3)
    assert scores["photos"] == 5


@needs_java
@pytest.mark.parametrize(
    ("jar", "message"),
    [("tokenizer.ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR", "tokenizer failed"), ("meteor.meteor.METEOR_JAR", "METEOR")],
)
def test_says_when_a_scorer_fails(monkeypatch, capfd, processes, jar, message):
    monkeypatch.setattr(f"pycocoevalcap.{jar}", "absent.jar")
    with pytest.raises(EvaluationError, match=message) as error:
        evaluate(FIRSTS, REFERENCES)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert all(process.poll() is not None for process in processes)


@needs_java
def test_refuses_photos_without_references():
    with pytest.raises(EvaluationError, match=r"girl\.jpg has no reference"):
        evaluate(FIRSTS, REFERENCES | {"girl.jpg": [" ... "]})
    with pytest.raises(EvaluationError, match="no photos"):
        evaluate(FIRSTS, {})


def test_says_that_java_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not java_available()
    with pytest.raises(EvaluationError, match=r"^scoring captions needs a Java runtime, 8 or later.*PATH.*$") as error:
        evaluate({}, {})
    assert "\n" not in str(error.value)


def test_a_java_that_does_not_run_is_none(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not java_available()


def test_says_that_the_extra_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(EvaluationError, match=r"pip install 'beamscribe\[evaluate\]'\) and a Java runtime"):
        evaluate({}, {})
