"""Vector codebooks: the problems, their sweeps, k-means, the fit of a layer, the published sizes."""

import os
from pathlib import Path

import pytest
import torch

import mrfq
from mrfq import solvers, testing
from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.layerwise.codeword_refit import refit_codewords
from mrfq.layerwise.kmeans import kmeans, nearest, split_for_empty
from mrfq.layerwise.sizes import block_size, coded_bytes, network_megabytes
from mrfq.layerwise.spec import VectorSpec
from mrfq.layerwise.vector import fit_codebook
from mrfq.problems.block_codebook import BlockCodebook
from mrfq.problems.block_codebook_kernels import RULES, Choice, Layer, Point
from mrfq.problems.block_sweeps import visit_composed
from mrfq.problems.gram_checks import whitening
from mrfq.problems.layer_codebook import LayerCodebook

DOUBLE = torch.float64


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gram(size, rank=None, seed=1, dtype=DOUBLE):
    root = normal(size, rank or 2 * size, seed=seed)
    return (root @ root.T / size).to(dtype)


def blocks_problem(**options):
    return BlockCodebook(
        normal(4, 3), torch.stack([gram(3), gram(3, 1, 5)]), normal(4, 3, seed=2), index=[0, 1, 1, 0], **options
    )


def layer_problem(rows=2, columns=6, count=3, width=2, **options):
    return LayerCodebook(normal(rows, columns), gram(columns), normal(count, width, seed=2), **options)


def relaxed(problem, seed=4):
    return torch.softmax(normal(*problem.shape, seed=seed), 1)


# ---- blocks one by one ----------------------------------------------------------------------------------


def test_costs_of_blocks_are_quadratic_forms():
    problem = blocks_problem()
    for i, metric in enumerate((0, 1, 1, 0)):
        for a, codeword in enumerate(problem.codewords):
            gap = problem.blocks[i] - codeword
            torch.testing.assert_close(problem.unary[i, a], gap @ problem.gram[metric] @ gap)


def test_the_cheapest_codeword_of_each_block_is_the_optimum():
    problem = blocks_problem()
    exact = mrfq.solve(problem, solvers.Exhaustive())
    assert exact.proved
    for solver in ("icm", "trws", "auto", "elimination", "expansion", "mean-field"):
        assert mrfq.solve(problem, solver, max_iters=50).energy == pytest.approx(exact.energy, rel=1e-12)
    assert torch.equal(problem.decode(exact.labels), problem.codewords[problem.unary.argmin(1)])


def test_whitened_blocks_are_at_the_distance_of_the_metric():
    for metric in (gram(5), gram(5, 2), torch.zeros(5, 5, dtype=DOUBLE)):
        root = whitening(metric)
        torch.testing.assert_close(root @ root.T, metric, atol=1e-12, rtol=0)
    torch.testing.assert_close(whitening(torch.zeros(2, 2), 1e-6), torch.eye(2, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": [[1.0, float("nan")]]}, r"blocks\[0, 1\] is nan"),
        ({"blocks": [1.0, 2.0]}, "blocks: a matrix that is not empty is needed"),
        ({"codewords": [[1.0]]}, "codewords: a matrix of 2 columns is needed, got shape \\(1, 1\\)"),
        ({"gram": torch.eye(3)}, r"gram: shape \(2, 2\) or \(p, 2, 2\) is needed, got \(1, 3, 3\)"),
        ({"gram": [[1.0, 0.5], [0.0, 1.0]]}, "gram must be symmetric"),
        ({"gram": [[1.0, 0.0], [0.0, -1.0]]}, r"entry \(1, 1\) is -1"),
        ({"gram": [[1.0, 2.0], [2.0, 1.0]]}, "eigenvalue -1"),
        ({"gram": [torch.eye(2).tolist()] * 2}, "2 Gram matrices need an index"),
        (
            {"gram": [torch.eye(2).tolist()] * 2, "index": [2]},
            r"index\[0\] is 2, but the positions are numbered 0 to 1",
        ),
        ({"index": [0.5]}, "whole numbers"),
    ],
)
def test_bad_blocks_are_refused(change, message):
    parts = {"blocks": [[1.0, 2.0]], "gram": torch.eye(2), "codewords": [[0.0, 0.0]]} | change
    with pytest.raises(InvalidProblemError, match=message):
        BlockCodebook(parts.pop("blocks"), parts.pop("gram"), parts.pop("codewords"), **parts)


