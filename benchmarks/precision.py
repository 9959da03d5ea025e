"""What an encoder in half precision, as on GPUs, does to a bundle's captions: their scores, and how many are the same.

    python -m benchmarks.precision --flickr8k flickr8k

Runs on a CPU, which computes in float16 too, though slowly: what it prints are captions, not speeds.
"""

import argparse
from pathlib import Path

from benchmarks.models_table import BATCH_SIZE, decoded

PRECISIONS = {"float32": "features", "float16": "features_half"}


def main() -> None:
    """Captions the validation split twice, and prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flickr8k", type=Path, required=True, help="folder with images/, captions.txt and the splits")
    parser.add_argument("--bundle", type=Path, help="the one in the package by default")
    options = parser.parse_args()
    import tensorflow as tf

    from beamscribe.model import annotations, bundle, evaluation
    from beamscribe.model.captioners.exported_model import CaptionModel

    folder = options.bundle or bundle.DEFAULT
    split, captions = options.flickr8k / "Flickr_8k.devImages.txt", options.flickr8k / "captions.txt"
    references = annotations.captions_of_split(str(split), str(captions))
    model, settings = CaptionModel(folder), bundle.describe(folder).settings
    photos = decoded([options.flickr8k / "images" / photo for photo in references], model.image_size)
    loaded = tf.saved_model.load(str(folder / bundle.SAVED_MODEL))
    written: dict[str, list[str]] = {}
    for precision, signature in PRECISIONS.items():
        written[precision] = []
        for start in range(0, len(photos), BATCH_SIZE):
            images = tf.constant(photos[start : start + BATCH_SIZE])
            features = loaded.signatures[signature](images=images)["features"].numpy()
            written[precision] += model.caption_features(features, settings)[0][:, 0].tolist()
        scores = evaluation.evaluate(dict(zip(references, written[precision], strict=True)), references)
        print(f"{precision}: CIDEr {scores['cider']:.2f}, BLEU-4 {scores['bleu_4']:.2f}", flush=True)
    same = sum(one == other for one, other in zip(*written.values(), strict=True))
    print(f"the same captions: {same} of {len(photos)}")


if __name__ == "__main__":
    main()
