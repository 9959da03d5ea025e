"""What worker processes log, on its way to the loggers of the process that has started the job. Imports no Beam."""

import json
import logging
import threading

# What a record needs to be made again, beside its message and its traceback.
_KEPT = ("name", "levelno", "levelname", "pathname", "lineno", "funcName", "created", "msecs", "process", "threadName")
_FORMATTER = logging.Formatter()


def packed(record: logging.LogRecord) -> str:
    """A record as a text that another process can make it of again."""
    traceback = record.exc_text or (_FORMATTER.formatException(record.exc_info) if record.exc_info else None)
    kept = {name: getattr(record, name) for name in _KEPT}
    return json.dumps(
        {**kept, "msg": record.getMessage(), "exc_text": traceback, "kind": getattr(record, "kind", None)}
    )


class Replay:
    """Gives the records of the workers of a run to the loggers of the same names in this process.

    Of records with an attribute `kind`, the first of each kind is given: every worker logs it once. What libraries log
    below `ERROR` is for those whose own loggers let `INFO` through.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: set[str] = set()

    def __call__(self, text: str) -> None:
        """Gives a record, which `packed` has made a text of."""
        record = logging.makeLogRecord(json.loads(text))
        logger = logging.getLogger(record.name)
        is_own = record.name.partition(".")[0] == "beamscribe"
        if not is_own and record.levelno < logging.ERROR and not logger.isEnabledFor(logging.INFO):
            return
        if logger.isEnabledFor(record.levelno) and self._is_new(getattr(record, "kind", None)):
            logger.handle(record)

    def _is_new(self, kind: str | None) -> bool:
        with self._lock:
            is_new = kind not in self._kinds
            if kind is not None:
                self._kinds.add(kind)
        return is_new
