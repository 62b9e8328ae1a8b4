"""The app of the web page: its requests in this process, and its connections through a real uvicorn on this machine."""

import asyncio
import contextlib
import gc
import http.client
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from asgi_client import HOST, ask, asked

from workflows.regions.web.server import FAILED, Refused, Settings, bind, build_app, make_server

pytest.importorskip("starlette", reason="no starlette: requirements-app.txt")
pytest.importorskip("uvicorn", reason="no uvicorn: requirements-app.txt")
pytest.importorskip("jinja2", reason="no jinja2: requirements-app.txt")

UPLOAD = {"content-type": "application/octet-stream"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
PASSWORD = "phantoms of 2026"


def content(path: Path) -> str:
    """What stands in for a network: the content of a file as its result."""
    return f"<p>{path.read_text()}</p>"


def app_of(read=content, users=(("ann", PASSWORD), ("bob", "other password")), **settings):
    return build_app(read, Settings(dict(users), **settings))


def log_in(app, user="ann", password=PASSWORD, address="127.0.0.1", **headers):
    body = urlencode({"user": user, "password": password}).encode()
    return ask(app, "POST", "/login", chunks=[body], headers=FORM | headers, address=address)


def cookie(answer) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in answer.cookies.items())}


def memory_files() -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:radiograph")
    return count


def until(told, seconds=10.0):
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


# requests --------------------------------------------------------------------------------------------------------


def test_the_login_and_a_result():
    app = app_of()
    form = ask(app)
    assert form.status == 200 and 'type="password"' in form.text and 'type="file"' not in form.text
    assert ask(app, "POST", "/radiograph", chunks=[b"x"], headers=UPLOAD).status == 401
    wrong = log_in(app, password="guess")
    assert wrong.status == 403 and not wrong.cookies and "do not belong together" in wrong.text
    right = log_in(app)
    assert right.status == 303 and right.headers["location"] == "./" and len(right.cookies) == 2
    assert right.attributes.count("HttpOnly") == right.attributes.count("SameSite=strict") == 2
    assert (
        "Secure" not in right.attributes
        and "Max-Age" not in right.attributes
        and PASSWORD not in str(right)
    )
    page = ask(app, headers=cookie(right)).text
    assert (
        'type="file"' in page
        and "Not a medical device" in page
        and 'data-most-bytes="104857600"' in page
    )
    shown = ask(app, "POST", "/radiograph", chunks=[b"pix", b"els"], headers=UPLOAD | cookie(right))
    assert (
        shown.status == 200
        and shown.text == "<p>pixels</p>"
        and shown.headers["cache-control"] == "no-store"
    )
    out = ask(app, "POST", "/logout", headers=cookie(right))
    assert out.status == 303
    assert (
        ask(app, "POST", "/radiograph", chunks=[b"x"], headers=UPLOAD | cookie(right)).status == 401
    )


@pytest.mark.parametrize(
    "body, leaves",
    [
        (b"user=ann&password=" + b"x" * 9000, False),
        (b"&".join([b"a=1"] * 11), False),
        (b"\xff\x00=%zz", False),
        (b"", False),
        (b"user=ann", True),
    ],
)
def test_broken_forms_are_wrong_passwords(body, leaves, capsys):
    answer = ask(app_of(), "POST", "/login", chunks=[body], headers=FORM, leaves=leaves)
    assert (
        answer.status in (0, 403)
        and not answer.cookies
        and "raised here" not in capsys.readouterr().err
    )


def test_behind_a_proxy_with_tls_cookies_are_secure():
    app = app_of(names=["reader.example.org"])
    host = {"host": "reader.example.org"}
    right = log_in(app, **host, origin="https://reader.example.org")
    assert right.status == 303 and right.attributes.count("Secure") == 2
    assert log_in(app, **host, origin="https://evil.example").status == 403
    assert ask(app, headers={"host": "evil.example"}).status == 421


