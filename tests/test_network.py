"""No name from a file or a flag makes a library ask a hub: a local server stands in for one, and counts."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture
def hub():
    """(address of the server, paths that it was asked for)."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_no_name_reaches_a_hub(hub, tmp_path):
    """Every reader and flag. At its end the program asks timm itself for a network, which the server does notice."""
    address, asked = hub
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_secret",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
    }
    done = subprocess.run(
        [sys.executable, TESTS / "no_hub.py", tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout.splitlines()[0])
    assert len(outcomes) > 130
    for case, outcome in outcomes.items():
        if case.endswith("harmless keys"):
            assert outcome == "read", (case, outcome)
        else:
            assert outcome.startswith(
                ("ValueError: ", "FileNotFoundError: ", "SystemError: 2: ")
            ), (case, outcome)
            assert "Traceback" not in outcome and len(outcome.splitlines()) == 1, (case, outcome)
    named = [
        case
        for case, outcome in outcomes.items()
        if "evil" in case and "is not a network of timm" in outcome
    ]
    assert len(named) > 20
    assert asked[0] == "/all-done" and any("evil/control" in path for path in asked), asked
