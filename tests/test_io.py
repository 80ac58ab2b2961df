"""Models in files: energies that survive, and messages that say where a file is wrong."""

import gzip
import itertools
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrfq import generators
from mrfq.errors import FileFormatError, InvalidProblemError, UnknownNameError
from mrfq.io import limits
from mrfq.io.evidence import read_evidence
from mrfq.io.formats import FORMATS, read, write
from mrfq.io.mpe import read_mpe, write_mpe
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF

INF = float("inf")
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def labellings(problem):
    """All labellings of a small problem."""
    mask = problem.label_set.mask
    mask = torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask
    choices = [row.nonzero()[:, 0].tolist() for row in mask]
    return torch.tensor(list(itertools.product(*choices)))


def same_energies(one, other, tolerance=1e-12):
    x = labellings(one)
    a, b = one.energies(x).numpy(), other.energies(x).numpy()
    scale = max(1.0, np.abs(a[np.isfinite(a)]).max(initial=0.0))
    np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


costs = st.one_of(st.just(INF), st.floats(-50, 50), st.sampled_from([0.0, 1e-300, -699.0, 699.0]))


@st.composite
def factor_graphs(draw, values=costs):
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    scopes = draw(st.lists(st.lists(st.integers(0, len(counts) - 1), unique=True, max_size=4), max_size=6))
    factors = []
    for scope in scopes:
        shape = tuple(counts[i] for i in scope)
        size = int(np.prod(shape))
        factors.append((scope, np.array(draw(st.lists(values, min_size=size, max_size=size))).reshape(shape)))
    return FactorGraph(counts, factors)


@st.composite
def two_label_models(draw):
    n = draw(st.integers(1, 5))
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1])
    edges = draw(st.lists(pair, max_size=6)) if n > 1 else []
    weights = draw(st.lists(st.floats(-9, 9), min_size=len(edges), max_size=len(edges)))
    return n, np.array(edges, dtype=int).reshape(-1, 2), np.array(weights)


# ---- what is written is read ----------------------------------------------------------------------------


@many
@given(graph=factor_graphs(), suffix=st.sampled_from([".uai", ".LG", ".json", ".uai.gz", ".LG.xz", ".json.gz"]))
def test_energies_survive(tmp_path, graph, suffix):
    write(graph, tmp_path / f"model{suffix}")
    back = read(tmp_path / f"model{suffix}")
    same_energies(graph, back)
    assert isinstance(back, FactorGraph if "json" in suffix or graph.arity > 2 else PairwiseMRF)


@many
@given(graph=factor_graphs(st.floats(-1e300, 1e300)))
def test_json_keeps_every_bit_of_a_factor_graph(tmp_path, graph):
    write(graph, tmp_path / "model.json")
    back = read(tmp_path / "model.json")
    assert back.cardinalities.tolist() == graph.cardinalities.tolist()
    for old, new in zip(graph.factors(), back.factors(), strict=True):
        assert old.scope == new.scope
        assert old.table.tobytes() == new.table.tobytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_json_keeps_every_bit_of_a_pairwise_model(tmp_path, dtype):
    random = np.random.default_rng(0)
    unary, tables = random.standard_normal((4, 3)), random.standard_normal((2, 3, 3))
    unary[1, 0] = tables[0, 1, 1] = INF
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    names = ["a", "b", 3, (0, 1)]
    mrf = PairwiseMRF(unary, [[0, 1], [3, 1]], tables, weights=[0.1, 2], mask=mask, names=names, dtype=dtype)
    write(mrf, tmp_path / "model.json")
    back = read(tmp_path / "model.json")
    assert back.dtype == dtype
    assert back.names == ["a", "b", 3, "(0, 1)"]
    for part in ("unary", "edges", "tables", "weights"):
        assert torch.equal(getattr(back, part), getattr(mrf, part)), part
    assert torch.equal(back.label_set.mask, mrf.label_set.mask)


def test_shared_tables_stay_shared_in_json(tmp_path):
    mrf = generators.denoising(3, 4, 3, seed=1)
    write(mrf, tmp_path / "model.json.xz")
    back = read(tmp_path / "model.json.xz")
    assert len(back.tables) == 1
    assert torch.equal(back.unary, mrf.unary)


