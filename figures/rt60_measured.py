"""Do rooms ring as long as they were asked to? Measured against nominal RT60 of every room of a bank.

    python figures/rt60_measured.py generic adapted

Reads banks of rooms from the cache; those that are not there are simulated first, in a minute or two.
"""

from __future__ import annotations

from typing import Annotated

import typer

from robust.channels.bank import load_bank
from robust.channels.room_sets import find_rooms
from robust.plots import script
from robust.plots.rooms import draw_rt60
from robust.plots.script import OUT, Dpi, Out

NAME = "rt60_measured"

Sets = Annotated[list[str] | None, typer.Argument(help="Sets of rooms: generic, adapted.", metavar="SET...")]
Count = Annotated[int, typer.Option(help="Rooms of a bank.", min=0)]
Rate = Annotated[int, typer.Option(help="Hz.", min=1000)]
Seed = Annotated[int, typer.Option(help="Of the banks.")]


def main(
    rooms: Sets = None,
    train: Count = 500,
    held_out: Count = 100,
    sample_rate: Rate = 16_000,
    seed: Seed = 0,
    out: Out = OUT,
    dpi: Dpi = 300,
) -> None:
    """Scatter of measured against nominal RT60."""
    names = list(dict.fromkeys(rooms or ["generic"]))
    for name in names:
        find_rooms(name)  # before any is simulated
    tables = {
        name: load_bank(name, train=train, held_out=held_out, sample_rate=sample_rate, seed=seed).table
        for name in names
    }
    script.save_all({NAME: draw_rt60(tables)}, out, dpi)


if __name__ == "__main__":
    script.run(main)
