"""Shell completion and docs/options.md are those of the commands as they are, and work in the shells that are here."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from robustcodec.data import COMPLETIONS

SCRIPT = Path(__file__).parent.parent / "scripts" / "command_line.py"


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}")


def ask(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def test_the_files_are_current() -> None:
    specification = importlib.util.spec_from_file_location("command_line", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = module.files()
    assert set(COMPLETIONS.iterdir()) == set(made) - {module.OPTIONS_PAGE}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python scripts/command_line.py"


def test_the_page_of_options_has_values_and_defaults() -> None:
    text = (SCRIPT.parent.parent / "docs" / "options.md").read_text(encoding="utf-8")
    attack = text.partition("## robustcodec attack\n")[2].partition("\n## ")[0].splitlines()
    for row in (
        "| `--target psnr\\|bpp` | Make the picture that is decoded worse, or the file larger. [default: psnr] |",
        "| `--epsilon X` | Budget: mean square of the noise on [0, 1]. [default: 0.0005] |",
        "| `--seed N` | Seed of all randomness. [default: 0] |",
        "| `--device cpu\\|cuda` | Where to search [default: a GPU if there is one]. |",
        "| `--save-all` | Write the noise, both decoded pictures and a comparison, too. |",
    ):
        assert row in attack
    assert "| `--effort N` | Time spent on a better result: 0 (fast) to 3. [0 to 3; default: 0] |" in text


CASES = [
    ("enc", ["encode"]),
    ("models ver", ["verify"]),
    ("encode --target-p", ["--target-psnr"]),
    ("decode --max-s", ["--max-side"]),
    ("models list --js", ["--json"]),
    ("--vers", ["--version"]),
]


@needs("bash")
@pytest.mark.parametrize(("typed", "found"), CASES)
def test_bash(typed: str, found: list[str]) -> None:
    words = ["robustcodec", *typed.split(" ")]
    script = (
        f"source {COMPLETIONS}/robustcodec.bash; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        '_robustcodec; printf "%s\\n" "${COMPREPLY[@]}"; complete -p robustcodec >/dev/null'
    )
    assert ask("bash", "-euc", script) == found


@needs("bash")
def test_bash_completes_file_names_by_itself() -> None:
    script = (
        f"source {COMPLETIONS}/robustcodec.bash; COMP_WORDS=(robustcodec encode ph); COMP_CWORD=2; "
        "_robustcodec || true; echo ${#COMPREPLY[@]}; complete -p robustcodec"
    )
    count, rule = ask("bash", "-euc", script)
    assert count == "0" and "-o default" in rule


@needs("fish")
@pytest.mark.parametrize(("typed", "found"), CASES)
def test_fish(tmp_path: Path, typed: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = f"source {COMPLETIONS}/robustcodec.fish; complete -C 'robustcodec {typed}'"
    assert ask("fish", "--no-config", "-c", script) == found


@needs("zsh")
def test_zsh(tmp_path: Path) -> None:
    """Its completion needs a terminal, so that a test of it is mostly a test of zpty: the file is read, at least."""
    script = f"autoload -U compinit; compinit -D -d {tmp_path}/dump; source {COMPLETIONS}/_robustcodec; "
    assert ask("zsh", "-fc", script + "print $_comps[robustcodec]; whence -w _robustcodec_models_add") == [
        "_robustcodec",
        "_robustcodec_models_add: function",
    ]