def test_guessing_is_held_up_and_a_known_browser_is_not():
    app = app_of()
    known = cookie(log_in(app))
    answers = [log_in(app, password=f"guess {number}") for number in range(100)]
    assert sum(answer.status == 403 for answer in answers) < 15
    assert answers[-1].status == 429 and int(answers[-1].headers["retry-after"]) >= 1
    assert "Please wait" in answers[-1].text
    assert log_in(app).status == 429 and log_in(app, **known).status == 303
    assert log_in(app, user="bob", password="other password", address="10.0.0.7").status == 303


@pytest.mark.parametrize(
    "path",
    [
        "/config",
        "/gradio_api/upload",
        "/gradio_api/deep_link",
        "/gradio_api/file=/etc/passwd",
        "/docs",
        "/openapi.json",
        "/page/../../app.py",
        "/page.html",
        "/static/page.js",
        "//etc/passwd",
        "/radiograph/",
        "/favicon.ico",
    ],
)
def test_there_is_nothing_else(path):
    app = app_of(users=())
    assert {ask(app, method, path).status for method in ("GET", "POST", "PUT")} == {404}
    assert ask(app, "GET", "/radiograph").status == 405 and ask(app, "GET", "/login").status == 405


@pytest.mark.parametrize(
    "headers, chunks, status, told",
    [
        ({"content-type": "multipart/form-data"}, [b"x"], 415, "application/octet-stream"),
        ({"content-type": "text/plain"}, [b"x"], 415, "application/octet-stream"),
        (UPLOAD | {"content-length": "11"}, [b"x" * 11], 413, "maximum size, 9.53674e-06 MiB"),
        (UPLOAD | {"content-length": "-1"}, [b"x"], 411, "how many bytes"),
        (UPLOAD | {"content-length": "1"}, [b"x" * 9], 400, "more bytes than it says"),
        (UPLOAD | {"origin": "http://evil.example"}, [b"x"], 403, "other sites"),
        (UPLOAD | {"host": "evil.example"}, [b"x"], 421, "not served"),
    ],
)
def test_uploads_that_are_refused(headers, chunks, status, told):
    app = app_of(lambda path: pytest.fail("read"), users=(), most_bytes=10)
    answer = ask(app, "POST", "/radiograph", chunks=chunks, headers=headers)
    assert answer.status == status and told in answer.text and memory_files() == 0


@pytest.mark.parametrize(
    "error, status, sentence",
    [
        (Refused("This file cannot be used."), 422, "This file cannot be used."),
        (Refused("No result.", 500), 500, "No result."),
        (KeyError("CANARY"), 500, FAILED.partition(";")[0]),
    ],
)
def test_an_upload_without_a_result_has_a_status_that_says_so(error, status, sentence):
    def fail(path):
        raise error

    app = app_of(fail, users=())
    answer = ask(app, "POST", "/radiograph", chunks=[b"x"], headers=UPLOAD)
    assert answer.status == status and sentence in answer.text and "class='refusal'" in answer.text
    assert answer.headers["content-type"].startswith("text/html") and "CANARY" not in answer.text


def test_an_aborted_upload_leaves_nothing():
    app = app_of(lambda path: pytest.fail("read"), users=())
    for _ in range(20):
        left = ask(
            app, "POST", "/radiograph", chunks=[b"x" * 1000] * 3, headers=UPLOAD, leaves=True
        )
        assert left.status in (0, 400)
    assert memory_files() == 0


class Gate:
    """A network that works until it is told to go on."""

    def __init__(self):
        self.go = threading.Event()
        self.read: list[str] = []

    def __call__(self, path: Path) -> str:
        self.read.append(path.read_text())
        assert self.go.wait(20)
        return f"<p>{self.read[-1]}</p>"


def test_a_queue_that_is_full_says_when_to_come_again():
    gate = Gate()
    app = app_of(gate, users=(), all_bytes=10_000)

    async def crowd():
        waiting = [asyncio.ensure_future(upload(app, f"file {number}")) for number in range(16)]
        await asyncio.sleep(0.2)
        refused = await upload(app, "one too many")
        gate.go.set()
        return refused, await asyncio.gather(*waiting)

    async def upload(app, text, size=None):
        return await asked(app, "POST", "/radiograph", chunks=[text.encode()], headers=UPLOAD)

    refused, answers = asyncio.run(crowd())
    assert refused.status == 503 and 1 <= int(refused.headers["retry-after"]) <= 120
    assert "busy with 16 radiographs. Please try again in" in refused.text
    assert [answer.text for answer in answers] == [f"<p>file {number}</p>" for number in range(16)]
    assert (
        ask(app, "POST", "/radiograph", chunks=[b"later"], headers=UPLOAD).status == 200
        and memory_files() == 0
    )


