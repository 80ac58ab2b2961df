"""The named methods of training-time quantization: each a composition of projection, carry, pull and schedule.

Latents of one number a weight wherever the mathematics permits. `docs/papers.md` says for each method which published
settings it corresponds to, and what the published code does differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mrfq import plain
from mrfq.errors import InvalidParameterError, UnknownNameError
from mrfq.labels import LabelSet
from mrfq.projections import (
    DistanceSoftmax,
    Nearest,
    PiecewiseAffine,
    Projection,
    Relax,
    ScalarProjection,
    Shrink,
    SoftStaircase,
    Sparsemax,
)
from mrfq.schedules import Constant, Geometric, InverseSigmoid, Linear, Schedule, as_schedule

Carry = Literal["primal", "mirror", "dual", "none"]
Pull = Literal["identity", "exact", "surrogate", "surrogate-twice", "clipped"]
CARRIES, PULLS = ("primal", "mirror", "dual", "none"), ("identity", "exact", "surrogate", "surrogate-twice", "clipped")
Start = Literal["weights", "levels"]
STARTS = ("weights", "levels")
#: beta of all tuned runs of PMF
ANNEALED = Geometric(1, 1e4)
PMF = "Ajanthan et al., Proximal Mean-field for Neural Network Quantization, ICCV 2019"
MD = "Ajanthan et al., Mirror Descent View for Neural Network Quantization, AISTATS 2021"


@dataclass(frozen=True)
class Method:
    """A way of training weights towards their levels.

    Parameters
    ----------
    projection : Projection
        From latents to weights, for any number of labels.
    carry : {"dual", "primal", "mirror", "none"}
        What a step starts from: the latent; the weight itself; the weight under the inverse projection; zero.
    pull : {"identity", "exact", "surrogate", "surrogate-twice", "clipped"}
        How a gradient reaches the latent: as it is; by the derivative of the projection; by the surrogate of the
        published PMF code, with s = u; the same with u projected once more, as that code does, for latents with one
        score per label; as it is where the latent is between the extreme levels, and zero outside.
    schedule : Schedule or float
        Of beta, over the steps of the run.
    mixing : float
        Share of the new point in `w <- (1 - t) w + t P(v)`.
    two : Projection, optional
        Instead of `projection` where there are two labels.
    start : {"weights", "levels"}, optional
        Where there are no scales: latents start as the float weights, or as those in units of their best-fitting scale,
        so that rounding is nearest-level rounding. Left out, the first for two labels, as only signs matter then; else
        the second, as small weights would all be near the same level.
    reference : str
    """

    projection: Projection
    carry: Carry = "dual"
    pull: Pull = "identity"
    schedule: Schedule | float = ANNEALED
    mixing: float = 1.0
    two: Projection | None = None
    start: Start | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        choices = ("carry", self.carry, CARRIES), ("pull", self.pull, PULLS), ("start", self.start, (*STARTS, None))
        for name, value, known in choices:
            if value not in known:
                raise InvalidParameterError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
        if not 0 < self.mixing <= 1:
            raise InvalidParameterError(f"mixing must be above 0 and at most 1, got {self.mixing}")

    def starts_at_levels(self, labels: LabelSet) -> bool:
        """Return whether latents start in units of the best-fitting scale."""
        return labels.shape[1] > 2 if self.start is None else self.start == "levels"

    def fit(self, labels: LabelSet) -> Projection:
        """Return the projection for these labels.

        Raises
        ------
        InvalidParameterError
            A projection that is not defined for them, or that cannot be combined with the pull.
        """
        projection = self.two if self.two is not None and labels.shape[1] == 2 else self.projection
        reason = projection.accepts(labels)
        if reason is not None:
            raise InvalidParameterError(reason)
        if self.pull == "exact" and projection.flat:
            raise InvalidParameterError(f"pull='exact': {projection.flat}")
        if self.pull == "surrogate-twice" and isinstance(projection, ScalarProjection):
            raise InvalidParameterError("pull='surrogate-twice' needs one score per label: projection=Softmax()")
        if self.pull == "clipped" and not isinstance(projection, ScalarProjection):
            raise InvalidParameterError("pull='clipped' needs a projection with one number a weight, such as Nearest")
        return projection


METHODS: dict[str, Method] = {
    "pmf": Method(SoftStaircase("interval"), pull="surrogate", two=SoftStaircase(), reference=PMF),
    "pmf-exact": Method(DistanceSoftmax(), pull="exact", reference=PMF),
    "pgd": Method(Sparsemax(), pull="exact", two=PiecewiseAffine(), reference=PMF),
    "picm": Method(Nearest(), pull="clipped", schedule=Constant(1.0), reference=PMF),
    "mean-field": Method(DistanceSoftmax(curvature=0.0), carry="none", mixing=0.05, reference=PMF),
    "md-softmax": Method(DistanceSoftmax(), carry="mirror", schedule=Geometric(1, 100), reference=MD),
    "md-softmax-s": Method(DistanceSoftmax(), reference=MD),
    "md-tanh": Method(SoftStaircase(), carry="mirror", schedule=Geometric(1, 100), reference=MD),
    "md-tanh-s": Method(SoftStaircase(), reference=MD),
    "gd-tanh": Method(SoftStaircase(), pull="exact", reference=MD),
    "bc": Method(
        Nearest(),
        schedule=Constant(1.0),
        reference="Courbariaux, Bengio and David, BinaryConnect, NeurIPS 2015",
    ),
    "binary-relax": Method(
        Relax(),
        schedule=Geometric(1, 1e4),
        reference="Yin et al., BinaryRelax, SIAM J. Imaging Sciences 2018",
    ),
    "proxquant": Method(
        Shrink(),
        carry="primal",
        schedule=Linear(0, 1e-3),
        reference="Bai, Wang and Liberty, ProxQuant, ICLR 2019",
    ),
    "parq": Method(
        PiecewiseAffine(),
        schedule=InverseSigmoid(),
        reference="Jin et al., PARQ: Piecewise-Affine Regularized Quantization, ICML 2025",
    ),
    "soft-staircase": Method(
        SoftStaircase("interval"),
        reference="soft quantization functions, as mirror descent: " + MD,
    ),
}


def make_method(
    name: str,
    *,
    projection: Any = None,
    carry: str | None = None,
    pull: str | None = None,
    schedule: Any = None,
    mixing: float | None = None,
    start: str | None = None,
) -> Method:
    """Return a named method, with some of its choices made otherwise; schedules and projections also as plain data.

    Raises
    ------
    UnknownNameError
        No method of that name.
    InvalidParameterError
        A choice that does not exist, or that does not fit the others.

    Examples
    --------
    >>> make_method("pmf", pull="exact").pull
    'exact'
    """
    if name not in METHODS:
        raise UnknownNameError("method", str(name), METHODS)
    known = METHODS[name]
    chosen = _object(projection)
    if chosen is not None and not isinstance(chosen, Projection):
        raise InvalidParameterError(f"projection must be a Projection, got {projection!r}")
    beta = _object(schedule)
    if beta is not None and not isinstance(beta, Schedule | int | float):
        raise InvalidParameterError(f"schedule must be a Schedule or a number, got {schedule!r}")
    return Method(
        projection=known.projection if chosen is None else chosen,
        carry=known.carry if carry is None else carry,  # type: ignore[arg-type]
        pull=known.pull if pull is None else pull,  # type: ignore[arg-type]
        schedule=as_schedule(known.schedule if beta is None else beta),
        mixing=known.mixing if mixing is None else mixing,
        two=known.two if chosen is None else None,
        start=known.start if start is None else start,  # type: ignore[arg-type]
        reference=known.reference,
    )


def _object(value: Any) -> Any:
    return plain.from_plain(value) if isinstance(value, dict) else value
