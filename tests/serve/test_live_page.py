import io
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_pipeline import COLOURS, MadePipeline
from PIL import Image
from raw_http import Parts, Reply, ask

from jetlens.errors import NetworkError, UsageError
from jetlens.serve import LivePage
from jetlens.serve.access import ACTION_HEADER, Access
from jetlens.serve.live_page import ROUTES

TOKEN = "Correct-horse-7"
CANARY = "canary-stream"
ACTION = f"{ACTION_HEADER}: 1"
# One address for each pattern of the table; a new route without an example fails.
EXAMPLES = (
    "/",
    "/view.css",
    "/view.js",
    "/icon.svg",
    "/status",
    "/frames",
    "/stream/0",
    "/snapshot/0.png",
    "/snapshot/0.jpg",
    "/pause",
    "/resume",
)
REFUSED = {400, 401, 403, 405, 408, 431}


@pytest.fixture
def pipeline() -> Iterator[MadePipeline]:
    with MadePipeline((CANARY, "second")) as made:
        yield made


@pytest.fixture
def page(pipeline: MadePipeline) -> Iterator[LivePage]:
    with LivePage(pipeline, port=0, interval_s=0.1) as made:
        pipeline.page = made
        yield made


@pytest.fixture
def open_page(pipeline: MadePipeline) -> Iterator[LivePage]:
    """On all addresses of this machine, with a token."""
    with LivePage(pipeline, "0.0.0.0", 0, TOKEN, interval_s=0.1) as made:
        pipeline.page = made
        yield made


