"""One method on one model, in a process of its own: CPU seconds, peak memory, energies."""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from classical_found import Found, Unsuitable
from classical_instances import Instance, generated
from classical_methods import OURS, Ours, energy_of, seeds_of
from peers import Peer

from mrfq.problems.factor_graph import FactorGraph

#: a trial run takes at least this share of the budget before the effort is extrapolated from it
TRIAL = 0.25
#: efforts of the first trial, and of the last one of a search whose time does not depend on it
FIRST_EFFORT, LAST_EFFORT = 32.0, 1e9
#: seeds on which settings and efforts are chosen; never those that are reported
TUNING = (100, 101)
#: our share of the budget that the peer has, so that the comparison never favours us
OUR_SHARE = 0.95
#: variables of a real model that are left free in the model that loads the kernels
MINIATURE = 10


@dataclass
class Row:
    """One run: what was found, and what it cost."""

    instance: str
    method: str
    ours: bool
    seed: int = 0
    energy: float | None = None
    bound: float | None = None
    proved: bool = False
    cpu: float | None = None
    build: float = 0.0
    own: float | None = None
    wall: float | None = None
    memory_mb: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    #: why there is nothing to report
    note: str = ""


def cpu_seconds() -> float:
    """Return the CPU time of this process, its threads and its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory(reset: bool = False) -> float | None:
    """Return the peak resident memory in MB (since the last reset), or None where the system does not tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(clear, os.W_OK):
        return None
    if reset:
        clear.write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(instance: Instance, method: Ours | Peer, quick: bool = False) -> list[Row]:
    """Run a method on an instance with its seeds; one row each, or one that says why there is none."""
    blank = Row(instance.name, method.name, isinstance(method, Ours))
    torch.set_num_threads(1)
    if isinstance(method, Peer) and method.version() is None:
        blank.note = f"{method.package} is not installed"
        return [blank]
    try:
        warm_up(instance, method)
        settings, effort = tuned(instance, method)
        return [_once(instance, method, seed, effort, settings) for seed in range(2 if quick else seeds_of(method))]
    except Unsuitable as reason:
        blank.note = str(reason)
        return [blank]


def _once(instance: Instance, method: Ours | Peer, seed: int, effort: float, settings: dict[str, Any]) -> Row:
    problem = instance.make(seed)
    gc.collect()
    before = peak_memory(reset=True)
    wall, cpu = time.perf_counter(), cpu_seconds()
    found = method.run(problem, seed, effort, **settings)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    after = peak_memory()
    energy = None if found.labels is None else energy_of(problem, found.labels)
    return Row(
        instance=instance.name,
        method=method.name,
        ours=isinstance(method, Ours),
        seed=seed,
        energy=energy,
        bound=found.bound,
        proved=found.proved,
        cpu=cpu,
        build=found.build,
        own=found.own,
        wall=wall,
        memory_mb=None if before is None or after is None else after - before,
        settings={**settings, **({"effort": effort} if method.search else {})},
        note="no labelling" if energy is None else "only forbidden labellings" if energy == math.inf else "",
    )


def warm_up(instance: Instance, method: Ours | Peer) -> None:
    """Load all kernels and libraries on a small model of the same kind, before any clock starts."""
    small = miniature(instance)
    every = [ours for ours in OURS if ours.refuses(small) is None] if method.name == "auto" else []
    for each in [*every, method]:
        effort = 50 if each.search else 1.0
        with suppress(Unsuitable):  # the small model; libraries are loaded all the same
            each.run(small, 0, effort)


def miniature(instance: Instance) -> Any:
    """Return a small model of the same kind: of the same generator, or with most variables of a real one fixed."""
    if instance.kind != "real":
        return next(small for small in generated(quick=True) if small.kind == instance.kind).make(0)
    problem = instance.make(0)
    graph = FactorGraph.of(problem)
    labels = problem.label_set.round(torch.zeros(problem.shape))
    fixed = {i: int(labels[i]) for i in range(MINIATURE, problem.shape[0])}
    small = graph.condition(fixed).problem
    if small is None:
        return problem
    return small.pairwise() if hasattr(problem, "edges") else small


def tuned(instance: Instance, method: Ours | Peer) -> tuple[dict[str, Any], float]:
    """Return the best settings of a search, and the effort that fits its budget; of others, their limit."""
    if not method.search:
        return {}, instance.auto_limit if method.name == "auto" else instance.limit
    budget = instance.budget * (OUR_SHARE if isinstance(method, Ours) else 1.0)
    problem = instance.make(TUNING[0])
    choices = [
        (settings, fitted(lambda effort, kept=settings: method.run(problem, TUNING[0], effort, **kept), budget))
        for settings in method.settings
    ]
    if len(choices) == 1:
        return choices[0]
    return min(choices, key=lambda choice: _mean_energy(instance, method, *choice))


def _mean_energy(instance: Instance, method: Ours | Peer, settings: dict[str, Any], effort: float) -> float:
    energies = []
    for seed in TUNING:
        problem = instance.make(seed)
        found = method.run(problem, seed, effort, **settings)
        energies.append(math.inf if found.labels is None else energy_of(problem, found.labels))
    return sum(energies) / len(energies)


def fitted(run: Callable[[float], Found], budget: float) -> float:
    """Return the effort at which a run takes a budget of CPU seconds, from two shorter ones."""
    efforts, times = [0.0], [0.0]
    # Two at least, as the first may take most of its time to begin.
    while len(times) < 3 or times[-1] < TRIAL * budget:
        efforts.append(4 * efforts[-1] or FIRST_EFFORT)
        began = cpu_seconds()
        run(efforts[-1])
        times.append(cpu_seconds() - began)
        if times[-1] >= budget or efforts[-1] > LAST_EFFORT:
            break
    rate = (times[-1] - times[-2]) / (efforts[-1] - efforts[-2])
    return max(efforts[-1] + (budget - times[-1]) / rate, 1.0) if rate > 0 else efforts[-1]


def as_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain data; numbers that are not finite become None."""
    plain = asdict(row)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
