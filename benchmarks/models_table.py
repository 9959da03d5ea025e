"""Trains every recipe on Flickr8k, measures it on the validation split, and writes the table of docs/models.md.

An interrupted run goes on where it was: what is prepared, trained or measured already is not done again. Delete
WORK/NAME and WORK/NAME.json to train and measure one recipe anew. Encoders other than EfficientNet-Lite are replaced
by a frozen EfficientNet-Lite2, so that decoders are compared on equal features, and nothing need be downloaded.

    python -m benchmarks.models_table --flickr8k flickr8k
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ENCODER = "encoder={name: efficientnet_lite2, image_size: 260}"
# Starts from the weights of this recipe.
FINETUNED, START = "transformer_finetuned", "transformer"
BATCH_SIZE = 32
SEARCHES = {"greedy": 1, "beam_3": 3}
FIGURES = Path("model/recipes/figures.json")
PAGE = Path("docs/models.md")


def main() -> None:
    """Trains and measures what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, required=True, help="folder with images/, captions.txt and the splits")
    parser.add_argument("--work", type=Path, default=Path("data/models"), help="for data, bundles and figures")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="only these; all by default")
    options = parser.parse_args()
    from beamscribe.model import recipe

    # The one that others start from comes first.
    names = sorted(options.recipes or recipe.names(), key=lambda name: (name == FINETUNED, name))
    for name in names:
        measured = options.work / f"{name}.json"
        if not measured.exists():
            train(name, options.flickr8k, options.work)
            figures = measure(name, options.flickr8k, options.work)
            measured.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: measured", flush=True)
        write(options.work)


def train(name: str, flickr8k: Path, work: Path) -> None:
    """Makes the bundle of a recipe, and the data that it needs, where they are not there."""
    if (work / name).exists():
        return
    arguments = ["--recipe", name]
    store = "images" if name == FINETUNED else "features"
    if name == FINETUNED:
        arguments += ["--init", str(work / START)]
    else:
        arguments += ["--set", ENCODER]
    data = {split: prepare(name, split, store, flickr8k, work) for split in ("train", "dev")}
    arguments += ["--data", str(data["train"]), "--validation", str(data["dev"]), "--output", str(work / name)]
    _beamscribe("train", *arguments)


def prepare(name: str, split: str, store: str, flickr8k: Path, work: Path) -> Path:
    """Makes a split's data where it is not there, and returns its folder."""
    from beamscribe.model.training.dataset_description import DATASET

    folder = work / f"{store}-{split}"
    if not (folder / DATASET).exists():
        source = ["--images", flickr8k / "images", "--captions", flickr8k / "captions.txt"]
        source += ["--split", flickr8k / f"Flickr_8k.{split}Images.txt", "--store", store, "--output", folder]
        changes = ["--set", ENCODER] if store == "features" else []
        flip = ["--flip"] if (store, split) == ("features", "train") else []
        _beamscribe("prepare", "--recipe", name, *map(str, source), *changes, *flip)
    return folder


def measure(name: str, flickr8k: Path, work: Path) -> dict[str, Any]:
    """The figures of a trained recipe."""
    from beamscribe.model import annotations, bundle, evaluation
    from beamscribe.model.captioners.exported_model import CaptionModel
    from beamscribe.model.training.checkpoints import STATE, TrainingState

    captions = flickr8k / "captions.txt"
    learned = annotations.captions_of_split(str(flickr8k / "Flickr_8k.trainImages.txt"), str(captions))
    references = annotations.captions_of_split(str(flickr8k / "Flickr_8k.devImages.txt"), str(captions))
    model = CaptionModel(work / name)
    settings = bundle.describe(work / name).settings
    photos = decoded([flickr8k / "images" / photo for photo in references], model.image_size)
    path = work / f"{name}.training" / STATE
    history = TrainingState.from_json(path.read_bytes(), str(path)).history
    figures: dict[str, Any] = {
        "parameters": model.decoder_parameters,
        "epochs": {e["phase"]: e["epoch"] for e in history},
        # The fastest: in others the machine may have had something else to do.
        "seconds_an_epoch": min(e["seconds"] for e in history if e["phase"] == "cross_entropy"),
    }
    for search, width in SEARCHES.items():
        chosen = settings._replace(beam_width=width)
        model.caption(photos[:BATCH_SIZE], chosen)
        started = time.perf_counter()
        written = [
            str(caption)
            for start in range(0, len(photos), BATCH_SIZE)
            for caption in model.caption(photos[start : start + BATCH_SIZE], chosen)[0][:, 0]
        ]
        seconds = time.perf_counter() - started
        scores = evaluation.evaluate(
            dict(zip(references, written, strict=True)),
            references,
            [c for several in learned.values() for c in several],
        )
        figures[search] = {
            **scores,
            "distinct_share": (scores["distinct_captions"] or 0) / len(references),
            "captions_per_second": len(photos) / seconds,
        }
    return figures


