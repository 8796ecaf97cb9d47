"""Every code block of the README and the docs is run, and its printed result compared with the one shown.

Blocks of a page run in order in one empty folder: `python` blocks share their names, `shell` blocks run under bash. A
`text` block right after one is what it prints on stdout, words and numbers in order; `...` stands for any one word.
Measured numbers may differ by 2 %, times and speeds by anything: they depend on the machine.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from itemic.evaluation.tables import write_tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = {"chat.md", "fresh.md", "language.md", "postgresql.md", "semantic-ids.md", "tuning.md"}
"""Pages that take long, of which other tests show what matters: they are slow tests."""
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in LONG)) for page in PAGES]
)
def test_the_code_blocks_of_a_page_run_and_print_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    text = page.read_text()
    blocks = [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]
    names: dict = {}
    for number, (language, code, line) in enumerate(blocks):
        if language not in ("python", "shell"):
            continue
        printed = run_python(code, names) if language == "python" else run_shell(code)
        following = blocks[number + 1] if number + 1 < len(blocks) else ("", "", 0)
        if following[0] == "text":
            assert same(following[1], printed), (
                f"{page.name}:{line} printed\n{printed}\nbut the page shows\n{following[1]}"
            )


def run_python(code, names):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "a code block", "exec"), names)
    return out.getvalue()


def run_shell(code):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=False,
    )
    assert done.returncode == 0, f"{code}\nended with {done.returncode}: {done.stderr}"
    return done.stdout


TIMES = [(r"([\d.,]+ %) +[\d.,]+ +[\d.,]+(?=  )", r"\1 T Q"), (r"[\d.,]+ s\b", "T s")]
"""Fit seconds and queries per second of a comparison, which stand after the coverage; seconds elsewhere."""


def same(shown, printed):
    for pattern, mask in TIMES:
        shown, printed = re.sub(pattern, mask, shown), re.sub(pattern, mask, printed)
    expected, found = shown.split(), printed.split()
    return len(expected) == len(found) and all(map(alike, expected, found))


def alike(expected, found):
    if expected in (found, "..."):
        return True
    numbers = [[float(n) for n in re.findall(r"\d+\.\d+", word)] for word in (expected, found)]
    words = [re.sub(r"\d+\.\d+", "N", word) for word in (expected, found)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.002)


def test_outputs_may_differ_in_measured_digits_and_times_only():
    row = "ease  0.1446  0.1331-0.1558  63.2 %  2.13  5,737   -9.8 %  p < 0.001"
    assert same(row, row.replace("0.1446", "0.1449").replace("2.13", "9.99").replace("5,737", "11"))
    assert not same(row, row.replace("0.1446", "0.1546"))
    assert not same(row, row.replace("ease", "ials"))
    assert not same(row, row.replace("  p < 0.001", ""))


@pytest.mark.parametrize("name", ["README.md", "docs/choosing.md", "docs/chat.md"])
def test_the_tables_of_a_page_are_those_of_the_registry_and_the_results(name, tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text((ROOT / name).read_text())
    write_tables(copy, ROOT / "results")
    mend = f"bring it up to date: python -m itemic.evaluation.tables {name}"
    assert copy.read_text() == (ROOT / name).read_text(), mend


def test_there_are_blocks_to_run():
    assert sum(len(BLOCK.findall(page.read_text())) for page in PAGES) > 5