def test_a_pairwise_model_with_holes_through_uai(tmp_path):
    mask = [[True, False, True], [True, True, False]]
    mrf = PairwiseMRF([[0, 1, 2], [3, 4, 5]], [[1, 0]], np.arange(9.0).reshape(3, 3), mask=mask)
    for name in ("model.uai", "model.LG"):
        write(mrf, tmp_path / name)
        same_energies(mrf, read(tmp_path / name))


@many
@given(model=two_label_models(), fields=st.lists(st.floats(-9, 9), min_size=5, max_size=5), seed=st.integers(0, 9))
def test_qpbo_of_bits(tmp_path, model, fields, seed):
    n, edges, weights = model
    unary = np.stack([np.zeros(n), fields[:n]], 1)
    mrf = PairwiseMRF(unary, edges, [[0, 0], [0, 1]], weights=weights)
    write(mrf, tmp_path / "model.qpbo")
    same_energies(mrf, read(tmp_path / "model.qpbo"))


@many
@given(model=two_label_models())
def test_qpbo_of_spins(tmp_path, model):
    n, edges, weights = model
    mrf = PairwiseMRF.ising(np.zeros(n), weights, edges)
    write(mrf, tmp_path / "model.qpbo.gz")
    same_energies(mrf, read(tmp_path / "model.qpbo.gz"))


@many
@given(model=two_label_models())
def test_rudy(tmp_path, model):
    n, edges, weights = model
    mrf = PairwiseMRF.potts(np.zeros((n, 2)), edges, -weights)
    write(mrf, tmp_path / "model.rudy")
    back = read(tmp_path / "model.rudy")
    same_energies(mrf, back)
    x = labellings(back)[-1]
    x[0] = 0
    cut = sum(w for (i, j), w in zip(edges, weights, strict=True) if x[i] != x[j])
    assert back.energy(x) == pytest.approx(-cut, abs=1e-12)


def test_the_same_model_is_the_same_file(tmp_path):
    mrf = generators.spin_glass(3, 3, seed=2)
    for suffix in ("uai.gz", "uai.xz", "json.gz"):
        write(mrf, tmp_path / f"one.{suffix}")
        write(mrf, tmp_path / f"two.{suffix}")
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


# ---- what the formats say -------------------------------------------------------------------------------


def test_uai_by_hand(tmp_path):
    text = "MARKOV\n3\n2 3 1\n4\n1 1\n2 0 1\n3 2 1 0\n0\n\n3 1 2 0\n6\n1 2 3\n4 5 6\n6 6 5 4 3 2 1\n1 10\n"
    graph = read(put(tmp_path, "a.uai", text))
    assert isinstance(graph, FactorGraph)
    # the last variable of a scope is the fastest: (x0, x1) = (1, 1) is entry 4, and (x2, x1, x0) = (0, 1, 1) entry 3
    assert graph.energy(torch.tensor([1, 1, 0])) == pytest.approx(-np.log(2 * 5 * 3 * 10))
    assert graph.energy(torch.tensor([0, 2, 0])) == INF


def test_lg_by_hand(tmp_path):
    text = "c made by hand\nMARKOV\n1\n2\nc in between\n2\n1 0\n0\n2 -1.5 -inf\n1 2\n"
    mrf = read(put(tmp_path, "a.LG", text))
    assert isinstance(mrf, PairwiseMRF)
    assert mrf.energies(torch.tensor([[0], [1]])).tolist() == [-0.5, INF]


def test_qpbo_by_hand(tmp_path):
    entries = "1 1 3\n1 2 -2\n"
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    for header, expected in (
        ("2 2", [0, 0, 3, -1]),  # 3 x1 - 4 x1 x2
        ("2 -2", [0, 0, -3, 1]),
        ("-2 2", [-1, 7, 7, -1]),  # 3 - 4 s1 s2
        ("-2 -2", [1, -7, -7, 1]),
    ):
        mrf = read(put(tmp_path, "a.qpbo", f"{header}\n{entries}"))
        assert mrf.energies(x).tolist() == expected, header


def test_parallel_and_constant_parts_of_uai(tmp_path):
    text = "MARKOV 2 2 2 3 2 0 1 2 1 0 0  4 1 2 3 4  4 1 2 3 4  1 0.5"
    mrf = read(put(tmp_path, "a.uai", text))
    assert len(mrf.edges) == 1
    assert mrf.energy(torch.tensor([0, 1])) == pytest.approx(-np.log(2 * 3 * 0.5))


