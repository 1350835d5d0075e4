"""Every block of the README and of docs/ is true: Python and YAML blocks run here, shell lines too."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from genas.config import load_run
from supernet import read_table

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "cluster.md"})]
"""But for the one whose blocks need several machines: it has a test of its own."""


def blocks(language):
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL), 1):
            found.append(pytest.param(text, id=f"{page.name}-{number}"))
    return found


@pytest.mark.parametrize("text", blocks("python"))
def test_python(text, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(text)
    answer = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml(text, tmp_path):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(text)
    assert load_run(recipe, logs=tmp_path).name == "recipe"


@pytest.mark.parametrize("text", blocks("json"))
def test_table(text, tmp_path):
    table = tmp_path / "table.jsonl"
    table.write_text(text)
    assert len(read_table(table)) == 1


@pytest.mark.parametrize("text", blocks("sh"))
def test_shell(text, tmp_path):
    """make is what CI itself calls; everything else runs here, one line after the other."""
    (tmp_path / "logs").symlink_to(ROOT / "logs") if not (tmp_path / "logs").exists() else None
    runs = tmp_path / "runs"
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] == "make":
            continue
        assert words[0] == "genas"
        if words[1] in ("fit", "search", "front", "report"):
            words += ["--logs", str(runs)]
        answer = subprocess.run(
            [sys.executable, "-m", "genas.cli", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert answer.returncode == 0, answer.stderr


def test_the_readme_fits_on_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
