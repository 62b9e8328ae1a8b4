"""Filter, log and time limit around an ASGI app that answers at once: no server, no library."""

import asyncio

import pytest
from asgi_client import ask, asked

from workflows.regions.web.middleware import (
    AccessLog,
    BodyTimeout,
    RequestFilter,
    as_address,
    host_name,
    protect,
)

SEEN: list[str] = []


async def inner(scope, receive, send):
    """Answers with what it was sent; the path says how."""
    SEEN.append(scope["path"])
    body = b""
    if scope["path"] == "/raises":
        raise ValueError("CANARY^NAME")
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"public")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def forgotten():
    SEEN.clear()


def filtered(*names):
    return RequestFilter(inner, {"localhost", "127.0.0.1", "::1", *names})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:7860",
        "127.0.0.1",
        "localhost:8000",
        "LOCALHOST",
        "[::1]:7860",
        "reader.example.org",
    ],
)
def test_own_names_are_served(host):
    assert ask(filtered("Reader.example.org"), headers={"host": host}).status == 200 and SEEN == [
        "/"
    ]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil",
        "",
        "localhost:x",
        "10.0.0.1",
        "2130706433",
        "[::1",
        "localhost evil",
        "http://localhost",
    ],
)
def test_other_names_are_refused(host):
    assert ask(filtered("reader.example.org"), headers={"host": host}).status == 421 and not SEEN


def test_the_address_that_was_connected_to_is_served():
    scope_of = RequestFilter(inner, {"reader.example.org"})
    assert (
        ask(scope_of, headers={"host": "127.0.0.1:9"}).status == 200
    )  # asgi_client connects to 127.0.0.1
    assert ask(scope_of, headers={"host": "127.0.0.2:9"}).status == 421
    assert host_name("[2001:db8::1]:80") == "2001:db8::1"
    assert as_address("::ffff:10.0.0.1") == as_address("10.0.0.1") != as_address("10.0.0.2")
    assert as_address("localhost") is None


@pytest.mark.parametrize(
    "method, headers, status",
    [
        ("POST", {"origin": "http://127.0.0.1:7860"}, 200),
        ("POST", {"origin": "https://127.0.0.1:7860"}, 200),
        ("GET", {"origin": "http://127.0.0.1:7860"}, 200),
        ("POST", {}, 200),
        ("GET", {"sec-fetch-site": "cross-site"}, 200),
        ("POST", {"sec-fetch-site": "same-origin"}, 200),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"origin": ""}, 403),
        ("POST", {"origin": "http://127.0.0.1:80"}, 403),
        ("POST", {"origin": "http://127.0.0.1"}, 403),
        ("POST", {"origin": "http://127.0.0.1:7860.evil.example"}, 403),
        ("GET", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "file://127.0.0.1:7860"}, 403),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("PUT", {"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(method, headers, status):
    assert ask(filtered(), method, headers=headers).status == status
    assert bool(SEEN) == (status == 200)


@pytest.mark.parametrize("path, host", [("/", "127.0.0.1"), ("/", "evil.example")])
def test_every_answer_forbids_to_load_and_to_keep(path, host):
    headers = ask(filtered(), path=path, headers={"host": host}).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"] == "'none'"
        and policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    )
    assert (
        "unsafe" not in headers["content-security-policy"]
        and policy["script-src"] == policy["style-src"] == "'self'"
    )
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin" and headers["x-frame-options"] == "DENY"
    assert (
        headers["cross-origin-resource-policy"]
        == headers["cross-origin-opener-policy"]
        == "same-origin"
    )


def test_the_log_names_neither_files_nor_messages(capsys):
    lines: list[str] = []
    app = AccessLog(inner, {"/", "/raises"}, lines.append)
    assert ask(app, "POST", "/", chunks=[b"x"]).status == 200
    assert ask(app, "GET", "/CANARY^NAME.dcm").status == 200
    assert ask(app, "CANARY", "/").status == 200
    assert ask(app, "GET", "/raises").status == 500
    told = capsys.readouterr().err
    assert [line.split(" ", 3)[2:] for line in lines] == [
        ["127.0.0.1", "POST / 200 0.0 s"],
        ["127.0.0.1", "GET (another path) 200 0.0 s"],
        ["127.0.0.1", "(another method) / 200 0.0 s"],
        ["127.0.0.1", "GET /raises 500 0.0 s"],
    ]
    assert (
        "ValueError, raised here:" in told
        and "test_page_middleware.py" in told
        and "in inner" in told
    )
    assert "raise ValueError" in told or "raises" in told
    assert "CANARY^NAME" not in "".join(lines) and told.count("CANARY") == told.count(
        'ValueError("CANARY^NAME")'
    )


def paced(**limits):
    return type("Limited", (BodyTimeout,), limits)(inner)


def test_a_body_that_comes_in_time_passes():
    app = paced(grace_seconds=0.3, slowest=20)
    answer = ask(
        app, "POST", chunks=[b"12345", 0.1, b"67890", 0.3, b"!" * 10, 0.2, b"end"]
    )  # 20 bytes are a second
    assert (
        answer.status == 200
        and answer.body == b"1234567890!!!!!!!!!!end"
        and "connection" not in answer.headers
    )


@pytest.mark.parametrize(
    "pieces", [[b"1", 5], [b"1", *[0.05, b"2"] * 100]], ids=["silent", "drop by drop"]
)
def test_a_slow_body_is_cut(pieces):
    async def timed():
        began = asyncio.get_running_loop().time()
        answer = await asked(
            paced(grace_seconds=0.3, slowest=1e4), "POST", chunks=[*pieces, b"end"]
        )
        return answer, asyncio.get_running_loop().time() - began

    answer, seconds = asyncio.run(timed())
    assert answer.status == 408 and answer.headers["connection"] == "close" and 0.25 < seconds < 2


def test_errors_about_a_client_that_has_left_are_not_told():
    async def raises(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            continue
        raise RuntimeError("left")

    slow = type("Limited", (BodyTimeout,), {"grace_seconds": 0.1})(raises)
    assert ask(slow, "POST", chunks=[b"1", 5, b"2"]).status == 408
    assert ask(BodyTimeout(raises), "POST", chunks=[b"1", b"2"], leaves=True).status == 0
    with pytest.raises(RuntimeError, match="left"):
        ask(BodyTimeout(raises), "POST", chunks=[b"1"], leaves_after=True)


def test_refusals_are_read_to_the_end_too(capsys):
    app = protect(inner, ["localhost"], ["/"])
    answer = ask(app, "POST", headers={"host": "evil.example"}, chunks=[b"x" * 100] * 50)
    assert answer.status == 421 and answer.headers["connection"] == "close" and not SEEN
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "POST / 421" in capsys.readouterr().out


def test_an_early_answer_reads_the_rest_and_closes():
    answer = ask(BodyTimeout(inner), "POST", "/early", chunks=[b"x" * 100] * 50)
    assert answer.status == 200 and answer.headers["connection"] == "close"
    assert "connection" not in ask(BodyTimeout(inner), "GET", "/early").headers

    async def timed():
        began = asyncio.get_running_loop().time()
        await asked(paced(linger_seconds=0.2), "POST", "/early", chunks=[b"1", *[0.05, b"2"] * 100])
        return asyncio.get_running_loop().time() - began

    assert 0.15 < asyncio.run(timed()) < 2


def test_a_client_that_leaves_gets_no_answer():
    assert ask(BodyTimeout(inner), "POST", chunks=[b"1", b"2"], leaves=True).status == 0
