"""Passwords, delays against guessing, sessions: no server and no clock are needed."""

import pytest

from workflows.regions.web.login import (
    IDLE_SECONDS,
    MOST_BUCKETS,
    MOST_SESSIONS,
    SESSION_SECONDS,
    USER,
    Delays,
    Limit,
    Login,
    Sessions,
    network_of,
)

USERS = {"ann": "phantoms of 2026", "bob": "other password"}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def guess(login, clock, seconds, attempt) -> int:
    """How many passwords were looked at in so many seconds, with 75 attempts in each."""
    looked_at = 0
    for number in range(round(75 * seconds)):
        looked_at += attempt(login, number).wait == 0
        clock.now += 1 / 75
    return looked_at


@pytest.mark.parametrize(
    "attempt, most",
    [
        (
            lambda login, n: login.attempt("ann", f"guess {n}", "10.0.0.9"),
            8,
        ),  # one address, one user
        (
            lambda login, n: login.attempt(f"user {n}", f"guess {n}", "10.0.0.9"),
            8,
        ),  # one address, a user each time
        (
            lambda login, n: login.attempt("ann", f"guess {n}", f"10.0.{n % 250}.{n // 250}"),
            24,
        ),  # an address each time
        (
            lambda login, n: login.attempt("ann", f"guess {n}", f"2001:db8::{n:x}"),
            8,
        ),  # addresses of one network
        (
            lambda login, n: login.attempt("ann", f"guess {n}", "10.0.0.9", f"{n:032x}.{'0' * 64}"),
            8,
        ),  # made-up tokens
    ],
)
def test_300_passwords_cannot_be_tried_in_4_seconds(attempt, most, clock):
    login = Login(USERS, clock)
    assert 5 <= guess(login, clock, 4, attempt) <= most


def test_guessing_for_a_day_stays_slow(clock):
    login = Login(USERS, clock)
    looked_at = 0
    for _ in range(24 * 3600 // 20):
        looked_at += login.attempt("ann", "guess", "10.0.0.9").wait == 0
        clock.now += 20
    assert looked_at < 24 * 60 + 20


def test_a_right_password_is_taken_after_mistakes_and_refused_while_it_has_to_wait(clock):
    login = Login(USERS, clock)
    for _ in range(4):
        assert login.attempt("ann", "mistake", "10.0.0.1") == (False, 0)
    assert login.attempt("ann", USERS["ann"], "10.0.0.1").granted
    login.attempt("ann", "mistake", "10.0.0.1")
    early = login.attempt("ann", USERS["ann"], "10.0.0.1")
    assert not early.granted and 0 < early.wait <= 1
    clock.now += early.wait
    assert login.attempt("ann", USERS["ann"], "10.0.0.1").granted
    assert not login.attempt("ann", USERS["bob"], "10.0.0.2").granted
    assert not login.attempt("eve", "", "10.0.0.2").granted


def test_a_stranger_does_not_lock_a_user_out(clock):
    login = Login(USERS, clock)
    token = login.remember("ann")
    for _ in range(900):  # an hour of guesses from one address
        login.attempt("ann", "guess", "10.0.0.9")
        clock.now += 4
    assert login.attempt("ann", USERS["ann"], "10.0.0.1").granted
    for _ in range(20):  # and of 250 addresses
        for number in range(250):
            login.attempt("ann", "guess", f"10.1.0.{number}")
        clock.now += 1
    waits = login.attempt("ann", USERS["ann"], "10.0.0.1")
    assert 0 < waits.wait <= USER.longest
    assert login.attempt(
        "ann", USERS["ann"], "10.0.0.1", token
    ).granted  # where she has logged in before
    assert not login.attempt("bob", USERS["bob"] + "!", "10.0.0.2", token).granted
    clock.now += waits.wait
    assert login.attempt("ann", USERS["ann"], "10.0.0.1").granted


def test_a_token_is_of_one_user_and_has_delays_of_its_own(clock):
    login = Login(USERS, clock)
    token = login.remember("ann")
    assert (
        guess(
            login,
            clock,
            4,
            lambda login, n: login.attempt("ann", f"guess {n}", f"10.0.0.{n}", token),
        )
        <= 8
    )
    other = Login(USERS, clock).remember("ann")  # of another server
    for _ in range(6):
        login.attempt("bob", "guess", "10.0.0.9")
    for stranger in (other, token, login.remember("ann"), "", "x" * 32 + ".", "\udc80." + "0" * 64):
        assert login.attempt("bob", USERS["bob"], "10.0.0.9", stranger).wait > 0, stranger


def test_delays_do_not_tell_who_is_a_user(clock):
    login = Login(USERS, clock)
    waits = {"ann": [], "nobody": []}
    for number in range(40):
        for user in waits:
            waits[user].append(login.attempt(user, "guess", f"10.{len(user)}.{number}.1").wait)
    assert waits["ann"] == waits["nobody"] and waits["ann"][-1] > 0


def test_an_owner_of_an_account_does_not_reset_the_delay_of_an_address(clock):
    login = Login(USERS, clock)
    for _ in range(4):
        login.attempt("ann", "guess", "10.0.0.9")
    assert login.attempt("bob", USERS["bob"], "10.0.0.9").granted
    login.attempt("ann", "guess", "10.0.0.9")
    assert login.attempt("ann", "guess", "10.0.0.9").wait > 0


def test_delays_drain_and_are_bounded(clock):
    delays = Delays(Limit(2, 100.0), clock)
    for number in range(12):
        delays.add("a")
        assert delays.seconds("a") == min(
            100, [0, 1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 100][number]
        )
    clock.now += 3600
    delays.add("a")
    assert delays.seconds("a") == 0
    for number in range(MOST_BUCKETS + 500):
        delays.add(f"key {number}")
    assert len(delays._buckets) == MOST_BUCKETS and delays.seconds("a") == 0


def test_sessions_end(clock):
    sessions = Sessions(clock)
    token = sessions.start("ann")
    assert (
        sessions.user_of(token) == "ann"
        and sessions.user_of(token + "x") is None
        and sessions.user_of("") is None
    )
    assert token not in repr(vars(sessions))
    clock.now += IDLE_SECONDS - 1
    assert sessions.user_of(token) == "ann"
    clock.now += IDLE_SECONDS - 1
    assert sessions.user_of(token) == "ann"
    clock.now += IDLE_SECONDS + 1
    assert sessions.user_of(token) is None
    token = sessions.start("ann")
    for _ in range(int(SESSION_SECONDS / 1800) + 1):
        clock.now += 1800
        sessions.user_of(token)
    assert sessions.user_of(token) is None
    token, other = sessions.start("ann"), sessions.start("bob")
    sessions.end(token)
    assert sessions.user_of(token) is None and sessions.user_of(other) == "bob"
    tokens = [sessions.start("ann") for _ in range(MOST_SESSIONS + 2)]
    assert [sessions.user_of(one) for one in tokens] == [None] * 2 + ["ann"] * MOST_SESSIONS
    assert sessions.user_of(other) == "bob"


@pytest.mark.parametrize(
    "address, network",
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_network_count_as_one(address, network):
    assert network_of(address) == network