def test_a_model_that_padding_would_blow_up_stays_a_factor_graph(tmp_path, monkeypatch):
    graph = FactorGraph([50, 2, 2], [((0,), np.zeros(50)), ((1, 2), np.eye(2))])
    write(graph, tmp_path / "a.uai")
    assert isinstance(read(tmp_path / "a.uai"), PairwiseMRF)
    monkeypatch.setattr("mrfq.io.uai.LARGEST_PADDED", 100)
    back = read(tmp_path / "a.uai")
    assert isinstance(back, FactorGraph)
    same_energies(graph, back)


def test_the_format_is_found_by_content_or_asked_for(tmp_path):
    assert isinstance(read(put(tmp_path, "model", "BAYES 1 2 1 1 0 2 .5 .5")), PairwiseMRF)
    assert isinstance(read(put(tmp_path, "G1", "2 1\n1 2 1\n"), format="rudy"), PairwiseMRF)
    write(generators.chain(3, 2), tmp_path / "named", format="json")
    assert read(tmp_path / "named").shape == (3, 2)
    with pytest.raises(UnknownNameError, match="did you mean 'uai'"):
        read(tmp_path / "model", format="uay")
    with pytest.raises(UnknownNameError, match=r"suffix '\.uay'; did you mean '\.uai'"):
        write(generators.chain(3, 2), tmp_path / "model.uay")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.uai")


# ---- evidence and results -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2 0 1 2 0", "2\n0 1\n2 0\n", "1\n2 0 1 2 0\n"])
def test_evidence_files(tmp_path, text):
    assert read_evidence(put(tmp_path, "a.evid", text)) == {0: 1, 2: 0}
    assert read_evidence(put(tmp_path, "b.evid", "0\n")) == read_evidence(put(tmp_path, "c.evid", "1\n0\n")) == {}


@pytest.mark.parametrize("name", ["a.uai", "a.json", "b.json"])
def test_evidence_forbids_and_changes_nothing_else(tmp_path, name):
    random = np.random.default_rng(3)
    tables = [((0, 1), random.random((2, 3))), ((1, 2), random.random((3, 2))), ((2,), random.random(2))]
    graph = FactorGraph([2, 3, 2], tables)
    problem = graph.pairwise() if name == "b.json" else graph
    write(problem, tmp_path / name)
    put(tmp_path, "a.evid", "1 1 2")
    for evidence in ({1: 2}, tmp_path / "a.evid"):
        observed = read(tmp_path / name, evidence=evidence)
        x = labellings(graph)
        agrees = x[:, 1] == 2
        assert torch.allclose(observed.energies(x)[agrees], graph.energies(x)[agrees])
        assert bool(observed.energies(x)[~agrees].isinf().all())


def test_evidence_about_nothing(tmp_path):
    path = put(tmp_path, "a.uai", "MARKOV 2 2 2 0")
    for evidence, message in (({5: 0}, "variable 5"), ({-1: 0}, "variable -1"), ({0: 2}, "label 2")):
        with pytest.raises(InvalidProblemError, match=message):
            read(path, evidence=evidence)
    for text, found, line in (("1\n5 0", "'5'", 2), ("2\n1 0\n0\n2", "'2'", 4), ("2 0 0 0 0", "'0'", 1)):
        with pytest.raises(FileFormatError) as caught:
            read(path, evidence=put(tmp_path, "a.evid", text))
        assert (caught.value.found, caught.value.line) == (found, line)


def test_results(tmp_path):
    labels = torch.tensor([0, 3, 1])
    write_mpe(labels, tmp_path / "a.MPE.gz")
    assert torch.equal(read_mpe(tmp_path / "a.MPE.gz"), labels)
    assert read_mpe(put(tmp_path, "b.MPE", "MPE\n1\n3 0 3 1\n")).tolist() == [0, 3, 1]
    assert read_mpe(put(tmp_path, "c.MPE", "MPE 1 0")).tolist() == [0]


# ---- what is wrong, and where ---------------------------------------------------------------------------

