import collections

import pytest

from beamscribe.model.words.vocabulary import END, PAD, SPECIALS, START, UNKNOWN, Vocabulary, tokenize

CAPTIONS = [["a", "dog", "runs"], ["a", "dog", "sits"], ["the", "dog", "runs"], ["a", "cat"]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A brown DOG runs .", ["a", "brown", "dog", "runs"]),
        ("A dog, a ball; and (a) sign!", ["a", "dog", "a", "ball", "and", "a", "sign"]),
        ('a " SALE " sign', ["a", "sale", "sign"]),
        ("a t-shirt and a 4x4", ["a", "t-shirt", "and", "a", "4x4"]),
        ("the dog 's ball , they 're gone", ["the", "dog", "'s", "ball", "they", "'re", "gone"]),
        ("the 'big' dog's ball", ["the", "big", "dog's", "ball"]),
        ("Un caf\u00e9\u2028d'\u00c9t\u00e9", ["un", "caf\u00e9", "d'\u00e9t\u00e9"]),
        (" . , -- ' \t\n", []),
        ("", []),
    ],
)
def test_tokenizes(text, tokens):
    assert tokenize(text) == tokens


def test_tokenizing_again_changes_nothing():
    tokens = tokenize("The dog 's red t-shirt , isn't it ?")
    assert tokenize(" ".join(tokens)) == tokens


def counts(captions):
    return collections.Counter(word for caption in captions for word in caption)


def test_keeps_words_seen_often_enough_the_most_frequent_first():
    assert Vocabulary.from_counts(counts(CAPTIONS), min_count=2).words == (*SPECIALS, "a", "dog", "runs")
    every = Vocabulary.from_counts(counts(CAPTIONS), min_count=1)
    # Equally frequent words are in the order of the alphabet, so that a vocabulary can be made again.
    assert every.written() == ("a", "dog", "runs", "cat", "sits", "the")
    assert len(every) == len(SPECIALS) + 6


def test_encodes_words_and_unknown_ones():
    vocabulary = Vocabulary.from_counts(counts(CAPTIONS), min_count=2)
    assert vocabulary.encode(["a", "zebra", "runs"]) == [4, UNKNOWN, 6]
    assert vocabulary.encode([]) == []


def test_decodes_up_to_the_end_without_specials():
    vocabulary = Vocabulary.from_counts(counts(CAPTIONS), min_count=2)
    assert vocabulary.decode([START, 4, UNKNOWN, 5, 6, END, 4, PAD]) == ["a", "dog", "runs"]
    assert vocabulary.decode([END, 4]) == []
    assert vocabulary.decode([4, 5]) == ["a", "dog"]


def test_decoding_undoes_encoding():
    vocabulary = Vocabulary.from_counts(counts(CAPTIONS), min_count=1)
    for caption in CAPTIONS:
        assert vocabulary.decode(vocabulary.encode(caption)) == caption


def test_saves_and_loads(tmp_path):
    path = tmp_path / "vocabulary.txt"
    vocabulary = Vocabulary.from_counts(counts([["d'\u00e9t\u00e9", "'s", "t-shirt"]]), min_count=1)
    vocabulary.save(path)
    assert path.read_bytes().count(b"\n") == len(vocabulary)
    assert Vocabulary.load(path).words == vocabulary.words


@pytest.mark.parametrize("separator", ["\x85", "\x1c", "\u2028", "\u2029", "\x0b", "\x0c"])
def test_every_word_that_tokenizing_gives_can_be_saved(tmp_path, separator):
    words = tokenize(f"a{separator}b")
    vocabulary = Vocabulary.from_counts(counts([words]), min_count=1)
    vocabulary.save(tmp_path / "vocabulary.txt")
    assert Vocabulary.load(tmp_path / "vocabulary.txt").words == vocabulary.words


@pytest.mark.parametrize("words", [[], ["a", "dog"], [*SPECIALS[:3], "a"], [*reversed(SPECIALS)]])
def test_refuses_words_without_the_specials(words):
    with pytest.raises(ValueError, match="<pad> <start> <end> <unk>"):
        Vocabulary(words)


def test_punctuation_of_other_scripts_is_stripped():
    assert tokenize("The “sale” — the dog’s ¡ball! 。") == ["the", "sale", "the", "dog's", "ball"]
    # Signs of vowels are parts of words.
    assert tokenize("कुत्ते दौड़ते") == ["कुत्ते", "दौड़ते"]