# ---- whole rows -----------------------------------------------------------------------------------------


def test_the_energy_of_a_layer_is_its_output_error():
    problem = layer_problem()
    labels = torch.tensor([0, 2, 1, 1, 1, 0])
    error = problem.codewords[labels].view(2, 6) - problem.target
    assert problem.energy(labels) == pytest.approx(float((error @ problem.gram @ error.T).trace()), rel=1e-12)
    torch.testing.assert_close(problem.decode(labels), error + problem.target)


def test_a_layer_agrees_with_its_explicit_model():
    problem, u = layer_problem(), relaxed(layer_problem())
    explicit = problem.pairwise()
    labels = torch.randint(3, (20, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.energies(labels), explicit.energies(labels))
    value, costs = problem.linearize(u)
    other, others = explicit.linearize(u)
    torch.testing.assert_close(value, other)
    torch.testing.assert_close(costs - costs[:, :1], others - others[:, :1])
    change, changed = problem.energy_change(labels[0], labels[1])
    assert change == pytest.approx(explicit.energy(labels[1]) - explicit.energy(labels[0]))
    assert changed == int((labels[0] != labels[1]).sum())


SWEEPS = [(kind, order) for kind in (solvers.ICM, solvers.MeanField) for order in ("fixed", "random", "colour")]


# In other orders than 0..n-1 the sites are given other random numbers.
@pytest.mark.parametrize(("kind", "order"), [*SWEEPS, (solvers.SimulatedAnnealing, "fixed")])
def test_sweeps_are_those_of_the_explicit_model(kind, order):
    problem = layer_problem(columns=8)
    options = {"init": relaxed(problem), "max_iters": 8, "seed": 1}
    ours, theirs = (mrfq.solve(p, kind(order=order), **options) for p in (problem, problem.pairwise()))
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.relaxed, theirs.relaxed)
    for column in ("energy", "relaxed_energy", "entropy"):
        expected = pytest.approx(theirs.trace[column], rel=1e-9, abs=1e-9, nan_ok=True)
        assert ours.trace[column] == expected


def test_a_sweep_of_many_blocks_reports_the_change_of_energy():
    problem = layer_problem(rows=37, columns=160, count=9, width=4)  # several tiles of rows, several groups of columns
    labels = problem.label_set.round(relaxed(problem))
    for rule in ("argmin", "sample"):
        before = problem.energy(labels)
        old = labels.clone()
        report = problem.sweep(labels, rule, beta=0.1, generator=torch.Generator().manual_seed(0))
        assert report.exact
        assert report.changed == int((labels != old).sum())
        assert report.energy_change == pytest.approx(problem.energy(labels) - before, rel=1e-9)
    u = relaxed(problem)
    before = float(problem.linearize(u)[0])
    report = problem.sweep(u, "softmax", beta=0.5)
    assert report.energy_change == pytest.approx(float(problem.linearize(u)[0]) - before, rel=1e-9)
    assert report.entropy == pytest.approx(float(torch.special.entr(u).sum()), rel=1e-6)
    assert torch.equal(report.labels, u.argmax(1))


