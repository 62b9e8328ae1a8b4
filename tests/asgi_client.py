"""A client of an ASGI app in this process: no server, no library, no port."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

HOST = "127.0.0.1:7860"


class Answer(NamedTuple):
    """Status, headers with names in lower case (of several with one name, the last), all cookies, and the body."""

    status: int
    headers: dict[str, str]
    cookies: dict[str, str]
    body: bytes
    attributes: str = ""  # of the cookies

    @property
    def text(self) -> str:
        return self.body.decode()


async def asked(
    app,
    method: str = "GET",
    path: str = "/",
    *,
    chunks: Iterable = (),
    headers: dict[str, str] | None = None,
    address: str = "127.0.0.1",
    leaves: bool = False,
    leaves_after: bool = False,
) -> Answer:
    """Send a request and return its answer.

    chunks: the body in pieces; a number is a pause in seconds. leaves: the client leaves before the end of its body;
    leaves_after: after it, without waiting for the answer.
    """
    pieces = list(chunks) or [b""]
    size = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    given = {"host": HOST} | ({"content-length": str(size)} if chunks else {}) | (headers or {})
    sent: list[dict] = []

    async def receive():
        while pieces:
            piece = pieces.pop(0)
            if isinstance(piece, bytes):
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or leaves}
            await asyncio.sleep(piece)
        if not (leaves or leaves_after):
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": (address, 50000),
        "server": ("127.0.0.1", 7860),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }
    await app(scope, receive, send)
    pairs = (
        [(name.decode().lower(), value.decode()) for name, value in sent[0]["headers"]]
        if sent
        else []
    )
    cookies = [value for name, value in pairs if name == "set-cookie"]
    return Answer(
        sent[0]["status"] if sent else 0,
        dict(pairs),
        dict(cookie.partition(";")[0].split("=", 1) for cookie in cookies),
        b"".join(message.get("body", b"") for message in sent[1:]),
        " ".join(cookies),
    )


def ask(app, *arguments, **options) -> Answer:
    """`asked`, in an event loop of its own."""
    return asyncio.run(asked(app, *arguments, **options))
