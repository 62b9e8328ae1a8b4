"""Limits of connections that uvicorn lacks: time for the head of a request, time for reading an answer, their number.

Importing this module imports uvicorn.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 on one connection, which is cut when nothing useful has happened on it for too long.

    Useful is a request that the app works on (`page_middleware.BodyTimeout` limits how long its body may take). A
    connection without a request is cut after `head_seconds`, whether it is silent or sends its head byte by byte; one
    whose answer is not read is cut after `read_seconds`. Connections beyond `most_connections` are cut at once.
    """

    head_seconds = 10.0
    read_seconds = 120.0
    most_connections = 256
    look_seconds = 1.0  # between two looks at a connection

    _look: asyncio.TimerHandle | None = None
    _useful = 0.0  # when something useful was last seen, in the time of the loop

    def connection_made(self, transport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._useful = self.loop.time()
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._look = self.loop.call_later(self.look_seconds, self._look_at)

    def connection_lost(self, exc) -> None:
        """The connection is closed."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer was handed to the operating system, as far as it takes it."""
        if not self.transport.get_write_buffer_size():
            self._useful = self.loop.time()
        super().on_response_complete()

    def _look_at(self) -> None:
        unread = self.transport.get_write_buffer_size() > 0
        works = self.cycle is not None and not self.cycle.response_complete
        now = self.loop.time()
        if works and not unread:
            self._useful = now
        elif now - self._useful > (self.read_seconds if unread else self.head_seconds):
            self.transport.abort()
            return
        self._look = self.loop.call_later(self.look_seconds, self._look_at)