@pytest.mark.parametrize("rule", RULES)
def test_the_torch_form_does_what_the_kernel_does(rule):
    problem = layer_problem(rows=5, columns=12, count=7, width=3)
    ours, point = relaxed(problem), relaxed(problem)
    if rule != "softmax":
        ours, point = problem.label_set.round(ours), problem.label_set.round(point)
    report = problem.sweep(ours, rule, beta=0.7, generator=torch.Generator().manual_seed(0))
    rows = problem._rows(point @ problem.codewords if rule == "softmax" else problem.codewords[point])
    uniforms = torch.rand((5, 4), generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    soft = rule == "softmax"
    labels = torch.full((5, 4), -1) if soft else point.view(5, 4)
    u = point.view(5, 4, -1) if soft else torch.empty(5, 0, 0, dtype=DOUBLE)
    own = Point(rows.pull, rows.mean, labels, u, torch.zeros(5, 4, dtype=DOUBLE))
    layer = Layer(rows.gram, rows.codewords, rows.own, torch.arange(4)[None])
    visit_composed(own, layer, Choice(RULES[rule], torch.full((4,), 0.7, dtype=DOUBLE), uniforms))
    torch.testing.assert_close(ours, point)
    torch.testing.assert_close(rows.pull, (rows.mean - problem.target) @ problem.gram)
    change, changed, moved, entropy = own.report.T
    assert report.energy_change == pytest.approx(float(change.sum()))
    if soft:
        assert torch.equal(report.labels, labels.view(-1))
        assert report.entropy == pytest.approx(float(entropy.sum()))
        assert report.largest_change == pytest.approx(float(moved.amax().sqrt()))
    else:
        assert report.changed == int(changed.sum())


def test_exact_labels_of_a_tiny_layer():
    problem = layer_problem(columns=8)
    exact = mrfq.solve(problem, solvers.Exhaustive())
    assert exact.energy == pytest.approx(mrfq.solve(problem.pairwise(), solvers.Elimination()).energy, rel=1e-10)
    found = mrfq.solve(problem, solvers.Restarts(solvers.ICM(), starts=20), max_iters=200)
    assert found.energy == pytest.approx(exact.energy, rel=1e-10)
    assert problem.energy(problem.label_set.round(problem.initial())) >= exact.energy


def test_a_block_diagonal_layer_is_a_block_codebook():
    diagonal = torch.block_diag(gram(2, seed=7), gram(2, seed=8), gram(2, seed=9))
    layer = LayerCodebook(normal(3, 6), diagonal, normal(5, 2, seed=2))
    blocks = BlockCodebook(
        layer.target.reshape(-1, 2),
        torch.stack([diagonal[i : i + 2, i : i + 2] for i in (0, 2, 4)]),
        layer.codewords,
        index=[0, 1, 2] * 3,
    )
    torch.testing.assert_close(layer.unary, blocks.unary)
    labels = layer.label_set.round(layer.initial())
    assert layer.energy(labels) == pytest.approx(blocks.energy(labels))
    assert mrfq.solve(layer, "icm").energy == pytest.approx(mrfq.solve(blocks, "exhaustive", max_iters=None).energy)


def test_blocks_must_divide_the_columns():
    with pytest.raises(InvalidProblemError, match="blocks of 4 weights do not divide the 6 columns"):
        LayerCodebook(normal(2, 6), gram(6), normal(3, 4))
    with pytest.raises(InvalidParameterError, match="explicit tables would have"):
        layer_problem(columns=60, count=200).pairwise()


CONFORMING = {
    "block-codebook": lambda: BlockCodebook(
        normal(3, 2), torch.stack([gram(2), gram(2, 1)]), normal(3, 2, seed=2), index=[0, 1, 1]
    ),
    "layer-codebook": lambda: layer_problem(columns=4),
    "layer-codebook-float32": lambda: layer_problem(columns=4, dtype=torch.float32),
    "layer-codebook-singular": lambda: LayerCodebook(normal(2, 4), gram(4, 1), torch.ones(2, 2)),
    "layer-codebook-one-label": lambda: layer_problem(count=1),
}


@pytest.mark.parametrize("problem", ["block-codebook", "layer-codebook"])
def test_every_solver_that_fits_keeps_every_promise(solver, problem, monkeypatch):
    monkeypatch.setitem(testing.PROBLEMS, problem, CONFORMING[problem])
    testing.check_solver(solver, [problem])


@pytest.mark.parametrize("site", [solvers.ICM(), solvers.MeanField(), solvers.SimulatedAnnealing(order="random")])
@pytest.mark.parametrize(
    "problem",
    [
        name
        for name in CONFORMING
        if name
        not in (
            "block-codebook",
            "layer-codebook",
        )
    ],
)
def test_site_solvers_keep_every_promise(site, problem, monkeypatch):
    monkeypatch.setitem(testing.PROBLEMS, problem, CONFORMING[problem])
    testing.check_solver(site, [problem])


# ---- k-means --------------------------------------------------------------------------------------------


def test_kmeans_ends_at_a_fixed_point():
    points = normal(400, 3)
    centres, labels = kmeans(points, 16, torch.Generator().manual_seed(0))
    again, gaps = nearest(points, centres)
    assert torch.equal(labels, again)
    distances = torch.cdist(points, centres)
    torch.testing.assert_close(gaps, distances.square().amin(1))
    assert torch.equal(labels, distances.argmin(1))


def test_kmeans_finds_clusters_that_are_far_apart():
    centres = 100 * normal(32, 4)
    points = centres.repeat(20, 1) + normal(640, 4, seed=3)
    _, labels = kmeans(points, 32, torch.Generator().manual_seed(0))
    _, gaps = nearest(points, centres)
    found = torch.stack([points[labels == a].mean(0) for a in range(32)])
    assert float(nearest(points, found)[1].sum()) <= 1.05 * float(gaps.sum())


def test_empty_clusters_get_half_of_the_most_populated_one():
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0], [5.0]])
    labels = torch.zeros(5, dtype=torch.int64)
    assert split_for_empty(points, labels, 3) == 2
    assert sorted(torch.bincount(labels).tolist()) == [1, 2, 2]


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_kmeans_ends_with_fewer_distinct_points_than_centres(distinct):
    points = normal(distinct, 3).repeat(30, 1) + 0.1
    centres, labels = kmeans(points, 8, torch.Generator().manual_seed(0))
    assert bool(centres.isfinite().all())
    torch.testing.assert_close(centres[labels], points)
    assert len(labels.unique()) == distinct


