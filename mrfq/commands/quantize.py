"""`mrfq quantize`: the options of the command. What it does is in `mrfq.quantize`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrfq.commands.run_options import Data, Device, Model, Seed, Settings

Switch = bool | None


def quantize(
    *,
    model: Model = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="The float weights: .th, .pt, .pth, .bin or .safetensors.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Inputs: digits, mnist, cifar10 or package.module:function.")
    ] = None,
    data: Data = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Label set: 3bit-codebook, 2bit-uniform-g64, ternary, vector-9x256...  [default: 3bit-codebook]"
        ),
    ] = None,
    levels_for: Annotated[
        list[str] | None,
        typer.Option("--levels-for", help="Of layers by name, PATTERN=LEVELS, 'float' for none; repeatable."),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="fast, balanced, best; nearest or gptq.  [default: balanced]")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="What labels a layer, instead of the quality's own.")] = None,
    baselines: Annotated[
        Switch, typer.Option("--baselines/--no-baselines", help="Measure nearest-level rounding and GPTQ, too.")
    ] = None,
    bounds: Annotated[
        Switch, typer.Option("--bounds/--no-bounds", help="How far from optimal each layer is at most.")
    ] = None,
    asymmetric: Annotated[
        Switch, typer.Option("--asymmetric/--no-asymmetric", help="Aim at the float network's outputs.  [default: yes]")
    ] = None,
    centred: Annotated[
        Switch, typer.Option("--centred/--no-centred", help="Moments about the mean.  [default: yes]")
    ] = None,
    shortcut: Annotated[
        Switch, typer.Option("--shortcut/--no-shortcut", help="Make up for the errors of shortcuts.  [default: yes]")
    ] = None,
    rescale: Annotated[
        Switch, typer.Option("--rescale/--no-rescale", help="Scale and shift by least squares.  [default: yes]")
    ] = None,
    distill: Annotated[
        int | None, typer.Option(help="Steps of distillation after the last layer.  [default: 0]")
    ] = None,
    distill_labels: Annotated[
        Switch, typer.Option("--distill-labels/--no-distill-labels", help="Distillation moves labels, too.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Inputs to calibrate with.  [default: 1024]")] = None,
    test: Annotated[
        Switch, typer.Option("--test/--no-test", help="Look at the test images, at the end.  [default: yes]")
    ] = None,
    seed: Seed = None,
    align: Annotated[
        Switch, typer.Option("--align/--no-align", help="Pack labels so that none crosses a byte.  [default: no]")
    ] = None,
    device: Device = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("quantized"),
    config: Annotated[
        Path | None, typer.Option(help="Settings in a TOML file, such as an earlier config.toml; options come first.")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the layers that are done.")] = False,
) -> None:
    """Quantize a trained network without training it, from a few inputs to a packed file and a report.

    Layer by layer in the order of execution, each on the inputs that the quantized layers before it give it.

    Every layer is saved: after Ctrl-C, kill or a full disk, --resume --out DIR goes on.

    Settings beyond the options (damping, held_out, memory, classes...) are those of mrfq.quantize.settings.Settings.
    """
    from mrfq.quantize.command import Request, levels_by_pattern, quantize_by_request

    options: dict[str, Any] = {
        "model": model,
        "weights": None if weights is None else str(weights),
        "calibration": calibration,
        "data": None if data is None else str(data),
        "levels": levels,
        "levels_for": levels_by_pattern(levels_for) if levels_for else None,
        "quality": quality,
        "solver": solver,
        "baselines": baselines,
        "bounds": bounds,
        "asymmetric": asymmetric,
        "centred": centred,
        "shortcut": shortcut,
        "rescale": rescale,
        "distill": distill,
        "distill_labels": distill_labels,
        "samples": samples,
        "evaluate": test,
        "seed": seed,
        "align": align,
        "device": device,
    }
    given = {name: value for name, value in options.items() if value is not None}
    raise typer.Exit(quantize_by_request(Request(given, tuple(settings or ()), config, out, resume)))
