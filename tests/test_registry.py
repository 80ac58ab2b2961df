"""Names of solvers: entry points, plug-ins of others, broken plug-ins."""

import sys
import tomllib
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import mrfq
from mrfq import InvalidParameterError, Solver, State, UnknownNameError, generators, registry, solvers
from mrfq.errors import MrfqError, PluginWarning
from mrfq.plain import from_plain, to_plain

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Lowest(Solver[State]):
    """Takes label 0 everywhere: somebody else's solver."""

    label: int = 0

    def init(self, oracle, start):
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle, state):
        state.labels = state.labels * 0 + self.label
        oracle.energy(state.labels)
        return state


@dataclass(frozen=True)
class CannotBeMade(Lowest):
    def __post_init__(self):
        raise RuntimeError("no licence")


@pytest.fixture
def plugins(monkeypatch):
    """Install plug-ins for one test: a function that takes names and values of entry points."""
    real = list(registry.entry_points(group=registry.GROUP))
    module = types.ModuleType("somebody")
    module.Lowest, module.CannotBeMade, module.number = Lowest, CannotBeMade, 3
    monkeypatch.setitem(sys.modules, "somebody", module)

    def clear():
        registry._entries.cache_clear()
        registry._load.cache_clear()

    def install(**values):
        theirs = [EntryPoint(name.replace("_", "-"), value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: [*theirs, *real])
        clear()

    yield install
    monkeypatch.undo()
    clear()


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["entry-points"][registry.GROUP]


def test_every_solver_that_is_exported_has_a_name_and_the_other_way_round():
    exported = {
        name
        for name in solvers.__all__
        if isinstance(getattr(solvers, name), type) and issubclass(getattr(solvers, name), Solver)
    }
    assert {value.removeprefix("mrfq.solvers:") for value in declared().values()} == exported


def test_the_installed_names_are_the_declared_ones():
    assert set(declared()) <= set(registry.names())
    assert all(f"{kind.__module__}".startswith("mrfq.solvers.") for kind in registry.all_solvers().values())


def test_names_are_lower_case_words():
    assert all(name == name.lower() and " " not in name and "_" not in name for name in registry.names())


@pytest.mark.parametrize("name", sorted(declared()))
def test_every_solver_says_where_it_comes_from_and_when_to_use_it(name):
    kind = registry.get(name)
    assert kind.__doc__
    assert kind.reference
    assert kind.use_when
    assert not kind.use_when.endswith(".")


def test_a_solver_is_made_by_name_and_knows_its_name():
    assert registry.make("icm", order="random") == solvers.ICM(order="random")
    assert registry.name_of(solvers.ICM()) == "icm"


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("imc", {}, UnknownNameError, "did you mean 'icm'"),
        ("zzzz", {}, UnknownNameError, "known are: annealing, "),
        ("icm", {"oder": "random"}, UnknownNameError, "parameter of ICM 'oder'; did you mean 'order'"),
        ("icm", {"order": "x"}, InvalidParameterError, "order must be"),
        ("exhaustive", {"limit": "many"}, InvalidParameterError, "Exhaustive"),
        ("restarts", {}, InvalidParameterError, "inner"),
    ],
)
def test_bad_names_and_parameters_are_named(name, parameters, error, message):
    with pytest.raises(error, match=message):
        registry.make(name, **parameters)


def test_the_solver_of_a_third_party_is_found(plugins):
    plugins(lowest="somebody:Lowest")
    assert "lowest" in registry.names()
    chain = generators.chain(4, 3)
    assert mrfq.solve(chain, "lowest", max_iters=2).iterations == 2
    assert to_plain(Lowest(1)) == {"solver": "lowest", "label": 1}
    assert from_plain({"solver": "restarts", "inner": {"solver": "lowest"}}).inner == Lowest()
    assert "lowest" in registry.fitting(chain)


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("nowhere_at_all:Solver", "could not be loaded: ModuleNotFoundError"),
        ("somebody:Missing", "could not be loaded: AttributeError"),
        ("somebody:number", "is not a subclass of Solver"),
    ],
)
def test_a_broken_plug_in_warns_and_the_rest_goes_on(plugins, value, warning):
    plugins(broken=value)
    with pytest.warns(PluginWarning, match=f"'broken'.*{warning}"):
        loaded = registry.all_solvers()
    assert "broken" not in loaded
    assert "icm" in loaded
    with pytest.raises(UnknownNameError, match="plug-in could not be loaded"):
        registry.get("broken")
    assert mrfq.solve(generators.chain(4), "icm").iterations > 0


def test_a_plug_in_that_cannot_be_made_does_not_spoil_messages(plugins):
    plugins(licensed="somebody:CannotBeMade")
    with pytest.raises(mrfq.CapabilityError, match="solvers that fit"):
        mrfq.solve(generators.chain(4, 3), "md-tanh-s")


def test_a_plug_in_cannot_take_the_name_of_a_built_in_solver(plugins):
    plugins(icm="somebody:Lowest")
    assert registry.get("icm") is solvers.ICM


def test_names_are_listed_without_importing_any_solver(plugins):
    plugins(broken="nowhere_at_all:Solver")
    assert "broken" in registry.names()


def test_a_checkout_that_is_not_installed_is_explained(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    with pytest.raises(MrfqError, match="pip install -e"):
        registry._entries.__wrapped__()
