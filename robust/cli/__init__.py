"""The `robust` command: parses, calls the API, prints."""

from __future__ import annotations

import sys
import warnings

import typer

from robust.cli.air import air
from robust.cli.attack import attack
from robust.cli.certify import certify
from robust.cli.compare import compare
from robust.cli.curve import curve
from robust.cli.doctor import doctor
from robust.cli.generate import generate
from robust.cli.geometry import geometry
from robust.cli.listing import data, victims
from robust.cli.music import music
from robust.cli.noise import noise
from robust.cli.pretrain import pretrain
from robust.cli.report import report
from robust.cli.sticker import sticker
from robust.cli.study import study
from robust.cli.thresholds import thresholds
from robust.cli.train import train
from robust.cli.universal import universal
from robust.memory import keep_freed_memory

app = typer.Typer(
    name="robust",
    help="How far can you trust your audio or audio-visual event classifier?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    attack,
    curve,
    noise,
    air,
    certify,
    geometry,
    music,
    sticker,
    study,
    report,
    compare,
    universal,
    thresholds,
    train,
    pretrain,
    generate,
    victims,
    data,
    doctor,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Runs the command line; a user's mistake ends in one message and exit code 2."""
    from attacks.errors import RobustError

    keep_freed_memory()
    warnings.formatwarning = _one_line
    try:
        app()
    except RobustError as error:
        print(f"robust: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("robust: interrupted; go on with the same --out (and --resume, but for studies)", file=sys.stderr)
        sys.exit(130)


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the source line that Python shows to programmers."""
    return f"robust: warning: {message}\n"


__all__ = ["app", "main"]
