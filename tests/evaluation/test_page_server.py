"""What an upload leaves behind, who gets in, and the page's pieces; without Gradio."""

import asyncio
import html
import os
import time

import numpy as np
import pytest
from fork_harness import exit_status, spawn

from evaluation import page_server
from evaluation.case_page import case_html, map_picture, refusal_html
from evaluation.case_result import make_case
from evaluation.figures import colour_table
from evaluation.page_server import FAILED, Walls, answer, forget_uploads, login, own_folder, shut_off
from training.label_groups import GROUPS, LABELS


def views(count, seed=0):
    rng = np.random.default_rng(seed)
    found = rng.random((count, len(LABELS)))
    for group in GROUPS:
        if group.kind == "softmax":
            found[:, list(group.indices)] /= found[:, list(group.indices)].sum(1, keepdims=True)
    return found


def a_case(error_map=None, regions=(("<b>one", (2.0, 3.0, 20.0, 30.0)),), temperatures=None):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50)).astype(np.uint8)
    back = None if error_map is None else lambda size: error_map
    return make_case(pixels, list(regions), views(1 + len(regions)), temperatures or {}, back)


def test_an_upload_is_gone_once_it_is_read(tmp_path):
    upload, seen = tmp_path / "ab12" / "Doe_John.dcm", []
    upload.parent.mkdir()
    upload.write_bytes(b"pixels")

    def analyse(path):
        seen.append((path.read_bytes(), path.name, path.suffix))
        return a_case()

    page = answer(analyse, str(upload), tmp_path)
    assert "class='case'" in page and "Doe_John" not in page and not list(tmp_path.iterdir())
    assert seen[0][0] == b"pixels" and "Doe_John" not in seen[0][1] and seen[0][2] == ""
    assert "no longer here" in answer(analyse, str(upload), tmp_path) and len(seen) == 1


def test_other_files_of_the_machine_are_never_read(tmp_path):
    inside, secret = tmp_path / "in", tmp_path / "secret"
    inside.mkdir()
    secret.write_text("secret")
    (inside / "link").symlink_to(secret)
    for path in (secret, inside / ".." / "secret", inside / "link", "/etc/passwd"):
        assert "no upload of this page" in answer(lambda path: pytest.fail("read"), str(path), inside)
    assert secret.read_text() == "secret"


def test_what_nobody_expected_is_told_to_the_log_and_replaces_the_result(tmp_path, capsys):
    (tmp_path / "x").write_bytes(b"1")

    def analyse(path):
        raise RuntimeError("a defect")

    page = answer(analyse, str(tmp_path / "x"), tmp_path)
    assert html.escape(FAILED) in page and "a defect" not in page and not list(tmp_path.iterdir())
    assert "RuntimeError: a defect" in capsys.readouterr().err


def test_two_results_are_never_the_same_text():
    case = a_case()
    assert case_html(case) != case_html(case) and refusal_html("no") != refusal_html("no")


def test_names_are_escaped():
    page = case_html(a_case())
    assert "<b>one" not in page and "&lt;b&gt;one" in page
    assert "<script" not in refusal_html("<script>alert(1)</script>")


def test_a_map_is_clear_where_it_knows_nothing():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 2.0, 1.0]])
    picture = np.asarray(map_picture(np.repeat(values, 400, axis=1)))
    top = np.nanquantile(np.repeat(values, 400, axis=1), 0.995)
    assert top == 2.0 and picture[0, 0, 3] == 0 and picture[1, 0, 3] == 0 and picture[1, 400, 3] == 255
    assert tuple(picture[1, 400, :3]) == tuple(colour_table()[255])
    assert picture[0, 400, 3] == round(255 * (64 / 255) ** 0.7) and picture[0, 400, 3] < picture[0, 800, 3]
    assert not np.asarray(map_picture(np.full((4, 4), np.nan)))[..., 3].any()