def write(work: Path) -> None:
    """Writes the figures that the command line shows, and the page."""
    from beamscribe.model import recipe

    found = {
        name: json.loads((work / f"{name}.json").read_text(encoding="utf-8"))
        for name in recipe.names()
        if (work / f"{name}.json").exists()
    }
    known = {**recipe.figures(), **found}
    figures = {name: known[name] for name in recipe.names() if name in known}
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(f"{head}{MARK}\n\n{table(figures)}", encoding="utf-8")


MARK = "<!-- what follows is written by `make models-table` -->"
_COLUMNS = {
    "BLEU-1": ("bleu_1", 1, ".1f"),
    "BLEU-2": ("bleu_2", 1, ".1f"),
    "BLEU-3": ("bleu_3", 1, ".1f"),
    "BLEU-4": ("bleu_4", 1, ".1f"),
    "METEOR": ("meteor", 1, ".1f"),
    "ROUGE-L": ("rouge_l", 1, ".1f"),
    "CIDEr": ("cider", 1, ".1f"),
    "copied %": ("copied_share", 100, ".1f"),
    "distinct %": ("distinct_share", 100, ".1f"),
    "words": ("mean_length", 1, ".1f"),
    "captions/s": ("captions_per_second", 1, ".1f"),
}


def table(figures: dict[str, Any]) -> str:
    """The table in Markdown: a line for each recipe and search."""
    from beamscribe.model import recipe

    titles = ["recipe", "encoder", "parameters", "epochs", "s/epoch", "search", *_COLUMNS]
    lines = [titles, ["---"] * len(titles)]
    for name, measured in figures.items():
        own = recipe.load(name).encoder
        encoder = "Lite2, trained" if own.trained_from else "Lite2"
        replaced = "" if own.name.startswith("efficientnet_lite") else f" for {own.name}"
        epochs = " + ".join(
            str(measured["epochs"][p]) for p in ("cross_entropy", "self_critical") if p in measured["epochs"]
        )
        first = [f"`{name}`", encoder + replaced, f"{measured['parameters']:,}", epochs]
        first.append(f"{measured['seconds_an_epoch']:.0f}")
        for search in SEARCHES:
            cells = [f"{measured[search][key] * scale:{form}}" for key, scale, form in _COLUMNS.values()]
            lines.append([*first, search.replace("_", " "), *cells])
            first = [""] * len(first)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def decoded(paths: list[Path], size: int) -> np.ndarray:
    """Photos as a model of that size takes them, `[photos, size, size, 3]`, uint8."""
    from beamscribe.pipelines.images import to_pixels

    pixels: list[Any] = []
    for path in paths:
        photo = to_pixels.convert(path.read_bytes(), size)
        if photo.failure:
            sys.exit(f"{path}: {photo.failure.message}")
        pixels.append(photo.pixels)
    return np.stack(pixels)


def _beamscribe(*arguments: str) -> None:
    print("beamscribe", *arguments, flush=True)
    status = subprocess.run([sys.executable, "-m", "beamscribe", *arguments], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
