"""The commands of the lab, which need robustcodec[lab]: training, hardening, attacks and export.

Without it each command still exists and says what to install. Its body lives in `robustcodec.lab`.
"""

from importlib.util import find_spec

import typer

from robustcodec.errors import MissingExtra, UsageError

_HELP = {
    "train": "Train a model on a folder of pictures (needs robustcodec[lab]).",
    "export": "Make a model for encode and decode from a training checkpoint (needs robustcodec[lab]).",
}


def add_commands(app: typer.Typer) -> None:
    """Add every command of the lab to the command line."""
    # Options are taken as they come until a command declares its own.
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("train", help=_HELP["train"], context_settings=anything)(train)
    app.command("export", help=_HELP["export"], context_settings=anything)(export)


def train(context: typer.Context) -> None:
    """Train a model."""
    require_lab()
    raise UsageError("train is not part of this release yet")


def export(context: typer.Context) -> None:
    """Export a model."""
    require_lab()
    raise UsageError("export is not part of this release yet")


def require_lab() -> None:
    """Raise MissingExtra unless torch can be imported."""
    if find_spec("torch") is None:
        raise MissingExtra("this command needs PyTorch; install it with: pip install 'robustcodec[lab]'")
