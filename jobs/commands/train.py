"""Trains a recipe on prepared data and writes a model bundle. No Beam in it; needs no Java.

Run again after an interruption, it goes on from the last checkpoint, a few minutes back. TensorBoard reads DIR/logs of
--checkpoints.
"""

import argparse
import os
import re
from pathlib import Path

EXAMPLE = """beamscribe train --data data/train --validation data/dev --recipe transformer --output my_bundle"""
ADVICE = "run the same command again to go on from the last checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the training split, prepared")
    parser.add_argument("--validation", required=True, type=Path, metavar="DIR", help="the validation split, prepared")
    parser.add_argument("--recipe", required=True, help="name of a recipe of the package, or a YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe; repeatable"
    )
    parser.add_argument("--init", type=Path, metavar="BUNDLE", help="start from the weights and words of this bundle")
    parser.add_argument("--output", required=True, type=Path, metavar="BUNDLE", help="folder of the bundle, a new one")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the recipe's is 0; equal seeds give equal models on a CPU"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="share each step among N GPUs (1, where there is one)")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="where to keep the training's state (BUNDLE.training)"
    )


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Trains, and writes the bundle."""
    from beamscribe.model.quiet import quiet_imports

    _check_paths(options)
    with quiet_imports():
        from beamscribe.model import bundle, card, recipe
        from beamscribe.model.captioners.exported_model import CaptionModel
        from beamscribe.model.training import dataset, devices, metrics
        from beamscribe.model.training.trainer import Trainer

    changes = options.set + ([f"seed={options.seed}"] if options.seed is not None else [])
    chosen = recipe.load(options.recipe, changes)
    mirror = any(phase.mirror for phase in chosen.phases.values())
    data = dataset.load(options.data, chosen.encoder, mirror)
    validation = dataset.load(options.validation, chosen.encoder, mirror=False)
    folder = options.checkpoints or options.output.with_name(f"{options.output.name}.training")
    trainer = Trainer(chosen, data, validation, folder, options.init, devices.Devices(options.gpus))
    encoder, decoder = trainer.run()
    with bundle.BundleWriter(options.output) as writer:
        writer.add_model(chosen, encoder, decoder, trainer.vocabulary)
        figures = metrics.measure(CaptionModel(writer.path), chosen, data, validation)
        words = len(trainer.vocabulary.written())
        writer.add_metrics(figures, card.render(chosen, data, validation, words, figures))
    print(f"bundle {options.output}: validation CIDEr {figures['cider']:.1f} ({figures['scorer']})")
    print(f"digest sha256:{bundle.digest(options.output)}: who loads it from a bucket gives gs://…@sha256:…")
    print(f"you can delete the checkpoints in {folder}")
    return 0


def _check_paths(options: argparse.Namespace) -> None:
    """Says before the training what would end it: folders of other machines, and a place that can't be written to."""
    from beamscribe.model.errors import BeamscribeError, InputError, one_line

    for name in ("data", "validation", "init", "output", "checkpoints"):
        # A path has lost one of two slashes.
        if re.match(r"[a-z][a-z0-9+.-]*:/", str(getattr(options, name) or "")):
            raise InputError(f"`{name}`: training needs folders of this machine; copy what is elsewhere first")
    if options.output.exists():
        raise InputError(f"`output`: {options.output} is there already; delete it or choose another place")
    parent = options.output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BeamscribeError(f"`output`: can't make the folder {parent}: {one_line(error)}") from None
    if not os.access(parent, os.W_OK):
        raise BeamscribeError(f"`output`: can't write to {parent}")