def test_all_uploads_together_have_a_limit():
    gate = Gate()
    app = app_of(gate, users=(), most_bytes=600, all_bytes=1000)

    async def crowd():
        first = asyncio.ensure_future(
            asked(app, "POST", "/radiograph", chunks=[b"x" * 600], headers=UPLOAD)
        )
        await asyncio.sleep(0.1)
        second = await asked(app, "POST", "/radiograph", chunks=[b"x" * 500], headers=UPLOAD)
        third = asyncio.ensure_future(
            asked(app, "POST", "/radiograph", chunks=[b"x" * 400], headers=UPLOAD)
        )
        await asyncio.sleep(0.1)
        gate.go.set()
        return [(await first).status, second.status, (await third).status]

    assert asyncio.run(crowd()) == [200, 503, 200]


def test_a_client_that_leaves_the_queue_is_not_waited_for():
    gate = Gate()
    app = app_of(gate, users=())

    async def crowd():
        first = asyncio.ensure_future(
            asked(app, "POST", "/radiograph", chunks=[b"first"], headers=UPLOAD)
        )
        await asyncio.sleep(0.1)
        left = await asked(
            app, "POST", "/radiograph", chunks=[b"second", b""], headers=UPLOAD, leaves_after=True
        )
        gate.go.set()
        return await first, left

    first, left = asyncio.run(crowd())
    assert (
        first.text == "<p>first</p>"
        and left.status == 400
        and gate.read == ["first"]
        and memory_files() == 0
    )


def test_no_request_leaves_memory_behind():
    """100 uploads of 200 kB: what Python holds afterwards has not grown, and no memory file is left."""
    import tracemalloc

    data = b"x" * 200_000
    app = app_of(lambda path: f"<p>{path.read_text()}</p>", users=())
    held = []

    async def upload(count):
        for _ in range(count):
            answer = await asked(app, "POST", "/radiograph", chunks=[data], headers=UPLOAD)
            assert len(answer.body) == len(data) + 7
        del answer
        gc.collect()
        held.append(tracemalloc.get_traced_memory())

    async def uploads():
        for count in (5, 95):
            await upload(count)

    tracemalloc.start()
    try:
        asyncio.run(uploads())
    finally:
        tracemalloc.stop()
    (before, _), (after, highest) = held
    assert after - before < len(data) / 2 and highest < 12 * len(data) and memory_files() == 0