def test_the_mean_of_blocks_is_the_best_codeword_in_any_metric():
    blocks, metric = normal(7, 3), gram(3)
    mean = blocks.mean(0).requires_grad_()
    gap = blocks - mean
    (gradient,) = torch.autograd.grad(((gap @ metric) * gap).sum(), mean)
    assert float(gradient.abs().max()) < 1e-12


# ---- the fit --------------------------------------------------------------------------------------------


def correlated(size, strength=0.9):
    """A Gram matrix of neighbouring inputs that resemble each other, of very different sizes."""
    places = torch.arange(size)
    scale = torch.linspace(1, 0.1, size)
    return strength ** (places[:, None] - places).abs() * scale * scale[:, None]


@pytest.mark.parametrize("width", [4, 9])
def test_the_coupled_fit_beats_block_by_block(width):
    target, metric = normal(64, 144, dtype=torch.float32), correlated(144)
    spec = VectorSpec(width, 64)
    unary = fit_codebook(target, metric, spec, assign="unary")
    labels_only = fit_codebook(target, metric, spec, rounds=0)
    coupled = fit_codebook(target, metric, spec, rounds=1, sweeps=10)
    assert torch.equal(unary.codewords, labels_only.codewords)
    assert labels_only.energy < 0.95 * unary.energy
    assert coupled.energy < 0.85 * unary.energy
    more = fit_codebook(target, metric, spec, rounds=2, sweeps=10)
    assert more.energy <= 1.01 * coupled.energy  # rounding of the codewords comes in between


