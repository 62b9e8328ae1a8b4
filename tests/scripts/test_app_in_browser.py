"""scripts/app.py as its user meets it: a real browser logs in, uploads good and bad files, and reads the results."""

import csv
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from app_pieces import ROOT, app, decoded, numbers, write_bad, write_networks, write_phantom
from browser import EXECUTABLE, Browser
from PIL import Image

from training.label_groups import GROUP, LABELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome is installed"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="no gradio: requirements-app.txt"),
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


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Networks, files, and a running server with a login."""
    torch.set_num_threads(1)
    desk = tmp_path_factory.mktemp("desk")
    write_networks(desk, {"bone": 1.5, "tumour": 2.0})
    write_phantom(desk / "Doe_John")
    write_phantom(desk / "Doe_John", "dicom")
    write_bad(desk / "bad")
    (desk / "users").write_text(f"ann:{PASSWORD}\n")
    (desk / "users").chmod(0o600)
    (desk / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--model_path", desk / "fold0", "--mae_path", desk / "mae", "--port", port, "--max_mb", LIMIT,
             "--auth", desk / "users", "--device", "cpu"]  # fmt: skip
    words = [sys.executable, "-c", WATCHED, desk / "connections", ROOT / "scripts" / "app.py", *flags]
    environment = os.environ | {"TMPDIR": str(desk / "tmp"), "GRADIO_SHARE": "True", "http_proxy": "http://192.0.2.1:9"}
    with (desk / "log").open("w") as log:
        server = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, env=environment)
    deadline = time.monotonic() + 180
    while "http://" not in (desk / "log").read_text() and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "http://" in (desk / "log").read_text(), (desk / "log").read_text()
    yield desk, f"http://127.0.0.1:{port}", server
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def browser(desk, tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def result(browser, file) -> str:
    """Upload a file and return the HTML of its result."""
    before = browser.value(f"{LAST}?.dataset.number ?? ''")
    browser.until(f"document.querySelector('{INPUT}') !== null")
    browser.choose_file(INPUT, file)
    browser.until(f"({LAST}?.dataset.number ?? '{before}') !== '{before}'")
    return browser.value("document.querySelector('#result').innerHTML")


def status(browser, path, method="GET", body="null") -> int:
    return browser.value(f"fetch('{path}', {{method: '{method}', body: {body}}}).then((answer) => answer.status)")


def test_a_reading_with_login_good_and_bad_files(desk, browser):
    folder, address, server = desk
    browser.open(address)
    browser.until("document.querySelector('input[type=password]') !== null")
    assert browser.value(f"document.querySelector('{INPUT}')") is None
    for path, method in (("/gradio_api/upload", "POST"), ("/config", "GET"), ("/gradio_api/queue/join", "POST")):
        assert status(browser, path, method, "new FormData()" if method == "POST" else "null") in (401, 403)
    form = "new URLSearchParams({username: 'ann', password: '%s'})"
    began = time.monotonic()
    assert status(browser, "/login", "POST", form % "not the password") == 400 and time.monotonic() - began >= 1
    assert status(browser, "/login", "POST", form % PASSWORD) == 200
    browser.open(address)
    browser.until(f"document.querySelector('{INPUT}') !== null")
    assert "Not a medical device" in browser.value("document.querySelector('.banner').innerText")

    page = result(browser, folder / "Doe_John.png")  # the phantom: what the page says is what the networks say
    networks = app().Networks(app().Config([folder / "fold0"], folder / "mae", "map", device="cpu"))
    wanted = networks.analyse(folder / "Doe_John.png")
    shown = json.loads(browser.value(
        "JSON.stringify([...document.querySelectorAll('#result [data-label]')].map("
        "(row) => [row.dataset.label, row.dataset.probability, row.innerText]))"
    ))  # fmt: skip
    assert {label for label, _, _ in shown} >= {*GROUP["tumour"].labels, *GROUP["fracture"].labels, "implant"}
    for label, probability, text in shown:
        assert float(probability) == pytest.approx(wanted.answer[LABELS.index(label)], abs=2e-6)
        assert f"{100 * float(probability):.1f} %" in text
    for name, part in wanted.parts.items():
        row = browser.value(f"({{...document.querySelector(\"#result [data-part='{name}']\").dataset}})")
        assert row["decision"] == part.decision and row["calibrated"] == ("yes" if part.temperature else "no")
        assert float(row["confidence"]) == pytest.approx(part.confidence, abs=2e-6)
    assert browser.value("document.querySelectorAll('#result rect').length") == len(wanted.regions) > 0
    view = np.asarray(Image.open(io.BytesIO(decoded(page, "image/png"))))
    assert np.array_equal(view, wanted.grey)
    downloads = browser.value("[...document.querySelectorAll('#result a')].map((link) => link.download)")
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
        "Doe_John" not in browser.value("document.body.innerText") and "PHANTOM" not in numbers(dicom)["note"].upper()
    )
    assert numbers(dicom)["size"] == {"height": wanted.size[0], "width": wanted.size[1]}

    for file, told in write_bad(folder / "bad").items():
        assert told in result(browser, file), file
        assert browser.value("document.querySelectorAll('#result .case').length") == 0
    result(browser, folder / "Doe_John.png")
    (folder / "large.png").write_bytes(b"\x89PNG" + os.urandom(int(1.2e6 * LIMIT)))
    browser.choose_file(INPUT, folder / "large.png")  # the earlier result goes, and a sentence comes
    browser.until("document.querySelector('#result').innerText.includes('earlier file is gone')")
    browser.until("/size/i.test(document.body.innerText) && /maximum/i.test(document.body.innerText)")
    browser.open(address)
    assert 'class="case"' in result(browser, folder / "Doe_John.png").replace("'", '"') and server.poll() is None

    # nothing stayed, nothing was asked elsewhere
    files = [path for path in (folder / "tmp").rglob("*") if path.is_file() and path.stat().st_size]
    assert not [path for path in files if path.name != "large.png"], files
    elsewhere = {url for url in browser.requests if not url.startswith((address, "data:", "about:", "blob:"))}
    assert not elsewhere and not [error for error in browser.errors if "Content Security" in error], browser.errors
    assert set((folder / "connections").read_text().split()) <= {"127.0.0.1", "localhost", "None"}
    assert status(browser, "/gradio_api/file=/etc/passwd") in (403, 404)
    settings = browser.value("fetch('/config').then((answer) => answer.json())")
    assert settings["run_history"] is False and settings["analytics_enabled"] is False
    kept = browser.value("JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])")
    assert (
        len(kept) < 500 and "Doe" not in kept and browser.value("indexedDB.databases().then((all) => all.length)") == 0
    )
    log = (folder / "log").read_text()
    assert "Doe" not in log and PASSWORD not in log and "Traceback" not in log


def test_a_second_server_on_the_port_says_so_and_the_first_leaves_nothing(desk):
    folder, address, server = desk
    port = address.rpartition(":")[2]
    words = [sys.executable, ROOT / "scripts" / "app.py", "--model_path", folder / "fold0", "--port", port]
    second = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=180,
                            env=os.environ | {"TMPDIR": str(folder / "tmp")})  # fmt: skip
    assert second.returncode == 2 and f"port {port} of 127.0.0.1 cannot be served" in second.stderr
    assert "Traceback" not in second.stderr and server.poll() is None
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert not list((folder / "tmp").glob("radiograph-page-*"))