def listeners() -> dict[int, set[str]]:
    """Addresses that listen, in the kernel's own words, by port."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:] if Path(f"/proc/net/{name}").exists() else ():
            words = line.split()
            if words[3] == "0A":
                address, _, port = words[1].partition(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


# ---- what is served ---------------------------------------------------------------------------------------------------------


def test_by_default_only_this_machine_reaches_it(page: LivePage) -> None:
    assert listeners()[page.access.port] == {"0100007F"}
    assert page.url == f"http://127.0.0.1:{page.access.port}/"


def test_status_has_every_number_of_the_page(page: LivePage) -> None:
    reply = ask(page)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    said = json.loads(reply.body)
    assert [stream["name"] for stream in said["pipeline"]["streams"]] == [CANARY, "second"]
    assert said["pipeline"]["streams"][0]["dropped"] == {"newer frame": 10, "paused": 2}
    assert said["pipeline"]["streams"][0]["age_p99_ms"] == 87.6
    assert said["pipeline"]["streams"][0]["answer"]["detections"][0]["label"] == "orange"
    assert set(said["machine"]["series"]) == {"cpu_percent", "gpu_percent", "power_w", "memory_used_mib", "hottest_c"}


def test_numbers_that_json_lacks_become_null(page: LivePage, pipeline: MadePipeline) -> None:
    pipeline.fps = float("nan")
    status = json.loads(ask(page).body.decode(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert status["pipeline"]["streams"][0]["fps"] is None


def test_a_stream_is_multipart_with_the_newest_pictures(page: LivePage) -> None:
    with Parts(page, "/stream/1") as parts:
        assert b"multipart/x-mixed-replace; boundary=jetlens-frame" in parts.head
        seen = []
        for _ in range(5):
            headers, jpeg = parts.next()
            picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
            assert picture.shape == (180, 320, 3)
            assert np.abs(picture[100, 100].astype(int) - COLOURS[1]).max() < 8
            assert headers["x-stream"] == "1"
            assert 0 <= int(headers["x-age-ms"]) < 2000
            seen.append(int(headers["x-index"]))
        assert seen == sorted(set(seen))


def test_all_streams_come_over_one_connection(page: LivePage) -> None:
    with Parts(page, "/frames") as parts:
        streams = [parts.next()[0]["x-stream"] for _ in range(8)]
    assert set(streams) == {"0", "1"}


@pytest.mark.parametrize(("path", "kind", "tolerance"), [("/snapshot/0.png", "PNG", 0), ("/snapshot/0.jpg", "JPEG", 60)])
def test_a_snapshot_is_the_whole_frame(page: LivePage, path: str, kind: str, tolerance: int) -> None:
    reply = ask(page, path)
    assert reply.status == 200
    assert re.fullmatch(r'attachment; filename="jetlens-stream-0-frame-\d{6}\.(png|jpg)"', reply.headers["content-disposition"])
    image = Image.open(io.BytesIO(reply.body))
    assert image.format == kind
    pixels = np.asarray(image).astype(int)
    assert pixels.shape == (180, 320, 3)
    assert np.abs(pixels[60:] - COLOURS[0]).max() <= tolerance


def test_pause_and_resume(page: LivePage, pipeline: MadePipeline) -> None:
    assert ask(page, "/pause", ACTION, method="POST").status == 200
    assert pipeline.paused
    assert ask(page, "/resume", ACTION, "Content-Length: 0", method="POST").status == 200
    assert not pipeline.paused


def test_a_change_is_refused_without_the_header_from_elsewhere_or_by_get(page: LivePage, pipeline: MadePipeline) -> None:
    assert ask(page, "/pause", method="POST").status == 403
    assert ask(page, "/pause", ACTION, "Origin: http://evil.example", method="POST").status == 403
    assert ask(page, "/pause", ACTION, "Sec-Fetch-Site: cross-site", method="POST").status == 403
    assert ask(page, "/pause", ACTION).status == 405
    assert ask(page, "/pause", ACTION, "Content-Length: 5", method="POST").status == 413
    assert ask(page, "/pause", ACTION, "Transfer-Encoding: chunked", method="POST").status == 413
    assert not pipeline.paused


@pytest.mark.parametrize(
    "path",
    [
        "/view",
        "/view.js/",
        "//",
        "/./",
        "/../index.html",
        "/%2e%2e/pyproject.toml",
        "/assets/",
        "/serve/index.html",
        "/index.html",
        "/stream/",
        "/stream/2",
        "/stream/-1",
        "/stream/00000",
        "/stream/²",
        "/stream/0/..",
        "/snapshot/0.gif",
        "/snapshot/9.png",
        "/snapshot/0.pngx",
        "http://127.0.0.1/status",
        "*",
    ],
)
def test_nothing_else_is_there(page: LivePage, path: str) -> None:
    assert ask(page, path).status == 404


def test_every_answer_keeps_the_page_to_itself(page: LivePage) -> None:
    for path in (*EXAMPLES, "/none"):
        headers = ask(page, path, most=1000).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "Python" not in headers["server"]
        assert "access-control-allow-origin" not in headers


def test_its_files_name_no_other_place_and_carry_no_inline_code() -> None:
    folder = Path(__file__).parents[2] / "src" / "jetlens" / "assets" / "serve"
    for path in folder.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?:|//[a-z0-9]+\.[a-z]|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son[a-z]+=|style=", text
        ), path


# ---- who is answered --------------------------------------------------------------------------------------------------------


def attempts(page: LivePage) -> list[tuple[str, str, tuple[str, ...]]]:
    """Method, path and headers of requests none of which brings the token in a way that counts."""
    port = page.access.port
    session = page.access.cookie.partition(";")[0].partition("=")[2]
    wrong = {
        "none": (),
        "wrong": ("Authorization: Bearer wrong-horse-77",),
        "empty": ("Authorization: Bearer ",),
        "no value": ("Authorization:",),
        "prefix": (f"Authorization: Bearer {TOKEN[:-1]}",),
        "longer": (f"Authorization: Bearer {TOKEN}x",),
        "lower case": (f"Authorization: Bearer {TOKEN.lower()}",),
        "upper case": (f"Authorization: Bearer {TOKEN.upper()}",),
        "no scheme": (f"Authorization: {TOKEN}",),
        "other scheme": (f"Authorization: Basic {TOKEN}",),
        "twice": (f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}"),
        "right then wrong": (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"),
        "wrong then right": ("Authorization: Bearer wrong", f"Authorization: Bearer {TOKEN}"),
        "list": (f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}",),
        "other header": (f"X-Authorization: Bearer {TOKEN}", f"Proxy-Authorization: Bearer {TOKEN}", f"Token: {TOKEN}"),
        "token as cookie": (f"Cookie: jetlens_view_{port}={TOKEN}",),
        "cookie's prefix": (f"Cookie: jetlens_view_{port}={session[:-1]}",),
        "empty cookie": (f"Cookie: jetlens_view_{port}=",),
        "other port's cookie": (f"Cookie: jetlens_view_1={session}",),
        "cookie twice": (f"Cookie: jetlens_view_{port}={session}", f"Cookie: jetlens_view_{port}={session}"),
    }
    rows = [("GET", path, headers) for path in EXAMPLES for headers in wrong.values()]
    for path in EXAMPLES:
        variants = (
            f"/{path}",
            f"/.{path}",
            path.replace("/", "/%2f", 1),
            f"{path}/",
            path.upper(),
            f"{path}%00",
            f"\\{path}",
            f"/x/..{path}",
        )
        queries = (
            "?token=",
            f"?token={TOKEN[:-1]}",
            f"?token={TOKEN}&token={TOKEN}",
            f"?Token={TOKEN}",
            f"?token={TOKEN}%00",
            f"#token={TOKEN}",
        )
        rows += [("GET", variant, ()) for variant in variants] + [("GET", path + query, ()) for query in queries]
        rows += [(method, path, (ACTION,)) for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get")]
    return rows


def refused(reply: Reply) -> bool:
    """Whether an answer is a refusal that tells nothing of the pipeline."""
    return (
        reply.status in REFUSED
        and CANARY.encode() not in reply.body
        and b"\xff\xd8" not in reply.body
        and "set-cookie" not in reply.headers
    )


def count_refused(page: LivePage, step: int = 1) -> tuple[int, int]:
    rows = attempts(page)[::step]
    answers = [ask(page, path, *headers, method=method, most=4096) for method, path, headers in rows]
    return sum(map(refused, answers)), len(rows)


class NoChecks(Access):
    """The naive server: whoever asks is answered."""

    def refusal(self, method: str, query: str, headers: object) -> None:
        return None


def test_every_route_has_an_example() -> None:
    for _, pattern, _ in ROUTES:
        assert any(re.fullmatch(pattern, path) for path in EXAMPLES), pattern
    assert all(any(re.fullmatch(pattern, path) for _, pattern, _ in ROUTES) for path in EXAMPLES)


def test_without_the_token_nothing_is_answered(open_page: LivePage, pipeline: MadePipeline, capfd: pytest.CaptureFixture[str]) -> None:
    count, total = count_refused(open_page, 5)
    assert count == total
    assert total >= 90
    assert not pipeline.paused
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.release
def test_without_the_token_nothing_is_answered_in_full(open_page: LivePage, record_property) -> None:
    count, total = count_refused(open_page)
    record_property("refused", f"{count}/{total}")
    assert count == total
    assert total >= 300


def test_the_suite_sees_a_server_without_checks(open_page: LivePage) -> None:
    open_page.access = NoChecks("0.0.0.0", open_page.access.port, TOKEN)
    count, total = count_refused(open_page, 7)
    assert count < total / 2


def test_with_the_token_every_route_answers(open_page: LivePage) -> None:
    bearer = f"Authorization: Bearer {TOKEN}"
    for path in EXAMPLES:
        method = "POST" if path in ("/pause", "/resume") else "GET"
        assert ask(open_page, path, bearer, ACTION, method=method, most=1000).status == 200, path


def test_the_token_in_the_address_becomes_a_cookie(open_page: LivePage, capfd: pytest.CaptureFixture[str]) -> None:
    first = ask(open_page, f"/?token={TOKEN}", host="board.local:8080")
    assert first.status == 200
    cookie = first.headers["set-cookie"]
    assert TOKEN not in cookie
    assert TOKEN.encode() not in first.body
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in cookie.split(";")}
    assert ask(open_page, "/status", f"Cookie: {cookie.partition(';')[0]}").status == 200
    assert TOKEN not in "".join(capfd.readouterr())


def test_a_browser_without_the_token_is_asked_for_it(open_page: LivePage) -> None:
    reply = ask(open_page, "/")
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert b"--view-token" in reply.body
    assert b'name="token"' in reply.body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", None])
def test_names_that_were_made_to_point_here_are_refused(page: LivePage, host: str | None) -> None:
    for path in EXAMPLES:
        reply = ask(page, path, host=host, most=4096)
        assert reply.status == 403
        assert CANARY.encode() not in reply.body
    page.access = NoChecks("127.0.0.1", page.access.port)
    assert ask(page, host=host).status == 200  # what the check is for


@pytest.mark.parametrize(
    "bad",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /status\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    ],
)
def test_what_is_no_request_is_no_danger(page: LivePage, bad: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", page.access.port), 5) as connection:
        connection.sendall(bad)
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while piece := connection.recv(4096):
            data += piece
    assert CANARY.encode() not in data
    assert ask(page).status == 200
    assert capfd.readouterr().err == ""


# ---- where it cannot start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])
def test_it_refuses_to_start_for_others_without_a_token(pipeline: MadePipeline, host: str) -> None:
    before = set(listeners())
    with pytest.raises(UsageError, match="--view-token"):
        LivePage(pipeline, host, 0)
    assert set(listeners()) - before == set()


def test_a_port_in_use_is_one_clear_line(page: LivePage, pipeline: MadePipeline) -> None:
    with pytest.raises(
        NetworkError, match=rf"port {page.access.port}: Address already in use; give another port, such as --view \d+"
    ) as caught:
        LivePage(pipeline, port=page.access.port)
    assert len(str(caught.value)) < 300


def test_addresses_that_are_none(pipeline: MadePipeline) -> None:
    with pytest.raises(UsageError, match="1 to 65535"):
        LivePage(pipeline, port=70000)
    with pytest.raises(NetworkError, match="--view-host"):
        LivePage(pipeline, "999.1.1.1.invalid", 0, TOKEN)
    with pytest.raises(NetworkError, match=r"203\.0\.113\.7.*--view-host 127\.0\.0\.1"):
        LivePage(pipeline, "203.0.113.7", 0, TOKEN)


def test_a_failure_inside_is_told_without_the_address(page: LivePage, pipeline: MadePipeline, monkeypatch, capfd) -> None:
    monkeypatch.setattr(pipeline, "status", lambda: 1 / 0)
    assert ask(page, "/status?x=secret-word").status == 500
    said = capfd.readouterr().err
    assert said == "jetlens: the live page failed: ZeroDivisionError: division by zero\n"


def test_starting_twice_is_allowed(pipeline: MadePipeline) -> None:
    with LivePage(pipeline, port=0) as page:
        page.start()
        assert ask(page).status == 200


@pytest.mark.parametrize(
    ("host", "start"), [("localhost", "http://127.0.0.1:"), ("127.0.0.2", "http://127.0.0.2:"), ("::1", "http://[::1]:")]
)
def test_other_addresses_of_this_machine_alone_need_no_token(pipeline: MadePipeline, host: str, start: str) -> None:
    try:
        page = LivePage(pipeline, host, 0)
    except NetworkError as error:
        pytest.skip(str(error))
    with page:
        assert page.url.startswith(start)
        assert urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{page.url}status", timeout=10).status == 200


def test_the_address_for_others_is_one_that_they_can_use(open_page: LivePage) -> None:
    assert re.fullmatch(rf"http://[\w.-]+:{open_page.access.port}/", open_page.url)
    assert "0.0.0.0" not in open_page.url
    assert TOKEN not in open_page.url
