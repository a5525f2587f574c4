"""Pages: whole, self-contained, safe to open, readable in a browser wide and narrow, light and dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="Jinja is not installed: pip install 'jetlens[report]'")

from made_runs import picture, row, run

from jetlens.bench.figures import summary as summary_of
from jetlens.bench.files import read_run, write_run
from jetlens.bench.records import Gate
from jetlens.cli import main
from jetlens.report.page import html_page, markdown_page
from jetlens.report.trtexec import summary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "h1",
    "h2",
    "h3",
    "p",
    "section",
    "div",
    "table",
    "tr",
    "th",
    "td",
    "figure",
    "figcaption",
    "img",
    "ul",
}
TAGS |= {"li", "span", "svg", "path", "text", "polygon", "polyline", "rect", "circle", "dl", "dt", "dd", "pre"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=HYPERLINK(1)",
    "\x1b[31mred",
    "a\nb",
    "[x](javascript:alert(1))",
    "`code`",
    "{{ 7*7 }}",
    "</style><b>",
)
WRONG = Gate("numeric", False, "top-1 agrees on 71 %, 99 % needed")


class Seen(HTMLParser):
    """Every tag and attribute that a browser would obey."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}

    def check(self) -> None:
        """Refuses whatever runs or loads."""
        assert self.tags <= TAGS
        assert not [name for name, _ in self.attributes if name.startswith("on") or name in ("href", "srcset", "style")]
        assert all(value.startswith("data:image/") for name, value in self.attributes if name == "src")


def made() -> str:
    return html_page(
        {"run.json": run(row("pytorch", 8.5), row("tensorrt", 1.5), row("wrong", 0.5, gates=[WRONG]))},
        {"run.json": [(True, "30 frames/s: yes")]},
        {},
    )


def test_the_verdict_comes_first_and_a_refused_row_shows_its_failure() -> None:
    text = made()
    assert text.index("30 frames/s: yes") < text.index("Fastest of those that passed") < text.index("<h2>Measured")
    assert 'colspan="7">numeric gate: top-1 agrees on 71 %' in text
    assert "2.00 ms" not in text  # the refused row's p50


def test_the_figure_that_ranks_rows_stands_beside_the_rank() -> None:
    measured = run(row("pytorch", 8.5), row("tensorrt", 1.5))
    best = summary_of(measured, measured.measurements[1])["undisturbed_ms"]
    for text in (html_page({"r": measured}, {}, {}), markdown_page({"r": measured}, {}, {})):
        assert f"1 (best {best:.2f} ms)" in text
        assert "ranked by the best latency" in text


def test_every_model_file_keeps_its_own_hash() -> None:
    fp16 = row("a", 3, facts=replace(row("a", 3).facts, precision="fp16"), model_sha256="f" * 64)  # type: ignore[type-var]
    text = markdown_page({"r": run(row("a", 3), row("b", 3), fp16)}, {}, {})
    assert f"- model cat, fp32: sha256 {'a' * 64}\n- model cat, fp16: sha256 {'f' * 64}\n" in text
    assert f"- model cat: sha256 {'a' * 64}\n" in markdown_page({"r": run(row("a", 3), row("b", 3))}, {}, {})


def test_a_page_of_several_records_joins_them_in_its_conclusions() -> None:
    one, two = (run(row(name, ms), machine={"cpu": "x"}) for name, ms in (("pytorch", 8.5), ("tensorrt", 0.5)))
    for text in (html_page({"one": one, "two": two}, {}, {}), markdown_page({"one": one, "two": two}, {}, {})):
        assert "times as fast as pytorch fp32 of one" in text
        assert "No TensorRT case was measured" not in text


def test_accuracy_is_drawn_with_its_interval() -> None:
    held = {"intervals": {"top1": (0.85, 0.95)}}
    assert html_page({"r": run(row("a", 3, **held), row("b", 9, **held))}, {}, {}).count('class="line within"') == 2
    assert 'class="line within"' not in html_page({"r": run(row("a", 3), row("b", 9))}, {}, {})


def test_the_five_questions_are_answered() -> None:
    for text in (made(), markdown_page({"r": run(row("tensorrt", 2), row("pytorch", 9))}, {}, {})):
        for part in (
            "1. Pointers to the theory",
            "2. The system",
            "3. The results",
            "4. Conclusions",
            "5. Sources",
            "To measure this again",
        ):
            assert part in text


