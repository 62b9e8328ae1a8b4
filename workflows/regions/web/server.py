"""The web page around one radiograph: a Starlette app, and the uvicorn server that it runs in.

The page uploads a radiograph by one POST, whose answer is the result. The server keeps neither: an upload is memory
that no folder lists (`page_uploads.Upload`) and that is given back once it was read, a result is sent and forgotten.
The name of a file never leaves the browser.

`page_login` checks passwords and keeps sessions, `page_middleware` filters requests and writes the log, `page_uploads`
holds uploads, `page_protocol` limits connections. Starlette, uvicorn and Jinja are imported when an app is built;
`Refused` can be used without them.
"""

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from core.progress import warn
from core.system.os_errors import meaning_of
from workflows.regions.web.case_page import BANNER, STYLE, refusal_html
from workflows.regions.web.connections import LimitedProtocol
from workflows.regions.web.login import Login, Sessions
from workflows.regions.web.middleware import LOOPBACK, protect, where_raised
from workflows.regions.web.uploads import Capacity, Full, Upload, Worker

TITLE = "Region-guided reading of one radiograph"
MAP_TITLE = "Error map of one radiograph"
FILES = Path(__file__).parent / "page"
UPLOAD_TYPE = "application/octet-stream"  # which no form can send: a script of another site would have to ask first
MOST_LOGIN_BYTES = 8192
GRACEFUL_SECONDS = 30  # that requests under way may take after a signal to end
FAILED = (
    "This radiograph could not be analysed; the server's log says where. Other files still can be."
)
Read = Callable[[Path], str]


class Refused(ValueError):
    """Why a file has no result: one sentence for whoever uploaded it.

    status: of the HTTP answer. 422 if the file cannot be used, 500 if the fault lies with the server or its networks.
    """

    def __init__(self, sentence: str, status: int = 422):
        super().__init__(sentence)
        self.status = status


class Answer(NamedTuple):
    """The answer to one upload: its HTML and its HTTP status."""

    html: str
    status: int = 200


@dataclass
class Settings:
    """What an app serves.

    users: user -> password; without any, there is no login. names: hosts that the page is reached under besides those
    of this machine. most_bytes: of one upload; all_bytes: of all that are in memory at the same time. regions: whether
    results have regions to switch off.
    """

    users: Mapping[str, str]
    names: Collection[str] = ()
    most_bytes: int = 100 << 20
    all_bytes: int = 400 << 20
    title: str = TITLE
    regions: bool = True


def read_upload(read: Read, path: Path) -> Answer:
    """The result of an upload (status 200), or a sentence that says why there is none; never an error.

    The status is that of `Refused`, or 500 for any other error.
    """
    try:
        return Answer(read(path))
    except Refused as error:
        return Answer(refusal_html(str(error)), error.status)
    except Exception as error:  # the message could quote the file
        warn(where_raised(error))
        return Answer(refusal_html(FAILED), 500)


