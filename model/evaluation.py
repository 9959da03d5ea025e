"""Scores of captions against what people wrote: pycocoevalcap's figures, and how original the captions are.

Needs the `evaluate` extra and Java, so only training and evaluation on one's own machine use it.
"""

import importlib.util
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from beamscribe.model.errors import BeamscribeError, one_line
from beamscribe.model.words.vocabulary import tokenize

# METEOR writes its scores with the decimal sign of Java's language.
_JAVA = ("java", "-Duser.language=en")


class EvaluationError(BeamscribeError):
    """Captions can't be scored; the message is one line for the user."""


def evaluate(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    training_captions: Iterable[str] | None = None,
) -> dict[str, float | int | None]:
    """Scores one caption a photo against its reference captions, as the COCO caption challenge did.

    Args:
      captions: the caption to score of each photo. A photo of `references` that isn't there is scored as an
        empty caption, not left out; photos that aren't in `references` are ignored.
      references: the reference captions of each photo to score.
      training_captions: the captions that the model learned from, to count those that it repeats.

    Returns:
      `bleu_1` to `bleu_4`, `meteor`, `rouge_l` and `cider` (CIDEr-D; 0 for a single photo), times 100, over all
      photos; `photos`, how many those are; and, of the captions that have any words, split by
      `beamscribe.model.words.vocabulary.tokenize`:
        `copied_share`: share from 0 to 1 that equals a training caption word for word; None without
          `training_captions`.
        `distinct_captions`: how many differ.
        `vocabulary`: how many different words they use.
        `mean_length`: mean number of words; 0 where there are none.

    Raises:
      EvaluationError: pycocoevalcap or Java is missing, a photo has no reference caption, or a scorer failed.
    """
    require_tools()
    return {
        **_challenge_scores(captions, references),
        **originality([captions.get(photo, "") for photo in references], training_captions),
        "photos": len(references),
    }


def java_available() -> bool:
    """Whether `java` runs; where none is installed, macOS has a `java` that only says so."""
    try:
        return subprocess.run(["java", "-version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def require_tools() -> None:
    """Raises `EvaluationError` where pycocoevalcap or Java is missing, before any work is done in vain."""
    missing = []
    if importlib.util.find_spec("pycocoevalcap") is None:
        missing.append("pycocoevalcap (pip install 'beamscribe[evaluate]')")
    if not java_available():
        missing.append("a Java runtime, 8 or later, as java on the PATH (such as apt install default-jre-headless)")
    if missing:
        raise EvaluationError(f"scoring captions needs {' and '.join(missing)}")


def _challenge_scores(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """BLEU, METEOR, ROUGE-L and CIDEr-D, times 100."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if not references:
        raise EvaluationError("no photos to score: give the reference captions of at least one")
    owners = [photo for photo, written in references.items() for _ in written]
    texts = [text for written in references.values() for text in written]
    texts += [captions.get(photo, "") for photo in references]
    tokenized = _tokenize(texts)
    truth: dict[str, list[str]] = {photo: [] for photo in references}
    for photo, words in zip(owners, tokenized[: len(owners)], strict=True):
        if words:
            truth[photo].append(words)
    candidates = {photo: [words] for photo, words in zip(references, tokenized[len(owners) :], strict=True)}
    for photo, kept in truth.items():
        if not kept:
            raise EvaluationError(f"the photo {photo} has no reference caption: give it one, or leave the photo out")

    bleu, _ = Bleu(4).compute_score(truth, candidates, verbose=0)
    rouge, _ = Rouge().compute_score(truth, candidates)
    cider, _ = Cider().compute_score(truth, candidates)
    scores = {f"bleu_{order}": score for order, score in enumerate(bleu, start=1)}
    scores |= {"meteor": _meteor(truth, candidates), "rouge_l": rouge, "cider": cider}
    return {name: 100 * float(score) for name, score in scores.items()}


def originality(captions: Iterable[str], training_captions: Iterable[str] | None) -> dict[str, float | int | None]:
    """What `evaluate` tells of the captions that have any words, besides the scores; needs no Java."""
    written = [words for words in map(tuple, map(tokenize, captions)) if words]
    copied_share = None
    if training_captions is not None:
        learned = set(map(tuple, map(tokenize, training_captions)))
        copied_share = sum(words in learned for words in written) / max(len(written), 1)
    return {
        "copied_share": copied_share,
        "distinct_captions": len(set(written)),
        "vocabulary": len({word for words in written for word in words}),
        "mean_length": sum(map(len, written)) / max(len(written), 1),
    }


# pycocoevalcap's two Java programs are run without its own classes around them. Its tokenizer writes into the
# installed package, prints, and mixes up captions where one holds a line break other than `\n`; its METEOR
# fails where Java writes decimal commas, and once it has failed, hangs for good.


def _tokenize(texts: Sequence[str]) -> list[str]:
    """Penn Treebank tokens of each text in lower case, without punctuation, joined by spaces."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [*_JAVA, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    # The tokenizer takes a line for a text, and has more line breaks than `\n`.
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    process = subprocess.run(command, input=lines.encode("utf-8", "replace"), capture_output=True, check=False)
    tokenized = process.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if process.returncode or len(tokenized) != len(texts):
        raise EvaluationError(f"pycocoevalcap's tokenizer failed: {_reason(process.stderr)}")
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in ptbtokenizer.PUNCTUATIONS)
        for line in tokenized
    ]


def _meteor(truth: Mapping[str, Sequence[str]], candidates: Mapping[str, Sequence[str]]) -> float:
    """METEOR 1.5 of all photos together, 0 to 1 (Denkowski and Lavie 2014)."""
    from pycocoevalcap.meteor import meteor

    jar = Path(meteor.__file__).with_name(meteor.METEOR_JAR)
    # Most of the time goes into loading its tables, a quarter less with the plain garbage collector.
    java = [*_JAVA, "-Xmx2G", "-XX:+UseSerialGC"]
    command = [*java, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    # Errors go to a file, since a full pipe that nobody reads would stop the program.
    with tempfile.TemporaryFile() as errors:
        try:
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
            ) as process:
                try:
                    return _ask_meteor(process, truth, candidates)
                finally:
                    process.kill()
        except (OSError, ValueError):
            errors.seek(0)
            raise EvaluationError(f"pycocoevalcap's METEOR failed: {_reason(errors.read())}") from None


def _ask_meteor(
    process: subprocess.Popen[str], truth: Mapping[str, Sequence[str]], candidates: Mapping[str, Sequence[str]]
) -> float:
    """The dialogue with METEOR: a line of statistics for each photo, and then a score from all of them."""
    assert process.stdin and process.stdout
    statistics = []
    for photo, references in truth.items():
        print("SCORE", *references, *candidates[photo], sep=" ||| ", file=process.stdin, flush=True)
        statistics.append(process.stdout.readline().strip())
    print("EVAL", *statistics, sep=" ||| ", file=process.stdin, flush=True)
    # It answers with the score of each photo, and last that of all.
    answers = [process.stdout.readline() for _ in range(len(truth) + 1)]
    return float(answers[-1])


def _reason(errors: bytes) -> str:
    """What a Java program wrote about its failure, as one line without the stack."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines()]
    said = "; ".join(line for line in lines if line and not line.startswith("at "))
    return one_line(said) if said else "it gave no reason"