def test_several_improbable_tumours_are_a_tumour():
    said = views(1)
    said[0, [1, 2, 3, 4]] = 0.18, 0.04, 0.38, 0.40  # malignant, intermediate, benign, none
    said[0, [34, 35, 36]] = 0.25, 0.24, 0.51
    said[0, [0, 37]] = 0.5, 0.2
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50)).astype(np.uint8)
    case = make_case(pixels, [], said, {})
    assert case.parts["tumour"][:2] == ("benign", 0.38) and case.parts["tumour"].present == pytest.approx(0.6)
    assert case.parts["fracture"][:2] == ("no fracture", 0.51) and case.parts["fracture"].present == pytest.approx(0.49)
    assert case.parts["abnormal"][:2] == ("abnormal", 0.5) and case.parts["implant"][:2] == ("no implant", 0.8)
    assert case.parts["bone"][:2] == (LABELS[5 + said[0, 5:34].argmax()], said[0, 5:34].max())
    assert "tumour: benign <small>38 % (any tumour: 60 %)" in case_html(case)


def test_calibration_is_claimed_only_where_it_is():
    bare, part = case_html(a_case()), case_html(a_case(temperatures={"bone": 1.7}))
    assert bare.count("data-calibrated='no'") == 5 and "All probabilities are uncalibrated" in bare
    unknown = "on radiographs that are not stated"
    assert part.count("data-calibrated='yes'") == 1 and f"calibrated {unknown}, temperature 1.70" in part
    assert f"roughly for regions: bone {unknown}." in part and "Not: abnormal, tumour, fracture, implant." in part


def test_folders_are_private_and_those_of_killed_servers_go(tmp_path):
    reading, writing = os.pipe()

    def server() -> int:
        held = own_folder(tmp_path)
        os.write(writing, b"1")
        time.sleep(30)
        return len(held)

    pid = spawn(server)
    os.read(reading, 1)
    (other,) = tmp_path.iterdir()
    mine, lock = own_folder(tmp_path)
    assert other.exists() and mine != other and mine.stat().st_mode & 0o777 == 0o700
    os.kill(pid, 9)
    exit_status(pid, 10)
    (other / "left").write_bytes(b"over")
    last, _ = own_folder(tmp_path)
    assert not other.exists() and last.exists()
    lock.close()


def test_uploads_that_nobody_asks_for_are_forgotten(tmp_path):
    (tmp_path / "old").mkdir()
    for name, age in (("old/a.png", 700), ("b.png", 10), (".lock", 9999)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert forget_uploads(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".lock", "b.png", "old"]
    os.utime(tmp_path / "old", (1, 1))
    assert forget_uploads(tmp_path) == 0 and not (tmp_path / "old").exists()


def test_settings_of_the_environment_do_not_open_what_is_shut(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("GRADIO_SHARE", "GRADIO_MCP_SERVER", "GRADIO_ALLOWED_PATHS", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "True")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "HF_HUB_OFFLINE",
                 "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "NO_PROXY"):  # fmt: skip
        monkeypatch.setenv(name, "before")  # so that all is put back afterwards
    shut_off(tmp_path)
    kept = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert kept == {"GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False",
                    "GRADIO_RUN_HISTORY": "False"}  # fmt: skip
    assert "HTTPS_PROXY" not in os.environ and "http_proxy" not in os.environ and os.environ["HF_HUB_OFFLINE"] == "1"


def test_login_takes_the_password_and_no_other(monkeypatch):
    monkeypatch.setattr(page_server, "SECONDS_AFTER_WRONG_PASSWORD", 0.0)
    ask = login({"ann": "a long password"})
    tries = {("ann", "a long password"): True, ("ann", "a long passwor"): False, ("ann", ""): False,
             ("bob", "a long password"): False, ("", ""): False, ("ann", "\ud800"): False}  # fmt: skip
    assert {pair: asyncio.run(ask(*pair)) for pair in tries} == tries


def test_every_answer_has_the_walls():
    sent = []

    async def application(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public"), (b"a", b"b")]}
        )
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message):
        sent.append(message)

    asyncio.run(Walls(application)({"type": "http"}, None, send))
    headers = dict(sent[0]["headers"])
    assert len(headers) == len(sent[0]["headers"])
    assert headers[b"cache-control"] == b"no-store" and headers[b"a"] == b"b" and len(sent) == 2
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