def build_app(read: Read, settings: Settings):
    """The ASGI app. read: makes the HTML of a result out of a file; called in one thread, one file at a time."""
    page = Page(read, settings)
    routes = [
        Route("/", page.show),
        Route("/login", page.log_in, methods=["POST"]),
        Route("/logout", page.log_out, methods=["POST"]),
        Route("/radiograph", page.answer_upload, methods=["POST"]),
        Route("/page.css", page.send_style),
        Route("/page.js", page.send_script),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return protect(app, {*LOOPBACK, *settings.names}, {route.path for route in routes})


class Page:
    """The answers to all requests. Cookies have random names, so that two servers on one host do not share them."""

    def __init__(self, read: Read, settings: Settings):

        self._settings = settings
        self._login = Login(settings.users)
        self._sessions = Sessions()
        self._capacity = Capacity(settings.all_bytes, shared=bool(settings.users))
        self._worker = Worker(lambda path: read_upload(read, path))
        self._templates = Environment(
            loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined
        )
        suffix = secrets.token_hex(4)
        self._session_cookie = f"session_{suffix}"
        self._known_cookie = f"known_{suffix}"
        self._style = (FILES / "page.css").read_text(encoding="utf-8") + STYLE
        self._script = (FILES / "page.js").read_text(encoding="utf-8")

    async def show(self, request):
        """GET /: the page, or the form of the login."""
        user = self._user_of(request)
        return self._login_form() if user is None else self._page(user)

    async def send_style(self, request):
        """GET /page.css"""
        return Response(self._style, media_type="text/css")

    async def send_script(self, request):
        """GET /page.js"""
        return Response(self._script, media_type="text/javascript")

    async def log_in(self, request):
        """POST /login with the fields user and password of a form: on to the page, or the form again."""
        fields = await self._fields(request)
        user = fields.get("user", "")
        known = request.cookies.get(self._known_cookie, "")
        address = request.client.host if request.client else ""
        answer = self._login.attempt(user, fields.get("password", ""), address, known)
        if answer.wait > 0:
            seconds = max(1, round(answer.wait + 0.5))
            return self._login_form(
                f"Too many attempts. Please wait {seconds} s.", 429, {"retry-after": str(seconds)}
            )
        if not answer.granted:
            return self._login_form("This user and password do not belong together.", 403)
        response = RedirectResponse("./", 303)
        # a proxy in front may speak TLS; the browser tells
        secure = request.headers.get("origin", "").startswith("https://")
        options = {"httponly": True, "samesite": "strict", "secure": secure}
        response.set_cookie(self._session_cookie, self._sessions.start(user), **options)
        response.set_cookie(self._known_cookie, self._login.remember(user), **options)
        return response

    async def log_out(self, request):
        """POST /logout: end the session."""
        self._sessions.end(request.cookies.get(self._session_cookie, ""))
        response = RedirectResponse("./", 303)
        response.delete_cookie(self._session_cookie, httponly=True, samesite="strict")
        return response

    async def answer_upload(self, request):
        """POST /radiograph with the bytes of a file as body: the HTML of its result."""
        user = self._user_of(request)
        if user is None:
            return self._piece("Your session has ended; please log in again.", 401)
        if request.headers.get("content-type", "").partition(";")[0].strip() != UPLOAD_TYPE:
            return self._piece(
                f"Send the bytes of one file, with the content type {UPLOAD_TYPE}.", 415
            )
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return self._piece("The request does not say how many bytes it has.", 411)
        size = int(length)
        most = self._settings.most_bytes
        if size > most:
            return self._piece(
                f"The file is larger than the maximum size, {most / 2**20:g} MiB.", 413
            )
        try:
            with self._capacity.take(user, size):
                return await self._answer(request, size)
        except Full as full:
            seconds = str(self._worker.retry_after(self._capacity.requests))
            return self._piece(
                f"{full} Please try again in {seconds} s.", 503, {"retry-after": seconds}
            )

    async def _answer(self, request, size: int):
        """The result of an upload of `size` bytes, for which there is room."""
        upload = Upload()
        try:
            async for chunk in request.stream():
                upload.write(chunk)
                if upload.size > size:
                    return self._piece("The request has more bytes than it says.", 400)
            upload.finish()
            reading = self._worker.submit(upload)
        except ClientDisconnect:
            upload.close()
            return self._piece("The upload was not completed.", 400)
        except BaseException:
            upload.close()
            raise
        result = asyncio.wrap_future(reading)
        leaving = asyncio.ensure_future(
            request.receive()
        )  # all of the body is here: what comes now is a disconnect
        try:
            await asyncio.wait({result, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if (
                not result.done() and reading.cancel()
            ):  # nobody waits for it any more, and it has not begun
                upload.close()
                return self._piece("The client has left.", 400)
            answer = await result
            return HTMLResponse(answer.html, answer.status)
        finally:
            leaving.cancel()
            if reading.cancel():  # the server ends
                upload.close()

    def _user_of(self, request) -> str | None:
        """Who is logged in; "" where there is no login, None if nobody is."""
        if not self._settings.users:
            return ""
        return self._sessions.user_of(request.cookies.get(self._session_cookie, ""))

    async def _fields(self, request) -> dict[str, str]:
        """The fields of a small form; none of a larger or broken one."""
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_LOGIN_BYTES:
                    return {}
            fields = parse_qs(
                body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=10
            )
        except (ClientDisconnect, ValueError):
            return {}
        return {name: values[0] for name, values in fields.items()}

    def _page(self, user: str):
        settings = self._settings
        values = {
            "user": user,
            "most_bytes": settings.most_bytes,
            "most_mb": f"{settings.most_bytes / 2**20:g}",
            "regions": settings.regions,
        }
        return self._template("page.html", 200, None, **values)

    def _login_form(
        self, refusal: str = "", status: int = 200, headers: dict[str, str] | None = None
    ):
        return self._template("login.html", status, headers, refusal=refusal)

    def _template(self, name: str, status: int, headers: dict[str, str] | None, **values):

        text = self._templates.get_template(name).render(
            title=self._settings.title, banner=Markup(BANNER), **values
        )
        return HTMLResponse(text, status, headers)

    def _piece(self, sentence: str, status: int, headers: dict[str, str] | None = None):
        """A sentence in place of a result."""
        return HTMLResponse(refusal_html(sentence), status, headers)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine, which does not listen yet. ValueError if it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(f"port {port} of {host} cannot be served: {meaning_of(error)}") from error
    return listener


def make_server(app):
    """A uvicorn server of `app` that asks nobody, logs nothing itself and limits connections."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=128,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )


def serve(app, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called before the first request. Answers under way are completed."""
    server = make_server(app)

    def stop(*_):
        server.should_exit = True

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        listener.listen(128)
        ready()
        server.run(sockets=[listener])
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
