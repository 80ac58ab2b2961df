"""The command line. Commands import what they need when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrfq.commands.export import export
from mrfq.commands.quantize import quantize
from mrfq.commands.study import study
from mrfq.commands.train import train
from mrfq.errors import MrfqError

if TYPE_CHECKING:
    from rich.console import Console

    from mrfq.compare.results import Results

app = typer.Typer(
    name="mrfq",
    help="Quantization as labelling: networks and Markov random fields, one core, interchangeable solvers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every user error is one message on stderr and exit code 2.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.
    """
    try:
        app(args=arguments)
    except MrfqError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")


def _fail(message: str) -> None:
    typer.echo(f"mrfq: {message}", err=True)
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        import mrfq

        typer.echo(f"mrfq {mrfq.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
def compare(
    suite: Annotated[
        str, typer.Argument(help="A suite file (TOML, or the suite.json of a comparison), or a packaged suite.")
    ] = "default",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("report"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Worker processes; 0: one per core.", min=0)] = 0,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds, instead of the suite's.", min=1)] = None,
    solver: Annotated[list[str] | None, typer.Option(help="Only this solver of the suite; repeatable.")] = None,
    problem: Annotated[list[str] | None, typer.Option(help="Only this problem of the suite; repeatable.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished runs again.")] = False,
) -> None:
    """Compare solvers on a suite of problems, and write a report.

    Results do not depend on --jobs. Finished runs are kept, so the same command resumes after Ctrl-C.
    """
    from rich.console import Console

    from mrfq.compare.console import Reporter, summary_table
    from mrfq.compare.reading import load_suite, seed_list
    from mrfq.compare.report import write_all
    from mrfq.compare.results import Results
    from mrfq.compare.runner import run_suite

    chosen = load_suite(suite).select(
        problems=problem or (), solvers=solver or (), seeds=seed_list(seeds, "--seeds") if seeds else ()
    )
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    with Reporter(console, errors) as reporter:
        outcome = run_suite(chosen, out, reporter, jobs=jobs or -1, fresh=fresh)
    results = Results.of(outcome)
    if outcome.records:
        report = write_all(results, out)
        console.print()
        console.print(summary_table(results))
        console.print(f"\nreport: {report.resolve()}", soft_wrap=True, markup=False)
    _end(results, errors)


def _end(results: Results, errors: Console) -> None:
    """Say what went wrong, if anything did, and exit accordingly."""
    outcome = results.outcome
    if outcome.interrupted:
        total = sum(1 for _ in outcome.suite.cells())
        text = f"interrupted: {len(outcome.records)} of {total} runs are finished and kept; the same command resumes"
        errors.print(text, soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        cell, record = outcome.failed[0]
        text = (
            f"{len(outcome.failed)} of {len(outcome.records)} runs failed, the first: "
            f"{cell.problem.name}, {cell.solver}, seed {cell.seed}: {record.status}"
        )
        errors.print(text, soft_wrap=True, markup=False)
        raise typer.Exit(1)


@app.command()
def solvers(
    name: Annotated[str | None, typer.Argument(help="A solver, for its parameters, defaults and reference.")] = None,
) -> None:
    """List the solvers and what they need, or describe one."""
    from rich.console import Console

    from mrfq.compare.catalogue import describe_solver, solver_table

    console = Console(highlight=False)
    console.print(solver_table() if name is None else describe_solver(name))


@app.command()
def solve(
    file: Annotated[Path, typer.Argument(help="A model: .uai, .LG, .qpbo, .rudy or .json, also with .gz or .xz.")],
    *,
    solver: Annotated[str, typer.Option("--solver", "-s", help="A solver; `mrfq solvers` lists them.")] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the solver, key=value; repeatable.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Observed variables (.evid); the others are solved for.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds.", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    max_iters: Annotated[int | None, typer.Option(help="Steps of the solver, 1000 by default.", min=0)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the result as JSON.")] = None,
    mpe: Annotated[Path | None, typer.Option(help="Write the labels as an MPE result file.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the history of the run, .csv or .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Minimise the energy of a model in a file.

    Ctrl-C stops after the step that is running and prints the best labelling so far; a second one aborts. In JSON,
    numbers that are unknown or infinite are null: the energy if all labellings seen are forbidden, the bound and the
    gap if nothing is proved.
    """
    from mrfq.commands.solve import Request, solve_file

    request = Request(
        file=file,
        solver=solver,
        settings=tuple(settings or ()),
        evidence=evidence,
        time_limit=time_limit,
        seed=seed,
        max_iters=max_iters,
        out=out,
        mpe=mpe,
        trace=trace,
        as_json=as_json,
    )
    raise typer.Exit(solve_file(request))


@app.command()
def generate(
    kind: Annotated[str | None, typer.Argument(help="A kind of model; without one, they are listed.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; its name says the format.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the model, key=value; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.", min=0)] = 0,
) -> None:
    """Write a seeded toy model to a file, or list the kinds there are."""
    from rich.console import Console

    from mrfq.commands.generate import check_kind, generate_file, kind_table
    from mrfq.errors import InvalidParameterError

    console = Console(highlight=False)
    if kind is None:
        console.print(kind_table())
        return
    check_kind(kind)
    if out is None:
        raise InvalidParameterError(f"mrfq generate {kind}: --out FILE is missing")
    problem = generate_file(kind, settings or (), seed, out)
    console.print(f"{out}: {problem!r}", markup=False, soft_wrap=True)


@app.command("inspect")
def inspect_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="A model: .uai, .LG, .qpbo, .rudy or .json, also with .gz or .xz; or a packed network, .safetensors."
        ),
    ],
    evidence: Annotated[Path | None, typer.Option(help="Observed variables (.evid).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is in a file.

    Of a model: sizes, arities, costs, submodularity, components, treewidth. Of a packed network: levels, bits,
    entropies and compression of each layer.
    """
    import json

    from rich.console import Console

    facts, table = _inspected(file, evidence)
    if as_json:
        typer.echo(json.dumps(facts, allow_nan=False))
    else:
        Console(highlight=False).print(table(facts), soft_wrap=True)


def _inspected(file: Path, evidence: Path | None) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """Return the facts about a file, and what makes a table of them."""
    from mrfq.errors import InvalidParameterError

    if file.suffix != ".safetensors":
        from mrfq.commands.inspect import inspect_file, inspect_table

        return inspect_file(file, evidence), inspect_table
    if evidence is not None:
        raise InvalidParameterError(f"--evidence {evidence}: {file} is a network, which has no evidence")
    from mrfq.commands.inspect_packed import packed_facts, packed_table

    return packed_facts(file), packed_table


app.command()(study)
app.command()(train)
app.command()(quantize)
app.command()(export)
