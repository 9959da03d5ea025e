"""What a prepared split of training data is: the names of its files, and what `dataset.json` says of them.

Imports neither TensorFlow nor Keras, since the job that prepares data needs them only on its workers.
"""

from typing import ClassVar, Literal, Self, TypeAlias

import pydantic

from beamscribe.model.documents import Document

DATASET = "dataset.json"
# A glob of the files of examples.
EXAMPLES = "examples-*.tfrecord.gz"
FEATURE_DTYPE = "<f2"  # little-endian float16

Store: TypeAlias = Literal["features", "images"]


def examples_file(index: int) -> str:
    """The name of a file of examples; in the order of their names, the files have the order of their numbers."""
    return EXAMPLES.replace("*", f"{index:05d}")


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, strict=True)


class StoredFeatures(_Part):
    """What the features of a split are.

    Attributes:
      shape: (height, width, channels) of one photo's.
      dtype: of the numbers: `FEATURE_DTYPE`.
      encoder: name of the encoder that made them.
      fingerprint: that of the encoder's weights and input size.
    """

    shape: tuple[int, int, int]
    dtype: str
    encoder: str
    fingerprint: str


class LeftOut(_Part):
    """A photo of the split that is not in the examples.

    Attributes:
      photo: name.
      error: code of the failure.
      message: what is wrong with the photo.
    """

    photo: str
    error: str
    message: str


class DatasetDescription(Document):
    """What `dataset.json` says. The file is written last: where it is, the dataset is whole.

    Attributes:
      photos: how many there are.
      captions: how many they have together.
      store: what is kept of each photo: the encoder's `features`, or its pixels (`images`).
      flip: whether the features of each photo's mirror image are there, too.
      image_size: height and width of the photos as the encoder takes them, pixels.
      features: what the features are; None where images are stored.
      failures: the photos that were left out.
    """

    REMEDY: ClassVar[str] = "prepare the dataset again"

    photos: int
    captions: int
    store: Store
    flip: bool
    image_size: int
    features: StoredFeatures | None
    failures: tuple[LeftOut, ...]

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.store == "features") != (self.features is not None):
            raise ValueError("features must be there where store is features, and nowhere else")
        return self
