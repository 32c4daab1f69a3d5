"""The command line: parse, call one function, print.

Nothing heavy (numpy, Pillow, ONNX Runtime, torch) is imported before a command runs, so that --help is quick.
"""

import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from robustcodec import __version__
from robustcodec.cli import attack, decode, encode, evaluate, harden, info, lab, models, sample, scan
from robustcodec.cli.console import FAILED, INTERRUPTED, TERMINATED, Console, exit_code, open_streams
from robustcodec.errors import RobustcodecError
from robustcodec.files import discard

_HELP = """A learned image codec that holds up when its input is hostile.

\b
  robustcodec encode photo.png                 # writes photo.rbc
  robustcodec encode photo.png -o photo.bin -q 5
  robustcodec encode -r album -o small --target-bpp 0.4
  robustcodec decode photo.rbc                 # writes photo.png
  robustcodec decode photo.rbc -o - --format ppm | display -
  robustcodec info photo.rbc

Exit codes: 0 done, 1 some file failed or something is not there, 2 wrong usage, 3 a contract was violated or a scan
found something, 130, 141 and 143 ended by a signal.
"""

app = typer.Typer(
    name="robustcodec",
    help=_HELP,
    no_args_is_help=True,
    # Plain output: names of files can be hostile, and rich would read markup in them.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("info")(info.info)
app.command("scan")(scan.scan)
app.command("sample")(sample.sample)
app.add_typer(models.app, name="models")
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
lab.add_commands(app)
app.command("harden")(harden.harden)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robustcodec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit: errors of ours become one line on standard error and an exit code."""
    open_streams()
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries say to their programmers is noise to users
    try:
        app()
    except RobustcodecError as error:
        Console().error(str(error))
        sys.exit(exit_code(error))
    except MemoryError:
        Console().error("this needs more memory than the machine gives; free some, or take smaller pictures")
        sys.exit(FAILED)
    except OSError as error:  # what the world refuses where no command expected it
        discard(sys.stdout)  # that may be what it refused
        gone = not _current_folder_exists()
        deleted = "the current folder has been deleted; change to one that exists"
        Console().error(deleted if gone else f"{error.filename or 'this machine'}: {error.strerror}")
        sys.exit(FAILED)


def _current_folder_exists() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _leave(number: int, frame: FrameType | None) -> None:
    # An exception rather than the default action, so that temporary files are removed on the way out.
    raise SystemExit(INTERRUPTED if number == signal.SIGINT else TERMINATED)
