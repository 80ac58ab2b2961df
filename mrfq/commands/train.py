"""`mrfq train`: the options of the command. What it does is in `mrfq.train`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrfq.commands.run_options import Data, Device, Model, Seed, Settings


def train(
    *,
    model: Model = None,
    dataset: Annotated[str | None, typer.Option(help="digits, mnist or cifar10.")] = None,
    data: Data = None,
    method: Annotated[
        str | None, typer.Option(help="A method of quantization, or float for none.  [default: pmf]")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="binary, ternary, 2bit, 3bit...  [default: binary]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("train"),
    config: Annotated[
        Path | None, typer.Option(help="Settings in a TOML file, config.toml of a run say; options come first.")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Train a network to discrete weights, from images to a packed file.

    A validation split chooses among the epochs; the test images are looked at once, at the end.

    Every epoch is saved: after Ctrl-C, kill or a full disk, --resume --out DIR goes on to the same bits.

    Settings beyond the options (batch_size, optimizer, rate, scale, init...) are those of mrfq.train.Settings.
    """
    options: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "data": None if data is None else str(data),
        "method": method,
        "levels": levels,
        "epochs": epochs,
        "seed": seed,
        "device": device,
    }
    from mrfq.train.command import Request, train_network

    given = {name: value for name, value in options.items() if value is not None}
    raise typer.Exit(train_network(Request(given, tuple(settings or ()), config, out, resume)))
