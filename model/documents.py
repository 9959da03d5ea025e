"""JSON files: each form is a pydantic model with a version, so that no file is read by hand.

A file of an older version is read as long as its form can be; one of a newer version, and one that is damaged, is an
error of one line that names the file.
"""

import json
from typing import Any, ClassVar, Self

import pydantic

from beamscribe.model.errors import BeamscribeError, one_line

# The key of a file's version. Files of Beamscribe 0.1.0 have none, and are of version 1.
_VERSION_KEY = "format_version"


class DocumentError(BeamscribeError):
    """A JSON file that can't be used; the message is one line for the user.

    Attributes:
      path: of the file.
      problem: what is wrong with it.
    """

    def __init__(self, path: str, problem: str, remedy: str):
        super().__init__(f"{path} {problem}; {remedy}")
        self.path, self.problem = path, problem

    def __reduce__(self) -> Any:
        # An exception is pickled by its message alone, of which this one's constructor makes another.
        return _restored, (type(self), str(self), self.path, self.problem)


class DamagedDocumentError(DocumentError):
    """A file that does not hold what its name says."""


class NewerDocumentError(DocumentError):
    """A file that a newer version of Beamscribe wrote, in a form that this one does not know."""


class Document(pydantic.BaseModel):
    """The content of a JSON file.

    Attributes:
      VERSION: of the form that is written, and the newest that is read.
      REMEDY: what to do about a damaged file.
    """

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", arbitrary_types_allowed=False)

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "restore it from a backup"

    def to_json(self) -> bytes:
        """The file's bytes: indented UTF-8 JSON, the version first; times in ISO 8601."""
        fields = self.model_dump(mode="json")
        return _dumped({_VERSION_KEY: self.VERSION, **fields})

    @classmethod
    def from_json(cls, data: bytes, path: str) -> Self:
        """Reads a file's bytes.

        Args:
          data: the bytes.
          path: of the file, for errors.

        Raises:
          DamagedDocumentError: it is no JSON, or a field is missing or of another kind.
          NewerDocumentError: a newer version wrote it.
        """
        version = _version(data)
        if version is not None and version > cls.VERSION:
            problem = f"was written by a newer version of Beamscribe (form {version}, this one reads {cls.VERSION})"
            raise NewerDocumentError(path, problem, "upgrade Beamscribe")
        try:
            return cls.model_validate_json(data)
        except pydantic.ValidationError as error:
            raise DamagedDocumentError(path, f"is damaged: {_explained(error)}", cls.REMEDY) from None


class _Versioned(pydantic.BaseModel):
    format_version: int = 1


def _version(data: bytes) -> int | None:
    """The version of a file; None where the file does not say it, since it is damaged."""
    try:
        return _Versioned.model_validate_json(data).format_version
    except pydantic.ValidationError:
        return None


def _dumped(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _explained(error: pydantic.ValidationError) -> str:
    """The first fault of a file, with its place."""
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return one_line(f"{place}: {fault['msg']}" if place else fault["msg"])


def _restored(kind: type[DocumentError], message: str, path: str, problem: str) -> DocumentError:
    error = kind.__new__(kind, message)
    error.args, error.path, error.problem = (message,), path, problem
    return error
