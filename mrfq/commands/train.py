"""`mrfq train`: the options of the command. What it does is in `mrfq.train`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="lenet300, lenet5, vgg16, resnet18, resnet20, resnet32, resnet44, resnet56 or package.module:factory.",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, mnist or cifar10.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the images; the digits need none.")] = None,
    method: Annotated[
        str | None, typer.Option(help="A method of quantization, or float for none.  [default: pmf]")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="binary, ternary, 2bit, 3bit...  [default: binary]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1...  [default: auto]")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")] = Path("train"),
    config: Annotated[
        Path | None, typer.Option(help="Settings in a TOML file, config.toml of a run say; options come first.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value; repeatable.")
    ] = None,
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
