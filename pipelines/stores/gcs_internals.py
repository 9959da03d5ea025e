"""The private parts of google-cloud-storage that its public ones have no substitute for. Nothing else uses any.

A test fails where a new version has changed them.
"""

from typing import Any

from google.cloud.storage import retry
from requests.adapters import HTTPAdapter


def may_pass(error: Exception) -> bool:
    """Whether a request that failed may work when it is made again, as the client itself decides.

    The client's `Retry` is public, its predicate is not, and a `Retry` that counts its errors can't be made without it.
    """
    return retry.DEFAULT_RETRY._predicate(error)


def keep_connections(client: Any, connections: int) -> None:
    """Makes a client keep so many connections open, of which it would keep ten and make the others anew each time.

    The session of a client is only to be had by its private name, unless one makes it oneself, credentials and all.
    """
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=connections))
