"""Lists the recipes of the package with their figures; `recipes show NAME` prints one, to read or to change.

The figures are those of the validation split of Flickr8k; docs/models.md says how they were measured.
"""

import argparse

EXAMPLE = """beamscribe recipes
  beamscribe recipes show transformer > my_recipe.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options."""
    commands = parser.add_subparsers(dest="what", metavar="show")
    show = commands.add_parser("show", help="print one recipe as YAML")
    show.add_argument("name", metavar="NAME", help="name of a recipe of the package, or a YAML file")
    # The options for every command, which argparse would take before `show` alone; those not given stay as they are.
    for option in ("--quiet", "--verbose"):
        show.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    show.add_argument("--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Lists all recipes, or prints one."""
    from beamscribe.model import recipe

    if options.what == "show":
        # A recipe that can't be used is an error, and not printed.
        recipe.load(options.name)
        print(recipe.text_of(options.name), end="")
        return 0
    _print_table()
    return 0


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table

    from beamscribe.model import recipe

    figures = recipe.figures()
    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "encoder", "decoder"):
        table.add_column(title, no_wrap=True)
    for title in ("parameters", "CIDEr", "BLEU-4", "captions/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in recipe.names():
        chosen, measured = recipe.load(name), figures.get(name)
        cells = ["-"] * 4
        if measured:
            best = measured["beam_3"]
            cells = [
                f"{measured['parameters']:,}",
                *(f"{best[k]:.1f}" for k in ("cider", "bleu_4", "captions_per_second")),
            ]
        table.add_row(name, chosen.encoder.name, chosen.decoder.name, *cells)
    Console(width=120).print(table)
    print(
        "\nOn Flickr8k's validation split, beam width 3, with a frozen efficientnet_lite2 in place of other encoders;"
    )
    print("docs/models.md has all figures. `beamscribe recipes show NAME` prints a recipe.")
