"""How good a network's captions are while it is trained."""

from beamscribe.model.decoders.base import Decoder
from beamscribe.model.search import BeamSearch, Rules
from beamscribe.model.training.cider import CiderD
from beamscribe.model.training.dataset import Dataset
from beamscribe.model.words.vocabulary import Vocabulary

_BATCH_SIZE = 50


class Validation:
    """Captions the photos of the validation split by greedy search, and scores the captions.

    Attributes:
      search: the greedy search, which has the network's weights.
      photos: how many photos there are.

    Args:
      network: what is trained.
      data: the split, as the network takes it.
      judge: made over the captions of its photos, in their order.
      vocabulary: the network's.
      max_words: most words in a caption.
    """

    def __init__(self, network: Decoder, data: Dataset, judge: CiderD, vocabulary: Vocabulary, max_words: int):
        self.search = BeamSearch(network, beam_width=1, rules=Rules(max_words))
        self.photos = len(data.photos)
        self._data, self._judge, self._vocabulary = data, judge, vocabulary

    def measure(self) -> tuple[float, int]:
        """CIDEr-D × 100 of the captions that the network writes now, and how many of them are distinct."""
        ids, _ = self.search.predict(self._data.features(_BATCH_SIZE), verbose=0)
        captions = [tuple(self._vocabulary.decode(rows[0])) for rows in ids]
        return 100 * self._judge.mean(captions), len(set(captions))
