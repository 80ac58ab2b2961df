"""`mrfq export`: the options of the command. What it does is in `mrfq.commands.export_file`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    file: Annotated[Path, typer.Argument(help="A packed network, .safetensors.")],
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Its architecture: lenet300, lenet5, vgg16, resnet18, resnet20, resnet32, resnet44, resnet56 or "
            "package.module:factory.",
        ),
    ],
    shapes: Annotated[
        list[str],
        typer.Option("--input", "-i", help="Shape of an input, 1x3x32x32 or 1x128:int64; repeatable, in order."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file.")],
    classes: Annotated[int, typer.Option(help="Outputs of the network.", min=1)] = 10,
    accuracy_level: Annotated[
        int, typer.Option(help="Of MatMulNBits; 0: float32, 4: inputs of a layer in 8 bits, fast.", min=0, max=4)
    ] = 0,
    others: Annotated[
        str, typer.Option(help="What MatMulNBits does not take: labels (packed, decoded on loading), float or error.")
    ] = "labels",
    fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Keep the first axis of the inputs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a packed network to an ONNX file; weights on a grid stay small.

    Linear layers on evenly spaced levels become MatMulNBits of onnxruntime, in 2, 4 or 8 bits. The result is run by
    onnxruntime, if that is installed, and compared with torch.
    """
    from mrfq.commands.export_file import Request, export_file

    request = Request(file, model, tuple(shapes), out, classes, accuracy_level, others, fixed_batch, as_json)
    export_file(request)
