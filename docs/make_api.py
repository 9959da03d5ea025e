"""Writes docs/api.md from the docstrings of the public names: `make docs`. `tests/test_docs.py` compares the two."""

import inspect
import re
from pathlib import Path
from typing import Any

import beamscribe

PAGE = Path(__file__).with_name("api.md")

INTRODUCTION = """# The public API

`import beamscribe` takes some milliseconds: what a name needs is loaded when the name is first used. The library prints
nothing, installs no signal handlers, and logs to the logger `beamscribe`. [tour.md](tour.md) is an introduction. `make
docs` writes this page from the docstrings.
"""

GROUPS = {
    "Functions": ("caption", "read", "scan", "load"),
    "In a pipeline": ("CaptionPhotos", "CaptionRow", "Tag", "Origin", "PhotoRef"),
    "What comes back": ("Captioner", "Caption", "Alternative", "Failure", "Stage", "ErrorCode", "Report", "Progress"),
    "Errors": (
        *("BeamscribeError", "InputError", "OutputInUse"),
        *("RunError", "NoPhotos", "TooManyFailures", "Stopped"),
    ),
}

_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(beamscribe, name), "###") for name in names]
    return "\n".join(parts)


def _entry(name: str, value: Any, level: str) -> str:
    text = [f"{level} {name}\n"]
    if signature := _signature(name, value):
        text.append(f"```python\n{signature}\n```\n")
    text.append(_body(inspect.getdoc(value) or ""))
    for method, function in (
        vars(value).items() if inspect.isclass(value) and name in ("Captioner", "CaptionRow") else ()
    ):
        if inspect.isfunction(function) and not method.startswith("_"):
            text.append(_entry(f"{name}.{method}", function, f"{level}#"))
    return "\n".join(text)


def _signature(name: str, value: Any) -> str:
    """The signature on several lines; empty for what callers don't make themselves."""
    is_made = inspect.isfunction(value) or name in ("CaptionPhotos", "PhotoRef")
    if not is_made:
        return ""
    parameters = []
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind == parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        modules = r"\b(?:typing|collections\.abc|os|apache_beam\.options\.pipeline_options|beamscribe(?:\.[a-z_]+)*)\."
        parameters.append(re.sub(modules, "", str(parameter)))
    if not parameters:
        return f"{name}()"
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + ")"


def _body(docstring: str) -> str:
    """A docstring in Google's style as Markdown: its sections become lists, its example a block of code."""
    paragraphs, *sections = re.split(r"^(\w+):\n(?=  )", docstring, flags=re.MULTILINE)
    text = [paragraphs.strip(), ""]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        lines = inspect.cleandoc(content).splitlines()
        text += [f"**{'Arguments' if title == 'Args' else title}**", ""]
        if title == "Example":
            text += ["```python", *lines, "```", ""]
        elif title in _SECTIONS:
            text += [*_items(title, lines), ""]
        else:
            raise ValueError(f"an unknown section: {title}")
    return "\n".join(text)


def _items(title: str, lines: list[str]) -> list[str]:
    if title in ("Returns", "Yields"):
        return lines
    items: list[str] = []
    for line in lines:
        names, colon, rest = line.partition(": ")
        if colon and not line.startswith(" "):
            items.append(f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {rest}")
        else:
            items.append(f"  {line.strip()}")
    return items


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
