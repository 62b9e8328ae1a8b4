"""Who may use the web page: passwords, delays against guessing, and sessions. Nothing in this module depends on HTTP.

Failed attempts are counted in leaky buckets: each failure adds one, and one drains every `DRAIN_SECONDS`. Above a
number of free failures, the next attempt has to wait for 1, 2, 4, ... seconds, up to a limit. An attempt that comes too
early is refused without a look at its password, and does not count. There are three kinds of buckets:

* the address that attempts come from, whatever user they name;
* the user that attempts name, from all addresses together. It has more free failures than one address can add, so that
  a stranger at one address cannot delay a user at another; many addresses delay a user by `USER.longest` seconds;
* a browser in which the user has logged in before, which it proves by a signed token. It has a bucket of its own and is
  not delayed by failures elsewhere (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").

Users that do not exist are counted in the same way, so that delays do not tell which users exist.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

DRAIN_SECONDS = 60.0
MOST_BUCKETS = 4096  # of one kind; the one with the oldest failure is dropped
UNKNOWN_BUCKETS = 1024  # shared by all names that are no user
IDLE_SECONDS = 3600.0  # after which a session ends
SESSION_SECONDS = 12 * 3600.0  # after which it ends even when in use
MOST_SESSIONS = 8  # of one user; the oldest ends


class Limit(NamedTuple):
    """How many failures are free, and the longest wait after one, in seconds."""

    free: int
    longest: float


ADDRESS = Limit(5, 60.0)
USER = Limit(20, 15.0)
BROWSER = Limit(5, 60.0)


class Attempt(NamedTuple):
    """Whether a password was right. wait: seconds until the next attempt; above 0, the password was not looked at."""

    granted: bool
    wait: float = 0.0


class Delays:
    """Leaky buckets of failures, one per key, all with the same `limit`. clock: seconds, monotonic."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic):
        self._limit = limit
        self._clock = clock
        self._buckets: dict[
            str, tuple[float, float]
        ] = {}  # key -> failures left at its last failure, time of that

    def seconds(self, key: str) -> float:
        """How long the next attempt has to wait; 0 if it may be made now."""
        if key not in self._buckets:
            return 0.0
        level, last = self._buckets[key]
        if level < self._limit.free:
            return 0.0
        wait = min(2.0 ** min(level - self._limit.free, 30.0), self._limit.longest)
        return max(0.0, last + wait - self._clock())

    def add(self, key: str) -> None:
        """Count a failure."""
        now = self._clock()
        level, last = self._buckets.pop(key, (0.0, now))  # the newest is the last in the dictionary
        self._buckets[key] = (max(0.0, level - (now - last) / DRAIN_SECONDS) + 1, now)
        if len(self._buckets) > MOST_BUCKETS:
            del self._buckets[next(iter(self._buckets))]

    def clear(self, key: str) -> None:
        """Forget the failures of a key."""
        self._buckets.pop(key, None)


class Login:
    """Checks passwords of `users` (user -> password); passwords are kept as keyed digests only."""

    def __init__(self, users: Mapping[str, str], clock: Callable[[], float] = time.monotonic):
        self._key = secrets.token_bytes(32)
        self._digests = {
            user: self._digest("password", password) for user, password in users.items()
        }
        self._addresses = Delays(ADDRESS, clock)
        self._users = Delays(USER, clock)
        self._browsers = Delays(BROWSER, clock)

    def attempt(self, user: str, password: str, address: str, known: str = "") -> Attempt:
        """Check the password of a user. known: the token that `remember` gave to this browser, if any."""
        if self._recognises(user, known):
            buckets = [(self._browsers, known)]
        else:
            buckets = [(self._users, self._user_key(user)), (self._addresses, network_of(address))]
        wait = max(delays.seconds(key) for delays, key in buckets)
        if wait > 0:
            return Attempt(False, wait)
        right = hmac.compare_digest(
            self._digests.get(user, bytes(32)), self._digest("password", password)
        )
        if right:
            delays, key = buckets[0]
            delays.clear(
                key
            )  # failures of an address stay: its owner may have an account and guess another's password
            return Attempt(True)
        for delays, key in buckets:
            delays.add(key)
        return Attempt(False)

    def remember(self, user: str) -> str:
        """A token that tells a browser in which `user` has logged in from all others, while the server runs."""
        nonce = secrets.token_hex(16)
        return f"{nonce}.{self._digest(nonce, user).hex()}"

    def _recognises(self, user: str, token: str) -> bool:
        nonce, _, given = token.partition(".")
        expected = self._digest(nonce, user).hex()
        return len(nonce) == 32 and hmac.compare_digest(
            expected.encode(), given.encode("utf-8", "replace")
        )

    def _user_key(self, user: str) -> str:
        if user in self._digests:
            return f"user {user}"
        return f"no user {int.from_bytes(self._digest('unknown', user)[:8]) % UNKNOWN_BUCKETS}"

    def _digest(self, purpose: str, text: str) -> bytes:
        data = purpose.encode("utf-8", "replace") + b"\0" + text.encode("utf-8", "replace")
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()


class Sessions:
    """Users that are logged in, by a token that only their browser has; its hash alone is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._sessions: dict[
            bytes, tuple[str, float, float]
        ] = {}  # hash -> user, times of start and last use

    def start(self, user: str) -> str:
        """A new session; returns its token."""
        self._drop_ended()
        own = [key for key, (owner, _, _) in self._sessions.items() if owner == user]
        for key in own[: max(0, len(own) + 1 - MOST_SESSIONS)]:
            del self._sessions[key]
        token = secrets.token_urlsafe(32)
        now = self._clock()
        self._sessions[_hash(token)] = (user, now, now)
        return token

    def user_of(self, token: str) -> str | None:
        """The user of a session, which counts as use; None if there is no such session or it has ended."""
        self._drop_ended()
        key = _hash(token)
        if key not in self._sessions:
            return None
        user, start, _ = self._sessions[key]
        self._sessions[key] = (user, start, self._clock())
        return user

    def end(self, token: str) -> None:
        """End a session, if there is such a one."""
        self._sessions.pop(_hash(token), None)

    def _drop_ended(self) -> None:
        now = self._clock()
        for key, (_, start, used) in list(self._sessions.items()):
            if now - used > IDLE_SECONDS or now - start > SESSION_SECONDS:
                del self._sessions[key]


def network_of(address: str) -> str:
    """What is counted as one address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
