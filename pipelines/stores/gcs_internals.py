"""The private parts of google-cloud-storage that have no public substitute. No other module uses private parts of it.

A test fails if a new version changes them.
"""

from typing import Any

from google.cloud.storage import retry
from requests.adapters import HTTPAdapter


def is_transient(error: Exception) -> bool:
    """Whether a failed request may succeed if it is retried, by the client's own rule.

    The client's `Retry` is public, but its predicate is not, and a `Retry` that counts errors needs the predicate.
    """
    return retry.DEFAULT_RETRY._predicate(error)


def keep_connections(client: Any, connections: int) -> None:
    """Makes a client keep this many connections open; by default, it keeps ten and reopens the others each time.

    The client's session has no public name. The alternative would be to build a session, with credentials, by hand.
    """
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=connections))
