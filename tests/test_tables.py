"""Tables of results in the README and docs/ are those of the committed rows."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tables(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "tables.py"), *arguments]
    environment = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_tables_are_those_of_the_rows() -> None:
    done = tables(ROOT, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_number_that_no_row_has_is_found_and_put_right(tmp_path: Path) -> None:
    for folder in ("scripts", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    page = tmp_path / "docs" / "results.md"
    right = page.read_text(encoding="utf-8")
    marked = right.index("<!-- scripts/tables.py strongest -->")
    row = right.index("| hyper-base |", marked)
    page.write_text(right[:row] + right[row:].replace(" ± ", " ± 1", 1), encoding="utf-8")
    done = tables(tmp_path, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("results.md: tables are not those of the rows")
    assert tables(tmp_path).returncode == 0
    assert page.read_text(encoding="utf-8") == right