@pytest.mark.parametrize("assign", ["unary", "coupled"])
def test_a_fit_is_what_it_says(assign):
    target, metric = normal(32, 36, dtype=torch.float32), gram(36, dtype=torch.float32)
    fit = fit_codebook(target, metric, VectorSpec(4, 16), assign=assign, rounds=1, seed=3)
    assert fit.codewords.shape == (16, 4)
    assert fit.codewords.dtype == torch.float16
    assert fit.labels.shape == (32, 9)
    assert fit.labels.dtype == torch.int64
    problem = LayerCodebook(target, metric, fit.codewords)
    assert fit.energy == pytest.approx(problem.energy(fit.labels.flatten()), rel=1e-6)
    assert torch.equal(fit.decode().double(), problem.decode(fit.labels.flatten()))
    again = fit_codebook(target, metric, VectorSpec(4, 16), assign=assign, rounds=1, seed=3)
    assert torch.equal(fit.labels, again.labels)
    assert torch.equal(fit.codewords, again.codewords)
    if assign == "coupled":  # no change of one label would help, up to single precision
        solution = mrfq.solve(problem, "icm", init=fit.labels.flatten())
        assert solution.energy == pytest.approx(fit.energy, rel=1e-5)


def test_precision_and_clamping_follow_the_specification():
    target = normal(8, 16, dtype=torch.float32)
    fit = fit_codebook(target, torch.eye(16), VectorSpec(4, 256, "F32"))
    assert fit.codewords.shape == (8, 4)  # 32 blocks
    assert fit.codewords.dtype == torch.float32


def test_as_many_codewords_as_distinct_blocks_leave_no_error():
    few = normal(4, 4, dtype=torch.float32)
    target = few[torch.arange(64) % 4].view(16, 16)
    for metric in (torch.eye(16), gram(16, 3, dtype=torch.float32)):
        fit = fit_codebook(target, metric, VectorSpec(4, 8, "F32"))
        assert fit.energy <= 1e-9 * float(((target @ metric) * target).sum())


@pytest.mark.parametrize("metric", [torch.zeros(16, 16), gram(16, 1, dtype=torch.float32), torch.eye(16) * 1e-20])
def test_singular_and_tiny_metrics(metric):
    fit = fit_codebook(normal(32, 16, dtype=torch.float32), metric, VectorSpec(4, 16))
    assert bool(fit.codewords.isfinite().all())
    assert 0 <= fit.energy < float(((fit.decode() * 0 + 100) @ metric.abs()).sum()) + 1e-30