def test_nothing_is_loaded_and_nothing_runs() -> None:
    Seen(made()).check()
    assert "@import" not in made()
    assert "default-src 'none'" in made()


def test_a_page_without_escaping_is_seen_to_run_code() -> None:
    with pytest.raises(AssertionError):
        Seen(f"<td>{HOSTILE[0]}</td>").check()
    with pytest.raises(AssertionError):
        Seen(f'<img alt="{HOSTILE[1]}">').check()


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_texts(name: str) -> None:
    prediction = ({"top": [{"class_id": 0, "label": name, "confidence": 0.5}]},)
    measured = run(row(name, 3, predictions=prediction, engine={name: name, "log": name}), images=(name,), command=("jetlens", name))
    page = html_page({name: measured}, {name: [(False, name)]}, {name: {name: name}})
    Seen(page).check()
    text = "\n".join(line for line in markdown_page({name: measured}, {}, {name: {name: name}}).splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)\[x\]|(?<!\\)`|<script|<img|<b>|\x1b", text)


def test_a_drawing_equal_to_the_references_is_named_so_and_another_shown() -> None:
    text = html_page({"r": run(row("a", 3), row("b", 3, differences=(picture(90),)))}, {}, {})
    assert "a fp32, the same drawing as the reference" in text
    assert "b fp32: difference from the reference" in text


def test_the_command_writes_both_and_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "run.json"
    write_run(record, run(row("a", 3)))
    for name in ("out.html", "out.md"):
        with pytest.raises(SystemExit) as ended:
            main(["report", str(record), "--output", str(tmp_path / name)])
        assert ended.value.code == 0
        assert (tmp_path / name).stat().st_size > 1000
    (tmp_path / "no.json").write_text("{}")
    for given, code, said in (
        ([str(tmp_path / "no.json")], 1, "is no run of jetlens bench"),
        ([str(record), "--output", "x.pdf"], 2, ".html or .md"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["report", *given])
        assert ended.value.code == code
        assert said in capsys.readouterr().err


def test_logs_of_trtexec_are_summarised(shared_data: Path) -> None:
    for path in sorted((shared_data / "logs").glob("trtexec_*.txt")):
        assert summary(path)["TensorRT"]


def browse(profile: Path, *arguments: str) -> str:
    """What a browser without a window prints."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile / 'profile'}"]
    done = subprocess.run([str(CHROMIUM), *flags, *arguments], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_no_table_needs_scrolling_at_1280_pixels(tmp_path: Path) -> None:
    measured = read_run(Path(__file__).parents[2] / "benchmarks/results/bench_h200/bench-tensorrt.json")
    widest = [
        replace(one, case=replace(one.case, backend="onnxruntime", batch=16, lanes=4, size_hw=(720, 1280))) for one in measured.measurements
    ]
    text = html_page({"one": measured, "two": replace(measured, measurements=tuple(widest))}, {}, {})
    script = "document.title = [...document.querySelectorAll('.wide')].map(part => part.scrollWidth - part.clientWidth)"
    page = tmp_path / "page.html"
    page.write_text(re.sub("<meta http-equiv.*?>", "", text) + f"<script>{script}</script>")
    shown = re.search("<title>(.*)</title>", browse(tmp_path, "--window-size=1280,900", "--dump-dom", page.as_uri()))
    assert shown
    beyond = shown[1].split(",")
    assert len(beyond) == text.count('<div class="wide">') > 8
    assert set(beyond) == {"0"}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, False), (1200, True)])
def test_a_browser_shows_it_wide_narrow_and_dark(tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "page.html"
    page.write_text(made())
    look = ["--blink-settings=preferredColorScheme=0"] if dark else []
    shot, size = tmp_path / "page.png", f"--window-size={width},1400"
    browse(tmp_path, *look, size, f"--screenshot={shot}", page.as_uri())
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[1] == width
    ground = pixels[-40:, :8].reshape(-1, 3).mean()
    assert ground < 60 if dark else ground > 230
    # The text keeps its distance from the right edge: nothing but scrolling tables is wider than the page.
    assert (pixels[:140, -8:] == pixels[0, -1]).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200  # charts and pictures, not an empty page
