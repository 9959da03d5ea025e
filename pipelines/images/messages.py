"""Messages between a worker and its image processes, over a socket: a JSON document and some binary parts each.

Hostile bytes may take an image process over. What it sends is therefore no pickle, which could run code in the worker.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

# Each message begins with the number of bytes of its document.
_LENGTH = struct.Struct("!I")
# No document is nearly as long.
_LONGEST_DOCUMENT = 2**26


class Connection:
    """One end of a connection, used by one thread at a time.

    Args:
      end: the socket; the connection closes it.
    """

    def __init__(self, end: socket.socket):
        self._end = end

    def send(self, document: Any, parts: Sequence[bytes] = (), seconds: float = math.inf) -> None:
        """Sends a message.

        Args:
          document: what JSON can express.
          parts: binary parts.
          seconds: how long sending may take.

        Raises:
          OSError: the other end is closed.
          TimeoutError: sending has taken too long; the connection can't be used any more.
        """
        deadline = time.monotonic() + seconds
        text = json.dumps([document, [len(part) for part in parts]]).encode()
        for piece in (_LENGTH.pack(len(text)) + text, *parts):
            self._wait_until(deadline)
            self._end.sendall(piece)

    def receive(self, seconds: float = math.inf, most: int = 2**63) -> tuple[Any, list[bytearray]]:
        """Waits for a message, and returns its document and its binary parts.

        Args:
          seconds: how long to wait for all of it.
          most: number of bytes that the binary parts may have in all.

        Raises:
          EOFError: the other end was closed before a message, or within one.
          OSError: the connection has broken.
          TimeoutError: the message has not come in time; the connection can't be used any more.
          ValueError: what has come is no such message.
        """
        deadline = time.monotonic() + seconds
        (length,) = _LENGTH.unpack(self._received(_LENGTH.size, deadline))
        if length > _LONGEST_DOCUMENT:
            raise ValueError(f"a message with a document of {length} bytes")
        document, sizes = json.loads(self._received(length, deadline))
        if sum(sizes) > most or min(sizes, default=0) < 0:
            raise ValueError(f"a message with parts of {sum(sizes)} bytes")
        return document, [self._received(size, deadline) for size in sizes]

    def close(self) -> None:
        """Closes this end."""
        self._end.close()

    def _received(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view, place = memoryview(data), 0
        while place < size:
            self._wait_until(deadline)
            count = self._end.recv_into(view[place:])
            if not count:
                raise EOFError
            place += count
        return data

    def _wait_until(self, deadline: float) -> None:
        if deadline != math.inf:
            # A timeout of 0 would mean not to wait at all.
            self._end.settimeout(max(deadline - time.monotonic(), 0.001))
