"""Scripts use files on this machine and connect to nobody."""

import os
import socket
import sys
from dataclasses import dataclass

import pytest
from fork_harness import exit_status, spawn

from core import flags as cli
from core.flags import flag
from core.system import offline
from core.system.offline import is_this_machine


@dataclass
class Config:
    """A script that does nothing."""

    use_wandb: bool = flag(False, "also log to a service")


ATTEMPTS = {
    "connect": lambda: socket.create_connection(("192.0.2.1", 80), 1),
    "connect_ex": lambda: socket.socket().connect_ex(("192.0.2.1", 80)),
    "IPv6": lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    "look-up": lambda: socket.getaddrinfo("example.org", 80),
    "gethostbyname": lambda: socket.gethostbyname("example.org"),
    "gethostbyaddr": lambda: socket.gethostbyaddr("192.0.2.1"),
    "sendto": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    "sendmsg": lambda: socket.socket(type=socket.SOCK_DGRAM).sendmsg(
        [b"x"], [], 0, ("192.0.2.1", 53)
    ),
}


def refused(attempt) -> bool:
    try:
        attempt()
    except ConnectionRefusedError as error:
        return "this machine only" in str(error)
    except OSError:
        return False
    return False


def in_child(check) -> None:
    """Run `check` in a forked child: the hook cannot be removed."""

    def child() -> int:
        check()
        return 0

    assert exit_status(spawn(child), 30) == 0


def connect_to_itself(family: int, address) -> None:
    with socket.socket(family) as server, socket.socket(family) as client:
        server.bind(address)
        server.listen()
        client.connect(server.getsockname())


@pytest.mark.parametrize("name", ATTEMPTS)
def test_connections_to_others_are_refused(name):
    def check():
        offline._installed.clear()
        offline.stay_offline()
        assert refused(ATTEMPTS[name])

    in_child(check)


def test_this_machine_and_that_of_the_rendezvous_are_reached(tmp_path):
    def check():
        offline.stay_offline()
        connect_to_itself(socket.AF_INET, ("127.0.0.1", 0))
        connect_to_itself(socket.AF_UNIX, str(tmp_path / "s"))
        os.environ["MASTER_ADDR"] = "192.0.2.8"
        socket.getaddrinfo("192.0.2.8", 80)
        socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.8", 9))
        assert refused(lambda: socket.getaddrinfo("192.0.2.9", 80))

    in_child(check)


def test_every_script_that_starts_is_offline():
    def check():
        os.environ |= {
            "HF_HUB_OFFLINE": "0",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "http_proxy": "x",
        }
        sys.argv = ["script.py"]
        states = []
        with pytest.raises(SystemExit):
            cli.run(lambda config: states.append(dict(os.environ)), Config)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            assert states[0][name] == "1"
        assert (
            states[0]["NO_PROXY"] == "*"
            and "HTTPS_PROXY" not in states[0]
            and "http_proxy" not in states[0]
        )
        assert refused(ATTEMPTS["look-up"])

    in_child(check)


def test_a_flag_that_asks_for_a_service_keeps_sockets_and_proxies():
    def check():
        os.environ |= {"HF_HUB_OFFLINE": "0", "HTTPS_PROXY": "http://127.0.0.1:9"}
        sys.argv = ["script.py", "--use_wandb"]
        offline._installed.clear()
        with pytest.raises(SystemExit):
            cli.run(lambda config: 0, Config)
        assert (
            os.environ["HF_HUB_OFFLINE"] == "1"
            and os.environ["HTTPS_PROXY"] == "http://127.0.0.1:9"
        )
        assert not offline._installed

    in_child(check)


def test_only_this_machine_is_this_machine():
    for name in (None, "", b"", "localhost", "127.0.0.1", b"127.3.2.1", "::1", "0.0.0.0", "::"):
        assert is_this_machine(name), name
    for name in (
        "huggingface.co",
        b"fonts.googleapis.com",
        "192.168.1.5",
        "8.8.8.8",
        "localhost.example.org",
        b"\xff",
    ):
        assert not is_this_machine(name), name
