from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.errors import UsageError
from jetlens.serve.access import ACTION_HEADER, Access, check_token, is_loopback

TOKEN = "correct-horse-7"


def headers(*rows: tuple[str, str]) -> Message:
    message = Message()
    for name, value in rows:
        message[name] = value
    return message


def status(access: Access, *rows: tuple[str, str], method: str = "GET", query: str = "") -> int:
    refusal = access.refusal(method, query, headers(*rows))
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.0.0.1:9999", "127.5.5.5", "[::1]", "[::1]:8080"]
)
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert status(Access("127.0.0.1", 8080), ("Host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example/localhost",
        "a@localhost",
        "127.0.0.1@evil.example",
        "192.168.0.7",
        "0.0.0.0",
        "[::]",
        "127.0.0.1:x",
        "127.0.0.1:",
        "[127.0.0.1",
        "[::1",
        "localhost?",
        "localhost#",
        "127.1",
        "2130706433",
    ],
)
def test_other_names_are_refused_on_loopback(host: str) -> None:
    assert status(Access("127.0.0.1", 8080), ("Host", host)) == 403


def test_no_host_or_two_are_refused_on_loopback() -> None:
    assert status(Access("127.0.0.1", 8080)) == 403
    assert status(Access("127.0.0.1", 8080), ("Host", "localhost"), ("Host", "localhost")) == 403


def test_a_token_comes_by_header_query_or_the_cookie_that_was_given_for_it() -> None:
    access = Access("0.0.0.0", 8080, TOKEN)
    name_and_value = access.cookie.partition(";")[0]
    assert status(access, ("Authorization", f"Bearer {TOKEN}")) == 200
    assert status(access, query=f"token={TOKEN}") == 200
    assert status(access, ("Cookie", f"other=1; {name_and_value}; more=2")) == 200
    assert "HttpOnly" in access.cookie
    assert "SameSite=Strict" in access.cookie
    assert TOKEN not in access.cookie  # cookies go to every port of a host
    assert access.cookie != Access("0.0.0.0", 8080, TOKEN).cookie
    assert status(Access("0.0.0.0", 8080, TOKEN), ("Cookie", name_and_value)) == 401  # of another start


def test_of_several_ways_none_may_be_wrong() -> None:
    access = Access("0.0.0.0", 8080, TOKEN)
    good = access.cookie.partition(";")[0]
    assert status(access, ("Cookie", good), ("Authorization", "Bearer wrong-token")) == 401
    assert status(access, ("Cookie", good), query="token=wrong-token") == 401
    assert status(access, ("Cookie", good), ("Cookie", good)) == 401
    assert status(access, ("Cookie", f"{good}; {good.partition('=')[0]}=x")) == 401
    assert status(access, ("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")) == 401
    assert status(access, query=f"token={TOKEN}&token={TOKEN}") == 401
    assert status(access, query="&".join(["a=1"] * 99 + [f"token={TOKEN}"])) == 401


@given(st.text(max_size=40))
def test_no_other_token_is_taken(text: str) -> None:
    access = Access("0.0.0.0", 8080, TOKEN)
    if text.strip() != TOKEN:
        assert access.refusal("GET", f"token={text}", headers()) is not None or f"token={text}".startswith(f"token={TOKEN}&")
        plain = text.encode("ascii", "ignore").decode().replace("\r", "").replace("\n", "")
        if plain.strip() != TOKEN:
            assert status(access, ("Authorization", f"Bearer {plain}")) == 401


def test_a_change_needs_the_header_and_no_foreign_origin() -> None:
    access, host = Access("127.0.0.1", 8080), ("Host", "localhost:8080")
    action = (ACTION_HEADER, "1")
    assert status(access, host, action, method="POST") == 200
    assert status(access, host, action, ("Origin", "http://localhost:8080"), method="POST") == 200
    assert status(access, host, method="POST") == 403
    assert status(access, host, (ACTION_HEADER, "0"), method="POST") == 403
    for origin in ("http://evil.example", "null", "", "http://localhost", "http://localhost:8081", "http://localhost:8080.evil.example"):
        assert status(access, host, action, ("Origin", origin), method="POST") == 403, origin


def test_other_sites_get_nothing_but_may_link_to_the_page() -> None:
    access, host = Access("127.0.0.1", 8080), ("Host", "localhost:8080")
    for site in ("cross-site", "same-site"):
        assert status(access, host, ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")) == 403
        assert status(access, host, ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")) == 403
        assert status(access, host, ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")) == 200
    assert status(access, host, ("Sec-Fetch-Site", "same-origin")) == 200


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.20", "fe80::1", "128.0.0.1"])
def test_an_address_that_others_reach_needs_a_token(address: str) -> None:
    with pytest.raises(UsageError, match="--view-token") as caught:
        check_token(address, None)
    assert len(str(caught.value)) < 200
    check_token(address, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "has a blank in it", "tab\tinside-it", "nicht-so-hübsch", "line\nbreak-in-it"])
def test_a_token_that_is_none_is_refused_and_never_repeated(token: str) -> None:
    for address in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(UsageError, match="--view-token") as caught:
            check_token(address, token)
        assert not token or token not in str(caught.value)
    assert TOKEN not in repr(Access("0.0.0.0", 8080, TOKEN))


def test_loopback() -> None:
    assert [is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "10.0.0.1", "localhost", "")] == [True] * 3 + [
        False
    ] * 5