JSON = '{"format": "mrfq", "version": 1, "kind": "factors", "cardinalities": [2], "factors": [%s]}'
WRONG = [
    ("a.uai", "", 1, "an empty file", "MARKOV"),
    ("a.uai", "\nMARKVO 1", 2, "'MARKVO'", "MARKOV or BAYES"),
    ("a.uai", b"\x1f\x8b\xff", 1, r"'\x1f\x8b\xff'", "MARKOV or BAYES"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5 x", 7, "'x'", "a number"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5 1_0", 7, "'1_0'", "a number"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5", 7, "1 numbers and the end", "2 of the entries of function 0"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5 0.5\n7", 8, "'7'", "the end of the file"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5\n-0.5", 8, "'-0.5'", "a potential"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5\nnan", 8, "'nan'", "a potential"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n2\n0.5\n1e999", 8, "'1e999'", "a potential"),
    ("a.uai", "MARKOV\n1\n2\n1\n1 0\n3\n0.5 0.5", 6, "'3'", "the number of entries of function 0, 2"),
    ("a.uai", "MARKOV\n2\n2 2\n1\n2 1\n1\n4 1 1 1 1", 6, "'1'", "each variable once"),
    ("a.uai", "MARKOV\n2\n2 2\n1\n2 1\n2\n4 1 1 1 1", 6, "'2'", "a variable of function 0"),
    ("a.uai", "MARKOV\n2\n2 0\n0", 3, "'0'", "cardinalities"),
    ("a.uai", "MARKOV\n2\n2 2.5\n0", 3, "'2.5'", "cardinalities"),
    ("a.uai", "MARKOV\n1\n1000000000000000000\n0", 3, "'1000000000000000000'", "cardinalities"),
    ("a.uai", "MARKOV\n1000000000000000000\n2\n0", 2, "'1000000000000000000'", "the number of variables"),
    ("a.uai", "MARKOV\n1\n2\n1000000000000000000", 4, "'1000000000000000000'", "the number of functions"),
    ("a.uai", "MARKOV\n1\n2\n-1", 4, "'-1'", "the number of functions"),
    ("a.LG", "MARKOV\n1\n2\n1\n1 0\n2\n0.5 inf", 7, "'inf'", "the logarithm of a potential"),
    ("a.qpbo", "2 2\n1 1 1\n", 1, "'2'", "the number of entries"),
    ("a.qpbo", "2 1\n1 3 1\n", 2, "'3'", "entries `i j w`"),
    ("a.qpbo", "2 1\n1 0 1\n", 2, "'0'", "entries `i j w`"),
    ("a.qpbo", "2 1\n1 2 inf\n", 2, "'inf'", "entries `i j w`"),
    ("a.qpbo", "2 1\n1 2 1\n4\n", 3, "'4'", "the end of the file"),
    ("a.qpbo", "0 0", 1, "'0'", "at least one variable"),
    ("a.qpbo", "1000000000000000000 0", 1, "'1000000000000000000'", "the number of variables"),
    ("a.rudy", "-2 1\n1 2 1\n", 1, "'-2'", "the number of variables"),
    ("a.rudy", "2 1\n2 2 1\n", 2, "'2'", "two different vertices"),
    ("a.json", "[1, 2]", "the file", "a list", "an object"),
    ("a.json", '{\n"format": }', 2, "'}'", "JSON"),
    ("a.json", b'{\n"format": "\xff"}', 2, r"'\xff'", "UTF-8"),
    ("a.json", "[" * 100_000, 1, "JSON that is not acceptable", "a model"),
    ("a.json", '{"format": "mrfq", "version": 2}', "version", "2", "1"),
    ("a.json", '{"format": "mrfq", "format": "mrfq"}', 1, "the key 'format' occurs twice", "a model"),
    ("a.json", JSON % '{"scope": [0]}', "factors[0]", "no key 'table'", "one"),
    ("a.json", JSON % '{"scope": [0], "table": [1]}', "factors[0].table", "a list of 1", "a list of 2"),
    ("a.json", JSON % '{"scope": [0], "table": [1, NaN]}', 1, "the constant NaN", "a model"),
    ("a.json", JSON % '{"scope": [0], "table": [1, 1e999]}', "factors[0].table[1]", "inf", "the text inf"),
    ("a.json", JSON % '{"scope": [0], "table": [1, true]}', "factors[0].table[1]", "True", "a number"),
    ("a.json", JSON % ('{"scope": [0], "table": [1, %s]}' % ("9" * 400)), "factors[0].table[1]", "999", "a number"),
    ("a.json", JSON % '{"scope": [2], "table": [1, 1]}', "factors[0].scope[0]", "2", "from 0 to 0"),
    ("a.json", JSON % '{"scope": [], "table": [1], "x": 0}', "factors[0]", "the key 'x'", "only scope, table"),
    ("a.json", JSON % '{"scope": [0, 0], "table": [1, 1, 1, 1]}', "the model", "twice in its scope", "consistent"),
    ("a", "17 4", 1, "'17'", "MARKOV, BAYES or {"),
    ("a.uai.gz", "MARKOV", 1, "broken gzip data", "a file compressed by gzip"),
    ("a.uai.xz", "MARKOV\n1\n2\n0\n\n\n", 1, "broken xz data", "a file compressed by xz"),
    (
        "a.uai.gz",
        gzip.compress(b"MARKOV 1 2 0", mtime=0)[:-9],
        1,
        "gzip data that end too early",
        "a complete gzip file",
    ),
]


@pytest.mark.parametrize(("name", "content", "position", "found", "expected"), WRONG)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, name, content, position, found, expected):
    path = put(tmp_path, name, content)
    with pytest.raises(FileFormatError) as caught:
        read(path)
    error = caught.value
    assert error.position == position
    assert found in error.found
    assert expected in error.expected
    assert str(error) == f"{path}:{position}: found {error.found}, expected {error.expected}"
    assert error.line == (position if isinstance(position, int) else None)