def test_columns_that_are_never_used_do_no_harm():
    metric = correlated(16)
    metric[3] = metric[:, 3] = 0
    metric[8:12] = metric[:, 8:12] = 0  # a whole block
    fit = fit_codebook(normal(32, 16, dtype=torch.float32), metric, VectorSpec(4, 16))
    assert bool(fit.codewords.isfinite().all())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spec": VectorSpec(5, 8)}, InvalidParameterError, "blocks of 5 weights do not divide 16 columns"),
        ({"assign": "both"}, InvalidParameterError, "assign must be one of unary, coupled, got 'both'"),
        ({"rounds": -1}, InvalidParameterError, "rounds must be at least 0"),
        ({"sweeps": 0}, InvalidParameterError, "sweeps at least 1"),
        ({"gram": torch.eye(12)}, InvalidProblemError, r"gram: shape \(16, 16\) is needed"),
        ({"gram": -torch.eye(16)}, InvalidProblemError, "positive semi-definite"),
        ({"target": torch.full((8, 16), float("inf"))}, InvalidProblemError, r"target\[0, 0\] is inf"),
        ({"target": torch.full((8, 16), 1e6)}, InvalidProblemError, "exceed the range of float16; use precision F32"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    given = {"target": torch.ones(8, 16), "gram": torch.eye(16), "spec": VectorSpec(4, 8)} | arguments
    with pytest.raises(error, match=message):
        fit_codebook(given.pop("target"), given.pop("gram"), given.pop("spec"), **given)


def test_refitted_codewords_solve_the_normal_equations():
    target, metric = normal(12, 8), gram(8)
    labels = torch.randint(5, (12, 4), generator=torch.Generator().manual_seed(0))
    start = normal(5, 2, seed=6).float()
    parts = torch.stack([metric[i : i + 2, i : i + 2] for i in range(0, 8, 2)])
    found = refit_codewords(start, labels, target.float(), metric.float(), parts.float()).double()
    choose = torch.nn.functional.one_hot(labels, 5).double()
    design = torch.einsum("rpa,ij->rpiaj", choose, torch.eye(2, dtype=DOUBLE)).reshape(12, 8, 10)
    normal_matrix = torch.einsum("rcx,cd,rdy->xy", design, metric, design)
    right = torch.einsum("rcx,cd,rd->x", design, metric, target)
    torch.testing.assert_close(found.flatten(), torch.linalg.solve(normal_matrix, right), atol=1e-3, rtol=1e-3)


@pytest.mark.skipif("MRFQ_DATA" not in os.environ, reason="MRFQ_DATA is not set: no pretrained ResNet-20")
def test_the_coupled_fit_on_a_real_layer():
    from mrfq.nn.models import build
    from mrfq.nn.models.pretrained import load_pretrained

    model = build("resnet20", channels=3, size=32, classes=10)
    load_pretrained(Path(os.environ["MRFQ_DATA"]) / "data/pretrained/resnet20-12fca82f.th", model).eval()
    layer, seen = model.layer2[1].conv2, []
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    noise = torch.nn.functional.avg_pool2d(normal(64, 3, 40, 40, dtype=torch.float32), 9, 1)
    with torch.no_grad():
        model(8 * noise)
    patches = torch.nn.functional.unfold(seen[0], 3, padding=1).transpose(1, 2).flatten(0, 1)
    metric = patches.T.cov(correction=0)
    target = layer.weight.detach().flatten(1)
    unary, coupled = (fit_codebook(target, metric, VectorSpec(9, 64), assign=how) for how in ("unary", "coupled"))
    assert coupled.energy < 0.8 * unary.energy


# ---- published sizes ------------------------------------------------------------------------------------


def resnet(blocks, bottleneck):
    """The shapes of an ImageNet ResNet without its first convolution, and the number of its other parameters."""
    shapes, floats, channels = [], 64 * 3 * 7 * 7 + 2 * 64, 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            if bottleneck:
                shapes += [(width, channels, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            else:
                shapes += [(width, channels, 3, 3), (width, width, 3, 3)]
            if block == 0 and channels != outputs:
                shapes.append((outputs, channels, 1, 1))
            channels = outputs
    floats += sum(2 * shape[0] for shape in shapes) + 1000
    return [*shapes, (1000, channels)], floats


RESNET18, RESNET50 = ((2, 2, 2, 2), False), ((3, 4, 6, 3), True)


@pytest.mark.parametrize(
    ("network", "large", "pointwise", "published"),
    [
        (RESNET18, False, None, 1.54),
        (RESNET18, True, 4, 1.03),
        (RESNET50, False, None, 5.09),
        (RESNET50, True, None, 3.19),
    ],
)
def test_published_sizes(network, large, pointwise, published):
    shapes, floats = resnet(*network)
    linear = 2048 if network is RESNET18 else 1024
    layers = [
        (s, VectorSpec(block_size(s, large=large, pointwise=pointwise), linear if len(s) == 2 else 256)) for s in shapes
    ]
    size = network_megabytes(layers, floats)
    assert size == pytest.approx(published, abs=0.005)
    parameters = sum(torch.Size(s).numel() for s in shapes) + floats
    assert parameters == (11_689_512 if network is RESNET18 else 25_557_032)


def test_sizes_say_what_is_wrong():
    assert coded_bytes(4 * 8, VectorSpec(4, 256)) == 8 * 1 / 8 + 2 * 4 * 2  # two codewords, one bit a block
    with pytest.raises(InvalidParameterError, match=r"\(3, 5\): blocks of 4 weights do not divide 15"):
        network_megabytes([((3, 5), VectorSpec(4, 16))], 0)
    with pytest.raises(InvalidParameterError, match="2 axes"):
        block_size((3, 3, 3))
