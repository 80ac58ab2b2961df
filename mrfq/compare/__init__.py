"""Comparing solvers: `mrfq compare SUITE.toml --out DIR` runs problems x solvers x seeds and writes a report.

A suite is a TOML file::

    name = "mine"                     # everything at the top but problems and solvers is optional
    title = "My comparison"
    description = "A paragraph for the report."
    seeds = 3                         # the seeds 0, 1, 2; or a list of seeds
    budget = 200                      # oracle calls of every solver, unless the problem says otherwise
    trace_every = 1                   # steps between the points of a trace

    [[problems]]
    name = "glass"                    # by default the kind
    kind = "spin-glass"               # a generator of mrfq.generators, "digits" or "digits-tiny"
    height = 4                        # its parameters; `seed` fixes the instance, otherwise the run's seed does
    width = 5
    budget = 300
    exact = true                      # find the optimum first, so that gaps are to it

    [[solvers]]
    solver = "icm"                    # a registered name

    [[solvers]]
    name = "my-pmf"                   # by default the name of the solver
    solver = "pmf"
    beta = { kind = "Geometric", first = 1, last = 1e4 }   # its parameters, as `mrfq solvers pmf` shows them
    grid.rate = [0.01, 0.1]           # a list of values each: one solver for every combination
    on.network.rate = 0.05            # other parameters on a family ("mrf", "network"), a kind or a problem

All of it is checked before anything runs. A solver that does not fit a problem is skipped there, with the reason.
Every finished run is a file in `DIR/cells`, named by a hash of all that determines it: the same command resumes
after an interruption, and a changed suite runs only what changed (changed code is noticed by its version only: use
`--fresh` while you work on a solver). `DIR/suite.json`, the resolved suite, can be run
again like a suite file.

The modules, in the order of the work: `reading` (file to suite), `suite`, `kinds` (of problems), `runner`, `work`
(one run), `records` (its file), `results` (gaps, means), `export` (CSV and JSON), `findings`, `figures`, `report`.
"""