@pytest.mark.parametrize("text", ["", "MPE", "MPE x", "MPE 2 0", "MPE 1 0 1", "MPE 1 -1", "MPE 1 0.5", "MAP 1 0"])
def test_wrong_results_are_refused(tmp_path, text):
    with pytest.raises(FileFormatError):
        read_mpe(put(tmp_path, "a.MPE", text))


@pytest.mark.parametrize("text", ["", "x", "2 0 1", "1 0 1 7", "3 0 0 1 1 2", "-1", "1 0 -1", "2 1 0 1 1 1", "1 0.5 1"])
def test_wrong_evidence_is_refused(tmp_path, text):
    with pytest.raises(FileFormatError):
        read_evidence(put(tmp_path, "a.evid", text))


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_bomb_is_not_inflated(tmp_path, monkeypatch, suffix, compress):
    monkeypatch.setattr(limits, "LARGEST_TEXT", 10_000)
    path = put(tmp_path, f"a.uai{suffix}", compress(b" " * 1_000_000))
    with pytest.raises(FileFormatError, match="more than 10,000 bytes"):
        read(path)
    twice = compress(b"MARKOV 1 ") + compress(b"2 0\n")
    assert read(put(tmp_path, f"b.uai{suffix}", twice)).shape == (1, 2)
    with pytest.raises(FileFormatError, match="more than 10,000"):
        read(put(tmp_path, "a.uai", b" " * 10_001))
    monkeypatch.setattr(limits, "LARGEST_JSON", 100)
    with pytest.raises(FileFormatError, match="at most 100 of JSON"):
        read(put(tmp_path, "a.json", b" " * 101))


# ---- what a format cannot hold --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "name", "message"),
    [
        (PairwiseMRF([[0.0, 1e30]]), "a.uai", r"factor 0 has the cost 1e\+30.*write .LG or .json"),
        (PairwiseMRF([[0.0, 1e301]]), "a.LG", r"factor 0 has the cost 1e\+301.*write .json"),
        (PairwiseMRF([[0.0, 1e301]]), "a.qpbo", "too large for a file"),
        (PairwiseMRF([[0.0, 1.0, 2.0]]), "a.qpbo", "variable 0 has 3 labels, but QPBO"),
        (FactorGraph([2, 2, 2], [((0, 1, 2), np.zeros((2, 2, 2)))]), "a.qpbo", "factor 0 has 3 variables"),
        (PairwiseMRF([[0.0, INF]]), "a.rudy", r"a cost of \+inf"),
        (PairwiseMRF([[1.0, 3.0]]), "a.qpbo", "no place for a constant"),
        (PairwiseMRF([[0.0, 1.0]]), "a.rudy", "not minus the weight of a cut"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path, problem, name, message):
    with pytest.raises(InvalidProblemError, match=message):
        write(problem, tmp_path / name)
    assert not os.listdir(tmp_path)
    write(problem, tmp_path / "a.json")
    same_energies(problem, read(tmp_path / "a.json"))


def test_only_sums_of_tables_are_written(tmp_path):
    class Other:
        """Not made of tables."""

    with pytest.raises(InvalidProblemError, match="Other is not made of them"):
        write(Other(), tmp_path / "a.uai")
    assert set(FORMATS) == {"uai", "lg", "qpbo", "rudy", "json"}
