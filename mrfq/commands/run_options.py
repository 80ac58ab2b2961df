"""The options that `mrfq train` and `mrfq quantize` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="lenet300, lenet5, vgg16, resnet18, resnet20, resnet32, resnet44, resnet56 or package.module:factory.",
    ),
]
Data = Annotated[Path | None, typer.Option(help="Folder of the images; the digits need none.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1...  [default: auto]")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value; repeatable.")]
