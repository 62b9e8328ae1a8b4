"""scripts/app.py as its user meets it: a real browser logs in, uploads good and bad files, and reads the results.

Other clients send what a browser would not, and count what the server keeps.
"""

import contextlib
import csv
import http.client
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from app_pieces import ROOT, app, decoded, numbers, write_bad, write_networks, write_phantom
from browser import EXECUTABLE, Browser
from PIL import Image

from core.tumour_labels import GROUP, LABELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome is installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("starlette") is None, reason="no starlette: requirements-app.txt"
    ),
]
PASSWORD, LIMIT = "phantoms of 2026", 2.0
# runs the script and notes where it connects to; a hook set first also sees what the script's own hook refuses
WATCHED = """
import runpy, sys
log = open(sys.argv.pop(1), "a", buffering=1)
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        print(arguments[1][0], file=log)
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        print(arguments[0], file=log)
sys.addaudithook(note)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
INPUT = "#upload input[type=file]"
LAST = "document.querySelector('#result [data-number]')"


@contextlib.contextmanager
def running(desk, *flags):
    """A server of scripts/app.py; yields its address and its process. What it says is in desk/log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-c",
        WATCHED,
        desk / "connections",
        ROOT / "scripts" / "app.py",
        *flags,
    ]
    words += ["--port", port, "--max_mb", LIMIT, "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(desk / "tmp"), "http_proxy": "http://192.0.2.1:9"}
    with (desk / "log").open("w") as log:
        server = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, env=environment)
    deadline = time.monotonic() + 300
    while (
        "http://" not in (desk / "log").read_text()
        and server.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    assert "http://" in (desk / "log").read_text(), (desk / "log").read_text()
    yield f"http://127.0.0.1:{port}", server
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Networks, files, and a running server with a login."""
    torch.set_num_threads(1)
    desk = tmp_path_factory.mktemp("desk")
    write_networks(desk, {"bone": 1.5, "tumour": 2.0})
    write_phantom(desk / "Doe_John")
    write_phantom(desk / "Doe_John", "dicom")
    write_bad(desk / "bad")
    (desk / "users").write_text(f"ann:{PASSWORD}\nbob:other {PASSWORD}\n")
    (desk / "users").chmod(0o600)
    (desk / "tmp").mkdir()
    with running(
        desk, "--model_path", desk / "fold0", "--mae_path", desk / "mae", "--auth", desk / "users"
    ) as served:
        yield desk, *served


@pytest.fixture(scope="module")
def browser(desk, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def fill_in(browser, user, password) -> None:
    """Type into the form of the login and send it."""
    fields = {"user": user, "password": password}
    typed = "".join(
        f"document.querySelector('[name={name}]').value = '{text}';"
        for name, text in fields.items()
    )
    browser.value(f"(() => {{ {typed} document.querySelector('#login button').click() }})()")


def result(browser, file) -> str:
    """Upload a file and return the HTML of its result."""
    before = browser.value(f"{LAST}?.dataset.number ?? ''")
    browser.until(f"document.querySelector('{INPUT}') !== null")
    browser.choose_file(INPUT, file)
    browser.until(f"({LAST}?.dataset.number ?? '{before}') !== '{before}'")
    return browser.value("document.querySelector('#result').innerHTML")


def status(browser, path, method="GET", body="null") -> int:
    return browser.value(
        f"fetch('{path}', {{method: '{method}', body: {body}}}).then((answer) => answer.status)"
    )


def test_a_reading_with_login_good_and_bad_files(desk, browser):
    folder, address, server = desk
    browser.open(address)
    browser.until("document.querySelector('input[type=password]') !== null")
    assert browser.value(f"document.querySelector('{INPUT}')") is None
    assert status(browser, "/radiograph", "POST", "'x'") == 401
    fill_in(browser, "ann", "not the password")
    browser.until(
        "document.querySelector('.refusal')?.innerText.includes('do not belong together')"
    )
    fill_in(browser, "ann", PASSWORD)
    browser.until(f"document.querySelector('{INPUT}') !== null")
    assert browser.value("document.cookie") == ""  # scripts do not see the session
    assert "Not a medical device" in browser.value("document.querySelector('.banner').innerText")

    page = result(
        browser, folder / "Doe_John.png"
    )  # the phantom: what the page says is what the networks say
    networks = app().Networks(app().Config([folder / "fold0"], folder / "mae", "map", device="cpu"))
    wanted = networks.analyse(folder / "Doe_John.png")
    shown = json.loads(
        browser.value(
            "JSON.stringify([...document.querySelectorAll('#result [data-label]')].map("
            "(row) => [row.dataset.label, row.dataset.probability, row.innerText]))"
        )
    )
    assert {label for label, _, _ in shown} >= {
        *GROUP["tumour"].labels,
        *GROUP["fracture"].labels,
        "implant",
    }
    for label, probability, text in shown:
        assert float(probability) == pytest.approx(wanted.answer[LABELS.index(label)], abs=2e-6)
        assert f"{100 * float(probability):.1f} %" in text
    for name, part in wanted.parts.items():
        row = browser.value(
            f"({{...document.querySelector(\"#result [data-part='{name}']\").dataset}})"
        )
        assert row["decision"] == part.decision and row["calibrated"] == (
            "yes" if part.temperature else "no"
        )
        assert float(row["confidence"]) == pytest.approx(part.confidence, abs=2e-6)
    assert (
        browser.value("document.querySelectorAll('#result rect').length") == len(wanted.regions) > 0
    )
    view = np.asarray(Image.open(io.BytesIO(decoded(page, "image/png"))))
    assert np.array_equal(view, wanted.grey)
    downloads = browser.value(
        "[...document.querySelectorAll('#result a')].map((link) => link.download)"
    )
    assert downloads == [f"radiograph_result.{end}" for end in ("png", "json", "csv")]
    assert numbers(page)["probabilities"]["malignant"] == pytest.approx(wanted.answer[1], abs=1e-9)
    table = list(csv.DictReader(io.StringIO(decoded(page, "text/csv").decode())))
    assert [row["label"] for row in table] == list(LABELS)
    panel = browser.value("document.querySelector('#result a').href")
    assert Image.open(io.BytesIO(decoded(panel + "'", "image/png"))).width > 700

    # the slider fades the map, the box hides the regions
    opacity = f"getComputedStyle({LAST}.querySelector('img.map')).opacity"
    assert float(browser.value(opacity)) == pytest.approx(0.6)
    browser.value(
        "(() => { const slide = document.querySelector('#opacity input[type=range]'); slide.value = 25;"
        "slide.dispatchEvent(new Event('input', {bubbles: true}));"
        "slide.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    browser.until(f"Math.abs({opacity} - 0.25) < 0.01")
    browser.value("document.querySelector('#regions input').click()")
    browser.until(f"getComputedStyle({LAST}.querySelector('svg')).display === 'none'")

    dicom = result(browser, folder / "Doe_John.dcm")
    assert (
        "Doe_John" not in browser.value("document.body.innerText")
        and "PHANTOM" not in numbers(dicom)["note"].upper()
    )
    assert numbers(dicom)["size"] == {"height": wanted.size[0], "width": wanted.size[1]}

    for file, told in write_bad(folder / "bad").items():
        assert told in result(browser, file), file
        assert browser.value("document.querySelectorAll('#result .case').length") == 0
    result(browser, folder / "Doe_John.png")
    (folder / "large.png").write_bytes(b"\x89PNG" + os.urandom(int(1.2e6 * LIMIT)))
    browser.choose_file(
        INPUT, folder / "large.png"
    )  # the earlier result goes, and a sentence comes
    browser.until(
        "document.querySelector('#result').innerText.includes('The maximum size is 2 MiB')"
    )
    browser.open(address)
    assert (
        'class="case"' in result(browser, folder / "Doe_John.png").replace("'", '"')
        and server.poll() is None
    )

    # nothing stayed, nothing was asked elsewhere
    assert not list((folder / "tmp").iterdir()) and not held(server)
    elsewhere = {
        url for url in browser.requests if not url.startswith((address, "data:", "about:", "blob:"))
    }
    assert not elsewhere and not [
        error for error in browser.errors if "Content Security" in error
    ], browser.errors
    assert set((folder / "connections").read_text().split()) <= {"127.0.0.1", "localhost", "None"}
    kept = browser.value(
        "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])"
    )
    assert (
        kept == "[[],[]]" and browser.value("indexedDB.databases().then((all) => all.length)") == 0
    )
    log = (folder / "log").read_text()
    assert (
        "Doe" not in log
        and PASSWORD not in log
        and "Traceback" not in log
        and "POST /radiograph 200" in log
    )
    assert log.count("POST /radiograph 422") == len(list((folder / "bad").iterdir()))

    browser.value("document.querySelector('#logout button').click()")
    browser.until("document.querySelector('#login') !== null")
    assert status(browser, "/radiograph", "POST", "'x'") == 401


def test_the_policy_blocks_styles_and_scripts_that_are_put_into_the_page(desk, browser):
    _, address, _ = desk
    browser.open(address)
    browser.until("document.querySelector('#login') !== null")
    browser.errors.clear()
    browser.value(
        "document.body.insertAdjacentHTML('beforeend', `<p id=x style='color: rgb(1, 2, 3)'>x</p>"
        "<img src='data:,x' onerror='window.ran = 1'><img src='http://192.0.2.1/x.png'>`)"
    )
    assert browser.value("getComputedStyle(document.querySelector('#x')).color") != "rgb(1, 2, 3)"
    browser.until(
        "document.images.length === 2 && [...document.images].every((image) => image.complete)"
    )
    assert browser.value("window.ran ?? null") is None
    assert len([error for error in browser.errors if "Content Security" in error]) >= 2
    browser.errors.clear()
    browser.requests.clear()


class Client:
    """A user without a browser."""

    def __init__(self, address, user=None, password=""):
        self.host = address.removeprefix("http://")
        self.cookie = ""
        if user:
            headers = {"content-type": "application/x-www-form-urlencoded"}
            _, told, _ = self.ask(
                "POST", "/login", urlencode({"user": user, "password": password}), **headers
            )
            cookies = [value for name, value in told if name.lower() == "set-cookie"]
            self.cookie = "; ".join(cookie.partition(";")[0] for cookie in cookies)

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body) of a request."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection.request(method, path, body, {"cookie": self.cookie} | headers)
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        return answer.status, answer.getheaders(), content

    def upload(self, content):
        """(status, HTML) of a radiograph."""
        status, _, page = self.ask(
            "POST", "/radiograph", content, **{"content-type": "application/octet-stream"}
        )
        return status, page


def held(server) -> list[str]:
    """Uploads that a process holds in memory."""
    found = []
    for link in (
        f"/proc/{server.pid}/fd/{number}" for number in os.listdir(f"/proc/{server.pid}/fd")
    ):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link))
    return [target for target in found if target.startswith("/memfd:radiograph")]


def resident(server) -> float:
    """Memory of a process in MiB."""
    with open(f"/proc/{server.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) / 1024


def test_a_hundred_radiographs_leave_no_memory_behind(desk, tmp_path):
    folder, address, server = desk
    noise = np.random.default_rng(0).integers(0, 256, (800, 700)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    contents = [(tmp_path / "noise.png").read_bytes(), (folder / "Doe_John.png").read_bytes()]
    client = Client(address, "ann", PASSWORD)
    after = []
    for number in range(100):
        status, page = client.upload(contents[number % 2])
        assert status == 200 and "class='case'" in page, page[:500]
        after.append(resident(server))
    assert max(after[-10:]) - max(after[10:20]) < 15, after
    assert not held(server) and not list((folder / "tmp").iterdir())


def test_two_users_at_once_get_their_own_results(desk):
    folder, address, server = desk
    contents = {"ann": folder / "Doe_John.png", "bob": folder / "bad" / "black.png"}
    passwords = {"ann": PASSWORD, "bob": f"other {PASSWORD}"}
    told = {user: [] for user in contents}

    def read(user):
        client = Client(address, user, passwords[user])
        for _ in range(8):
            told[user].append(client.upload(contents[user].read_bytes())[1])

    users = [threading.Thread(target=read, args=[user]) for user in contents]
    for user in users:
        user.start()
    for user in users:
        user.join(240)
    assert len(told["ann"]) == len(told["bob"]) == 8 and not held(server)
    assert all("class='case'" in page for page in told["ann"])
    assert all("every pixel has the same value" in page for page in told["bob"])


def test_strangers_find_nothing(desk):
    folder, address, server = desk
    client = Client(address, "ann", PASSWORD)
    content = (folder / "Doe_John.png").read_bytes()
    for headers, status in (
        ({"origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 421),
    ):
        assert client.ask("GET", "/", **headers)[0] == status
        upload = headers | {"content-type": "application/octet-stream"}
        assert client.ask("POST", "/radiograph", content, **upload)[0] == status
    for path in (
        "/config",
        "/gradio_api/deep_link",
        "/gradio_api/file=/etc/passwd",
        "/page/page.html",
    ):
        assert client.ask("GET", path)[0] == client.ask("POST", path)[0] == 404
    assert Client(address).upload(content)[0] == 401
    began = time.monotonic()
    form = {"content-type": "application/x-www-form-urlencoded"}
    tried = 0
    while time.monotonic() - began < 4:
        body = urlencode({"user": "bob", "password": f"guess {tried}"})
        tried += Client(address).ask("POST", "/login", body, **form)[0] == 403
    assert 1 <= tried < 12
    assert PASSWORD not in (folder / "log").read_text()


def test_a_second_server_on_the_port_says_so_and_the_first_leaves_nothing(desk):
    folder, address, server = desk
    port = address.rpartition(":")[2]
    words = [
        sys.executable,
        ROOT / "scripts" / "app.py",
        "--model_path",
        folder / "fold0",
        "--port",
        port,
    ]
    second = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"TMPDIR": str(folder / "tmp")},
    )
    assert second.returncode == 2 and f"port {port} of 127.0.0.1 cannot be served" in second.stderr
    assert "Traceback" not in second.stderr and server.poll() is None
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    assert not list((folder / "tmp").iterdir()) and "Traceback" not in (folder / "log").read_text()


def test_a_masked_autoencoder_alone(desk, browser, tmp_path):
    folder, _, _ = desk
    (tmp_path / "tmp").mkdir()
    with running(tmp_path, "--mae_path", folder / "mae") as (address, server):
        browser.open(address)
        page = result(browser, folder / "Doe_John.png")
        assert (
            "What the map cannot say" in page
            and browser.value("document.querySelector('#regions')") is None
        )
        numbers_shown = browser.value(
            "[...document.querySelectorAll('[data-number-of]')].map((row) => row.innerText)"
        )
        assert len(numbers_shown) == 3 and numbers(page)["error map"]["coverage"] == 1
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert (tmp_path / "log").read_text().count("POST /radiograph 200") == 1
