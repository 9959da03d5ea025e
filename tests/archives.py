"""Photos for tests of engines and stores: real ones, or crops of the samples."""

import os
import random
import shutil
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).parents[1] / "samples"


def make_archive(folder: Path, count: int) -> Path:
    """A folder of so many photos: copies of those in the folder BEAMSCRIBE_PHOTOS, or else crops of samples."""
    folder.mkdir(parents=True)
    real = os.environ.get("BEAMSCRIBE_PHOTOS")
    if real:
        photos = sorted(Path(real).iterdir())[:count]
        assert len(photos) == count, f"{real} holds fewer than {count} photos"
        for path in photos:
            shutil.copyfile(path, folder / path.name)
        return folder
    draw = random.Random(0)
    samples = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.jpg")) if path.stem != "broken"]
    for number in range(count):
        photo = samples[number % len(samples)]
        width, height = (int(side * draw.uniform(0.4, 0.9)) for side in photo.size)
        left, top = draw.randrange(photo.width - width), draw.randrange(photo.height - height)
        photo.crop((left, top, left + width, top + height)).resize((224, 224)).save(folder / f"{number:05d}.jpg")
    return folder