# connections -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(app, monkeypatch=None, **limits):
    """A server of this app in a thread; yields its port."""
    from workflows.regions.web.connections import LimitedProtocol

    for name, value in limits.items():
        monkeypatch.setattr(LimitedProtocol, name, value)
    listener = bind("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def post(port, data, path="/radiograph", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, data, UPLOAD | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_two_users_at_once_each_get_their_own_result():
    def slowly(path):
        time.sleep(0.02)
        return content(path)

    app, wrong, done = app_of(slowly), [], []

    def reader(user, password):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/login", urlencode({"user": user, "password": password}), FORM)
        answer = connection.getresponse()
        answer.read()
        own = "; ".join(
            value.partition(";")[0]
            for name, value in answer.getheaders()
            if name.lower() == "set-cookie"
        )
        for number in range(15):
            text = f"{user} {number} " + user[0] * 50_000
            status, result = post(port, text.encode(), cookie=own)
            (done if (status, result) == (200, f"<p>{text}</p>") else wrong).append(
                (status, result[:50])
            )

    with served(app) as port:
        users = (("ann", PASSWORD), ("bob", "other password"))
        readers = [threading.Thread(target=reader, args=pair) for pair in users]
        for one in readers:
            one.start()
        for one in readers:
            one.join(30)
    assert not wrong and len(done) == 30 and memory_files() == 0


def test_a_client_that_goes_away_in_its_upload_leaves_nothing():
    app = app_of(users=())
    with served(app) as port:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as client:
                head = f"POST /radiograph HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 90000000\r\n"
                client.sendall(
                    f"{head}content-type: application/octet-stream\r\n\r\n".encode()
                    + b"x" * 200_000
                )
                until(lambda: memory_files() == 1)
            until(lambda: memory_files() == 0)
        assert post(port, b"next") == (200, "<p>next</p>")


def test_a_refusal_reaches_a_client_that_is_still_sending():
    app = app_of(users=(), most_bytes=1 << 20)
    with served(app) as port:
        status, text = post(port, b"x" * (8 << 20))
        assert status == 413 and "maximum size, 1 MiB" in text
        status, text = post(port, b"x" * (8 << 20), origin="http://evil.example")
        assert status == 403


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin, drip",
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-name: ", b"x"),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET / HT", b""),
    ],
    ids=["silent", "head byte by byte", "kept alive", "second head"],
)
def test_connections_without_a_request_are_cut(begin, drip, monkeypatch):
    with served(app_of(users=()), monkeypatch, head_seconds=0.5, look_seconds=0.1) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        began = time.monotonic()
        client.sendall(begin)
        with contextlib.suppress(OSError):  # reset
            while time.monotonic() - began < 8:
                client.settimeout(0.1)
                try:
                    if client.recv(65536) == b"":
                        break
                except TimeoutError:
                    client.sendall(drip)
        assert 0.4 < time.monotonic() - began < 6
        client.close()


@pytest.mark.slow
def test_a_connection_that_is_used_is_kept(monkeypatch):
    with served(app_of(users=()), monkeypatch, head_seconds=0.5, look_seconds=0.1) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.connect()
        first = connection.sock
        for _ in range(8):
            connection.request("GET", "/page.js")
            assert connection.getresponse().read() and connection.sock is first
            time.sleep(0.15)
        connection.close()


@pytest.mark.slow
def test_a_result_that_is_not_read_is_dropped(monkeypatch):
    size = 40 << 20
    app = app_of(lambda path: "x" * size, users=())
    with served(app, monkeypatch, read_seconds=0.5, look_seconds=0.1) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(
            f"POST /radiograph HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1\r\n"
            "content-type: application/octet-stream\r\n\r\nx".encode()
        )
        time.sleep(1.5)
        got = 0
        with contextlib.suppress(OSError):  # reset
            while piece := client.recv(1 << 20):
                got += len(piece)
        assert got < size
        client.close()


@pytest.mark.slow
def test_slow_bodies_do_not_keep_others_out(monkeypatch):
    monkeypatch.setattr("workflows.regions.web.middleware.BodyTimeout.grace_seconds", 0.6)
    with served(app_of(users=())) as port:
        head = f"POST /radiograph HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000\r\n"
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(16)]
        for client in clients:
            client.sendall(f"{head}content-type: application/octet-stream\r\n\r\n".encode() + b"x")
        until(lambda: memory_files() == 16)
        assert post(port, b"next")[0] == 503
        until(lambda: memory_files() == 0)
        assert post(port, b"next") == (200, "<p>next</p>")
        assert b" 408 " in clients[0].recv(1000)
        for client in clients:
            client.close()


@pytest.mark.slow
def test_a_crowd_of_connections_is_limited(monkeypatch):
    with served(
        app_of(users=()), monkeypatch, most_connections=8, head_seconds=60, look_seconds=0.1
    ) as port:
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
        for client in clients[8:]:
            with contextlib.suppress(ConnectionError):
                assert client.recv(10) == b""
        for client in clients:
            client.close()

        def is_served():
            with contextlib.suppress(OSError):
                return post(port, b"next") == (200, "<p>next</p>")

        until(is_served)


@pytest.mark.slow
def test_a_server_that_is_asked_to_end_answers_first():
    gate = Gate()
    answers: list = []
    with served(app_of(gate, users=())) as port:
        client = threading.Thread(target=lambda: answers.append(post(port, b"last")))
        client.start()
        until(lambda: gate.read == ["last"])
        threading.Timer(0.5, gate.go.set).start()
    client.join(10)
    assert answers == [(200, "<p>last</p>")]
