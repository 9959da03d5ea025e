"""Writes `tests/data/efficientnet_lite_reference.npz`: one photo, and the features that the encoders must give it.

The features are this package's own, so they are written only where the package agrees with the full references:
`efficientnet_lite0_reference.npz` and `efficientnet_lite2_reference.npz`, each with four photos (`images`, uint8)
and what the original PyTorch model makes of them (`features`, `[photos, height, width, channels]`, float32). Those
photos may not be passed on, so the stored reference has one that may: `samples/astronaut.jpg`.

    python tests/make_encoder_reference.py FOLDER_OF_THE_FULL_REFERENCES
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from beamscribe.model import encoders
from beamscribe.model.encoders import efficientnet_lite
from beamscribe.model.recipe import Encoder

HERE = Path(__file__).resolve().parent
PHOTO = HERE.parent / "samples" / "astronaut.jpg"
REFERENCE = HERE / "data" / "efficientnet_lite_reference.npz"
IMAGE_SIZE = 224
TOLERANCE = 1e-4


def main(folder: Path) -> None:
    """Checks every variant against its full reference, and writes the small one."""
    with Image.open(PHOTO) as photo:
        image = np.asarray(photo.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    arrays = {"image": image}
    for name in efficientnet_lite.VARIANTS:
        encoder = encoders.build(Encoder(name=name, image_size=IMAGE_SIZE))
        with np.load(folder / f"{name}_reference.npz") as full:
            error = relative_error(np.asarray(encoder(full["images"])), full["features"])
        print(f"{name}: relative error {error:.1e}")
        if not error <= TOLERANCE:
            sys.exit(f"{name} is not the original: its features are off by more than {TOLERANCE}; nothing is written")
        arrays[name] = np.asarray(encoder(image[None]))[0]
    np.savez_compressed(REFERENCE, **arrays)
    print(f"{REFERENCE}: {REFERENCE.stat().st_size / 1000:.0f} kB")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
