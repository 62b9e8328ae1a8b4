"""Scripts never use the network: every file that they read is on this machine.

Two layers: environment variables that keep Hugging Face's libraries offline and stop them from sending tokens and
telemetry, and an audit hook on Python's sockets. Sockets of C and C++ code (gloo, NCCL, CUDA) raise no audit events, so
distributed training between machines is unaffected. For the same reason the hook is not a sandbox.
"""

import ipaddress
import os
import socket
import sys

_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}
_CONNECTS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_LOOKS_UP = (
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
)
_installed: list[bool] = []  # not empty once the hook is there; a hook cannot be removed


def stay_offline() -> None:
    """Keep this process, and the children that it forks, from connecting to other machines, for good.

    Call it before the libraries are imported: Hugging Face's read their settings once.
    """
    use_local_files_only()
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_watch)


def use_local_files_only(keep_proxies: bool = False) -> None:
    """Only the environment variables of `stay_offline`. Values that were set before are replaced."""
    os.environ.update(_SETTINGS)
    if not keep_proxies:  # a proxy on this machine would lead to others
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):
                del os.environ[name]
        os.environ["NO_PROXY"] = "*"


def is_this_machine(host: str | bytes | None) -> bool:
    """Whether a host name or address is the loopback interface, or an address to listen at."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if text in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event: str, arguments: tuple) -> None:
    if not event.startswith("socket."):
        return
    if event in _CONNECTS:
        connection, address = arguments
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(
            address, tuple
        ):
            return
        host = address[0]
    elif event in _LOOKS_UP:
        host = arguments[0][0] if event == "socket.getnameinfo" else arguments[0]
    else:
        return
    # torch's rendezvous of several machines
    known = host == os.environ.get("MASTER_ADDR")
    if not known and not is_this_machine(host) and host != socket.gethostname():
        raise ConnectionRefusedError(
            f"{str(host)[:100]}: not contacted; scripts use files on this machine only"
        )
