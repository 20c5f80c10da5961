"""Explains why a connection failed, from the text of gRPC's status.

Statuses carry TLS errors as text only; this is the only place that knows that text.
"""

from __future__ import annotations

import os
import re

from agent_service.wire.addresses import Address

_CAUSES = {
    r"CERTIFICATE_VERIFY_FAILED: ([\w ]+)": (
        "its certificate is not trusted ({0}); is it signed by another CA than `ca`, or expired?"
    ),
    r"Hostname Verification Check failed": (
        "its certificate is for another host; connect by a name that it covers"
    ),
    r"WRONG_VERSION_NUMBER": "it does not speak TLS; give no `ca` and no certificate",
}


def tls_failure(details: str, *, is_tls: bool) -> str | None:
    """Return why the TLS handshake failed for good; None if a retry may help.

    Args:
        details: the status's details.
        is_tls: whether the client uses TLS.
    """
    if not is_tls:
        return None
    for pattern, cause in _CAUSES.items():
        found = re.search(pattern, details)
        if found is not None:
            return cause.format(*(group.strip() for group in found.groups()))
    return None


def unknown_host(details: str) -> str | None:
    """Return the host name, of the service or a proxy, that did not resolve; else None."""
    found = re.search(r"(?:errors resolving|DNS resolution failed for) (\S+):\d+", details)
    return found and found[1]


def hint(details: str, *, is_tls: bool) -> str:
    """Return another possible cause of a failed connection, as a sentence; or an empty text."""
    if "Failed parsing HTTP/2" in details:
        return ". The server there does not speak gRPC: is it the metrics page?"
    if not re.search(r"Socket closed|reset by peer|Broken pipe", details):
        return ""
    if is_tls:
        return ". Or it requires a client certificate that it trusts: `certificate` and `key`"
    return ". Or it requires TLS: give `ca`"


def proxy_hint(address: Address) -> str:
    """Return which environment variable sends calls to a proxy, as a sentence; or an empty text."""
    from urllib.request import proxy_bypass  # slow to import, and only needed for an error

    variables = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order
    found = next((name for name in variables if os.environ.get(name)), None)
    if found is None or address.is_loopback or proxy_bypass(address.host):
        return ""
    return f". Calls use the proxy of {found}; to bypass it, add {address.host} to no_proxy"
