"""Every script in examples/ is run, small, or has its own tests; what they share is tested with them."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TESTED_ELSEWHERE = {
    "build_clipart_shards.py": ROOT / "tests" / "examples" / "test_build_clipart_shards.py",
    "build_emoji_shards.py": ROOT / "tests" / "data" / "test_emoji_shards.py",
    "build_names_shards.py": ROOT / "tests" / "examples" / "test_build_names_shards.py",
    "build_wordnet_shards.py": ROOT / "tests" / "examples" / "test_build_wordnet_shards.py",
    "building.py": ROOT / "tests" / "examples" / "test_building.py",
    "clipart_names.py": ROOT / "tests" / "examples" / "test_build_clipart_shards.py",
    "one_space.py": ROOT / "tests" / "examples" / "test_worked_examples.py",
    "open_clip_distillation.py": ROOT / "tests" / "examples" / "test_open_clip_distillation.py",
}
HERE = {"readme_picture.py"}


def test_no_example_is_without_a_test():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == HERE | set(TESTED_ELSEWHERE)
    for script, test in TESTED_ELSEWHERE.items():
        assert script.removesuffix(".py") in test.read_text()


def test_the_picture_of_the_readme_has_a_row_a_query(tmp_path):
    student = ROOT / "xmodal" / "zoo" / "students" / "emoji-text-to-image"
    out = tmp_path / "picture.png"
    command = [sys.executable, ROOT / "examples" / "readme_picture.py", student, "--out", out]
    command += ["--data", "package://emoji/names-*.tar", "--queries", "a cat", "rain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    picture = Image.open(out)
    assert picture.height == 12 + 2 * (64 + 12)
    assert len(set(picture.convert("L").tobytes())) > 50
