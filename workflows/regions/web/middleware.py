"""ASGI middleware around the web page: an access log, a time limit for request bodies, and a filter of requests.

`protect` puts all three around an app. Requests that name another host, come from a script or form of another site, or
are sent too slowly do not reach the app. Each answer forbids the browser to load from elsewhere and to keep anything.
"""

import asyncio
import ipaddress
import time
import traceback
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from core.progress import say, warn

LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"cache-control", b"no-store"),
    (
        b"referrer-policy",
        b"same-origin",
    ),  # no-referrer would make the Origin of our own forms "null"
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


def protect(app, names: Collection[str], paths: Collection[str]):
    """An app with its access log, time limit and request filter.

    names: hosts that the page is reached under. paths: those that the log may name; others could hold anything.
    """
    return AccessLog(BodyTimeout(RequestFilter(app, names)), paths)


class AccessLog:
    """A line for each request: time, address, method, path, status, seconds. An error of the app becomes status 500.

    Neither queries nor unknown paths are written, and of an error only where it was raised: its message could quote a
    file.
    """

    def __init__(self, app, paths: Collection[str], write: Callable[[str], None] = say):
        self._app = app
        self._paths = frozenset(paths)
        self._write = write

    async def __call__(self, scope, receive, send):
        """Pass a request on and note what became of it."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        status = 0

        async def noted(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            warn(where_raised(error))
            if status == 0:
                await send_text(noted, 500, "The server failed; its log says where.")
        path = scope["path"] if scope["path"] in self._paths else "(another path)"
        method = (
            scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "(another method)"
        )
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        address = (scope.get("client") or ("-",))[0]
        self._write(
            f"{moment} {address} {method} {path} {status or 'no answer'} {time.monotonic() - began:.1f} s"
        )


class RequestFilter:
    """Refuses requests to another host or from another site; adds headers to each answer.

    A page of another site can make a browser send requests here, also by a name that it has pointed at this machine.
    The browser tells: Host is the name that it asked, Origin and Sec-Fetch-Site where the request comes from. Programs
    that are no browsers send neither of the latter two.
    """

    def __init__(self, app, names: Collection[str]):
        self._app = app
        self._names = frozenset(name.lower().strip("[]") for name in names)

    async def __call__(self, scope, receive, send):
        """Pass a request on or refuse it."""

        async def headed(message):
            if message["type"] == "http.response.start":
                ours = {name for name, _ in HEADERS}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in ours
                ]
                message = message | {"headers": [*kept, *HEADERS]}
            await send(message)

        hosts = header_values(scope, b"host")
        host = host_name(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self._is_served(host, scope):
            await send_text(
                headed, 421, "This page is not served under that name; --names adds one."
            )
        elif not from_own_site(scope, hosts[0]):
            await send_text(headed, 403, "Requests from other sites are refused.")
        else:
            await self._app(scope, receive, headed)

    def _is_served(self, host: str, scope) -> bool:
        """Whether a host is one of the names, or the very address that the client has connected to."""
        if host in self._names:
            return True
        address = as_address(host)
        return address is not None and address == as_address((scope.get("server") or ("",))[0])


class BodyTimeout:
    """Ends requests whose body is sent too slowly, and reads the rest of bodies that the app does not want.

    A body may take `grace_seconds` and one more for every `slowest` bytes that have come. An answer before the end of
    the body closes the connection, after up to `linger_seconds` in which the rest is thrown away: a connection that is
    closed with unread bytes would be reset, and the client would see no answer.
    """

    grace_seconds = 15.0
    slowest = 64 * 1024  # bytes per second
    linger_seconds = 5.0

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Pass a request on, its body and its answer watched."""
        clock = asyncio.get_running_loop().time
        began = clock()
        lengths = header_values(scope, b"content-length")
        ended = not header_values(scope, b"transfer-encoding") and (
            not lengths or lengths[0].strip() == "0"
        )
        started = slow = gone = False
        size = 0

        async def received(until: float):
            """The next message; a body that is too slow is a client that has left."""
            nonlocal ended, slow, gone, size
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                slow = True
                return {"type": "http.disconnect"}
            if message["type"] == "http.disconnect":
                gone = True
            else:
                size += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            return message

        async def paced():
            if slow:
                return {"type": "http.disconnect"}
            if ended:  # what comes now is that the client leaves
                return await receive()
            return await received(began + self.grace_seconds + size / self.slowest)

        async def drained():
            until = clock() + self.linger_seconds
            while not (ended or slow or gone):
                await received(until)

        async def sent(message):
            nonlocal started
            if slow and not started:  # what the app says to a client that has left
                return
            if message["type"] == "http.response.start":
                started = True
                if not ended:
                    message = message | {
                        "headers": [*message.get("headers", []), (b"connection", b"close")]
                    }
            elif not ended and not message.get("more_body", False):
                await send(message | {"more_body": True})
                await drained()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            await self._app(scope, paced, sent)
        except Exception:
            if not (slow or gone):  # whatever an app says about a client that has left
                raise
        if slow and not started:
            await send_text(
                send, 408, "The request was sent too slowly.", (b"connection", b"close")
            )


def header_values(scope, name: bytes) -> list[str]:
    """All values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def host_name(host: str) -> str | None:
    """The name or address in a Host header, without port and brackets, in lower case; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  ValueError if it is no number
    except ValueError:
        return None
    plain = (
        parts.netloc == host
        and "@" not in host
        and not (parts.path or parts.query or parts.fragment)
    )
    return parts.hostname if plain else None


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as an object, of IPv4 also where it is written as one of IPv6; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def from_own_site(scope, host: str) -> bool:
    """Whether a request comes from a page that was served under this Host header, or from no page at all."""
    origins = header_values(scope, b"origin")
    if origins:
        parts = urlsplit(origins[0])
        return (
            len(origins) == 1
            and parts.scheme in ("http", "https")
            and parts.netloc.lower() == host.lower()
        )
    if scope["method"] in ("GET", "HEAD"):
        return True
    return all(site in ("same-origin", "none") for site in header_values(scope, b"sec-fetch-site"))


def where_raised(error: BaseException) -> str:
    """The type of an error and the lines of code that it passed, without its message."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}, raised here:\n{frames}".rstrip()


async def send_text(send, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
    """Send a sentence as plain text, with the headers of all answers."""
    body = sentence.encode()
    kind = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*kind, *HEADERS, *headers]}
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
