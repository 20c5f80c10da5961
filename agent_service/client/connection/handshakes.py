"""What gRPC says when a connection does not come about, in words that help.

Its statuses carry TLS errors as text only, so this is the one place that knows that text.
"""

from __future__ import annotations

import os
import re

from agent_service.wire.addresses import Address

_CAUSES = {
    r"CERTIFICATE_VERIFY_FAILED: ([\w ]+)": (
        "its certificate is not trusted here ({0}); is it of another authority than `ca`, or old?"
    ),
    r"Hostname Verification Check failed": (
        "its certificate is for another host; use a name that it has"
    ),
    r"WRONG_VERSION_NUMBER": "it speaks no TLS; give no `ca` and no certificate",
}


def refusal(details: str, *, is_tls: bool) -> str | None:
    """Return why a service was not accepted, where asking again cannot help; else None.

    Args:
        details: of the call's status.
        is_tls: whether the client speaks TLS.
    """
    if not is_tls:
        return None
    for pattern, cause in _CAUSES.items():
        found = re.search(pattern, details)
        if found is not None:
            return cause.format(*(group.strip() for group in found.groups()))
    return None


def unknown_host(details: str) -> str | None:
    """Return the host whose name was looked up in vain, the service's or a proxy's; else None."""
    found = re.search(r"(?:errors resolving|DNS resolution failed for) (\S+):\d+", details)
    return found and found[1]


def hint(details: str, *, is_tls: bool) -> str:
    """Return what may also be the cause where no connection comes about; or nothing."""
    if "Failed parsing HTTP/2" in details:
        return ". What answers there speaks no gRPC: is it the page of metrics?"
    if not re.search(r"Socket closed|reset by peer|Broken pipe", details):
        return ""
    if is_tls:
        return ". Or it asks for a client certificate that it trusts: `certificate` and `key`"
    return ". Or it speaks TLS: give `ca`"


def proxy_hint(address: Address) -> str:
    """Return which variable of the environment sends calls to a proxy; nothing where none does."""
    from urllib.request import proxy_bypass  # slow to import, for an error alone

    variables = ("grpc_proxy", "https_proxy", "http_proxy")  # as gRPC looks for them
    found = next((name for name in variables if os.environ.get(name)), None)
    if found is None or address.is_loopback or proxy_bypass(address.host):
        return ""
    return f". Calls go by the proxy of {found}; to go around it, name {address.host} in no_proxy"
