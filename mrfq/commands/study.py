"""`mrfq study`: the options of the command. What it does is in `mrfq.study.command`, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Several = list[str] | None


def study(
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A kind of model; `mrfq generate` lists them.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A model in a file, instead of --model.")] = None,
    settings: Annotated[Several, typer.Option("--set", help="A parameter of the model, key=value; repeatable.")] = None,
    solver: Annotated[
        Several, typer.Option("--solver", "-s", help="A solver, with parameters 'NAME key=value ...'; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each solver from each start.", min=1)] = 20,
    start: Annotated[Several, typer.Option(help="unary, uniform or random; repeatable; by default all.")] = None,
    iterations: Annotated[int, typer.Option(help="Steps of a run.", min=1)] = 200,
    beta: Annotated[
        float | None, typer.Option(help="Where mean-field is held; by default twice its critical value.")
    ] = None,
    basin_starts: Annotated[int, typer.Option(help="Random starts for the basins of each solver.", min=1)] = 100,
    section: Annotated[
        Several,
        typer.Option(help="traces, rates, basins, bistability or schedules; repeatable; by default all that apply."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("study"),
) -> None:
    """Study how solvers converge on one model, and write a report.

    Traces over seeds and starts, fitted rates, basins of attraction, mean-field against temperature, annealing
    schedules. The same command gives the same numbers. Ctrl-C keeps what is finished.
    """
    from mrfq.study.command import Request, study_model

    request = Request(
        model=model,
        file=file,
        settings=tuple(settings or ()),
        solvers=tuple(solver or ()),
        seeds=seeds,
        starts=tuple(start or ()),
        iterations=iterations,
        beta=beta,
        basin_starts=basin_starts,
        sections=tuple(section or ()),
        out=out,
    )
    raise typer.Exit(study_model(request))
