"""`LabelOptimizer`: any torch optimiser, with discrete weights.

The base optimiser moves latents; after each step the weights of the network are set to what the latents stand for,
with an inverse temperature that makes them discrete by the end. The code of the network does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from mrfq.errors import InvalidParameterError, InvalidProblemError, MrfqError
from mrfq.nn.batch_norm import reestimate
from mrfq.nn.exchange import Exchange
from mrfq.nn.grids import attach
from mrfq.nn.labelled_groups import SETTINGS, LabelledGroup, as_plain
from mrfq.nn.latents import Latent
from mrfq.nn.scaling import Scale
from mrfq.nn.selection import Levels
from mrfq.projections import Projection
from mrfq.schedules import Schedule

#: the entry of the state dictionary that is not the base optimiser's
OWN = "labelling"
FORMAT = 1


class LabelOptimizer(Optimizer):
    """Train weights towards levels, with any torch optimiser underneath.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Made of the parameters of the network; from now on it is stepped by this one only. Its parameter groups are
        shared, so learning-rate schedulers may hold either. A group may have entries of its own for everything below
        but `steps`: `{"params": ..., "labels": "ternary", "scale": "channel"}`, or `"labels": None` for float
        parameters (`mrfq.nn.parameter_groups` makes such groups).
    labels : str, sequence of float, or None
        "binary", "ternary", "2bit"..., or ascending levels.
    method : str
        See `mrfq.nn.METHODS`.
    steps : int, optional
        Length of the run, over which beta grows. Needed unless beta is constant.
    scale : {None, "tensor", "channel"} or int
        Which weights share a factor of the levels: none has one (a batch norm absorbs it), one for each parameter, for
        each output channel, or for each so many weights of an output channel. Fitted to the float weights by least
        squares.
    refit_every : int, optional
        Fit the scales to the latents again every so many steps; left out, they stay fixed.
    projection : Projection, optional
    carry : {"dual", "primal", "mirror", "none"}, optional
    pull : {"identity", "exact", "surrogate", "surrogate-twice", "clipped"}, optional
    schedule : Schedule or float, optional
    start : {"weights", "levels"}, optional
        Choices of the method made otherwise; see `mrfq.nn.Method`.

    Raises
    ------
    InvalidParameterError, UnknownNameError
        Settings that do not exist, do not fit each other or the parameters.

    Notes
    -----
    Memory beside the base optimiser: two numbers of float32 a weight, the latent and one to work in, for any number of
    labels (sparsemax with more than two labels: several for each label). Weights in half precision keep their latents
    in float32. Nothing in a step waits for a GPU.

    Load weights, move the network to its device and wrap it for several processes before the optimiser is made: weights
    that are loaded later are overwritten at the next step.

    The pulls "surrogate" and "exact" multiply gradients by beta, which grows to 1e4: the base should be Adam or another
    optimiser whose steps do not follow the size of gradients. With SGD take a method whose pull is "identity".

    A weight decay acts on the latents. With `carry="mirror"` (mirror descent in its primal form) beta is constant in
    the projection and multiplies the learning rate instead: where the projection is a function of beta times the
    latent the two are the same iteration, and this one does not invert a saturated projection.

    References
    ----------
    Ajanthan et al., Proximal Mean-field for Neural Network Quantization, ICCV 2019; Mirror Descent View for Neural
    Network Quantization, AISTATS 2021.

    Examples
    --------
    >>> import mrfq
    >>> model = nn.Sequential(nn.Linear(4, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2, bias=False))
    >>> inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> targets = (inputs[:, 0] > 0).long()
    >>> groups = mrfq.nn.parameter_groups(model, labels="ternary")  # batch norm stays float
    >>> optimizer = LabelOptimizer(torch.optim.Adam(groups, lr=0.01), steps=50)
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.cross_entropy(model(inputs), targets)
    ...     loss.backward()
    ...     optimizer.step()
    >>> optimizer.finalize()
    >>> sorted(set(model[3].weight.flatten().tolist()))
    [-1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        labels: Levels | None = "binary",
        method: str = "pmf",
        steps: int | None = None,
        scale: Scale = None,
        refit_every: int | None = None,
        projection: Projection | None = None,
        carry: str | None = None,
        pull: str | None = None,
        schedule: Schedule | float | None = None,
        start: str | None = None,
    ) -> None:
        if not isinstance(base, Optimizer) or isinstance(base, LabelOptimizer):
            raise InvalidParameterError(f"LabelOptimizer needs a torch.optim.Optimizer, got {type(base).__name__}")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise InvalidParameterError(f"steps must be a whole number, at least 1, got {steps!r}")
        self.base, self.steps, self.steps_done, self.finalized = base, steps, 0, False
        given = (labels, method, scale, refit_every, projection, carry, pull, schedule, start)
        self._settings = {name: as_plain(value) for name, value in zip(SETTINGS, given, strict=True)}
        self._groups: list[LabelledGroup] = []
        self._ready = self._rounded = False
        super().__init__(base.param_groups, base.defaults)
        self._ready = True
        self._link()
        with torch.no_grad():
            self._adopt([self._labelled(group) for group in self.param_groups])

    # ---- a torch optimiser in every respect -------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; the gradients are those at the present weights.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the network anew, as the base optimiser requires it.
        """
        self._check_open()
        step = self.steps_done
        with torch.no_grad(), self._exchange.rates(step):
            if closure is None:
                self._receive()
                with self._exchange.latents():
                    loss = self.base.step()
            else:
                with self._exchange.latents():
                    loss = self.base.step(self._reevaluation(closure))
            for group in self._groups:
                for latent in group.latents:
                    latent.v.grad = None
                group.refit(step)
                group.project(step)
        self.steps_done += 1
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, to the base optimiser as well; the group may have settings of its own."""
        if not self._ready:
            self.param_groups.append(param_group)  # called by the constructor of torch, for the groups of the base
            return
        self._check_open()
        self.base.add_param_group(param_group)
        try:
            with torch.no_grad():
                self._adopt([self._labelled(self.base.param_groups[-1])])
        except Exception:
            self.base.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return everything the run needs to go on, as tensors and plain data.

        The format of torch (`state`, `param_groups`) with one more entry. It includes the weights of quantized
        parameters, by their latents; float parameters and buffers are in the state of the network.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        with self._exchange.latents():
            state = self.base.state_dict()
        state[OWN] = {
            "format": FORMAT,
            "steps": self.steps,
            "steps_done": self.steps_done,
            "finalized": self.finalized,
            "latents": [[latent.state() for latent in group.latents] for group in self._groups],
        }
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the settings are those of the state.

        Raises
        ------
        InvalidProblemError
            A state of another optimiser, or of a network of other shapes.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        own = state_dict.get(OWN)
        saved = state_dict.get("param_groups")
        if not isinstance(own, dict) or own.get("format") != FORMAT or not isinstance(saved, list):
            raise InvalidProblemError("load_state_dict: this is not a state of a LabelOptimizer")
        sizes = [len(group["params"]) for group in saved]
        if sizes != [len(group["params"]) for group in self.param_groups]:
            found = [len(group["params"]) for group in self.param_groups]
            raise InvalidProblemError(f"load_state_dict: the state has groups of {sizes} parameters, here are {found}")
        kept = self._groups, self.steps, [dict(group) for group in self.param_groups]
        try:
            self._restore(own, saved, {name: value for name, value in state_dict.items() if name != OWN})
        except Exception:
            self._groups, self.steps = kept[:2]
            for group, settings in zip(self.param_groups, kept[2], strict=True):
                group.update(settings)
            raise
        self._link()
        self.steps_done, self.finalized = own["steps_done"], own["finalized"]
        for labelled in self._groups:
            labelled.reproject(self.steps_done - 1)
        for latent in self._all():
            attach(cast(nn.Parameter, latent.parameter), None)
        if self.finalized:
            self._discretise()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _restore(self, own: dict[str, Any], saved: list[dict[str, Any]], base: dict[str, Any]) -> None:
        self.steps = own["steps"]
        pairs = zip(self.param_groups, saved, strict=True)
        made = [LabelledGroup({**other, "params": group["params"]}, self.steps, fresh=False) for group, other in pairs]
        self._groups = made
        for group, states in zip(self._groups, own["latents"], strict=True):
            for latent, state in zip(group.latents, states, strict=True):
                latent.fill(state)
        with self._exchange.latents():
            self.base.load_state_dict(base)

    # ---- discrete networks ------------------------------------------------------------------------------

    @contextmanager
    def quantized(self) -> Iterator[None]:
        """Give the network its rounded weights for a while, to evaluate it or to save it."""
        if self.finalized:
            yield
            return
        if self._rounded:
            raise MrfqError("quantized() inside quantized(): the network has its rounded weights already")
        latents = self._all()
        with torch.no_grad():
            for latent in latents:
                latent.relaxed = latent.parameter.detach().clone()
        self._rounded = True
        try:
            with torch.no_grad():
                self._discretise()
            yield
        finally:
            self._rounded = False
            with torch.no_grad():
                for latent in latents:
                    latent.release()

    @torch.no_grad()
    def finalize(self, model: nn.Module | None = None, batches: Iterable[Any] | None = None) -> None:
        """Leave a discrete network: every weight a level, which is checked. No step can follow.

        Parameters
        ----------
        model : nn.Module, optional
        batches : iterable of (inputs, targets), optional
            Given both, the statistics of batch norm are re-estimated, and the network is left in evaluation mode.

        Raises
        ------
        InvalidParameterError
            One of the two without the other.
        """
        if (model is None) != (batches is None):
            raise InvalidParameterError("finalize: batch-norm statistics need both the model and batches")
        if not self.finalized:
            self._discretise()
            self.finalized = True
        if model is not None and batches is not None:
            reestimate(model, batches)

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Return how discrete the network is: beta, entropy (nats a weight), share of weights at a level, steps.

        It waits for the device; once an epoch is often enough.
        """
        latents = self._all()
        count = max(sum(latent.parameter.numel() for latent in latents), 1)
        sums = [latent.entropy() for latent in latents]
        betas = [group.beta(self.steps_done - 1) for group in self._groups if group.method is not None]
        return {
            "step": self.steps_done,
            "beta": betas[0] if betas else float("nan"),
            "entropy": sum(float(entropy) for entropy, _ in sums) / count,
            "discrete": sum(int(near) for _, near in sums) / count,
        }

    # ---- inside -----------------------------------------------------------------------------------------

    def _labelled(self, group: dict[str, Any]) -> LabelledGroup:
        """Make the latents of a parameter group, from its settings."""
        for name, value in self._settings.items():
            group[name] = as_plain(group.get(name, value))
        made = LabelledGroup(group, self.steps)
        for latent in made.latents:
            if self.base.state.get(latent.parameter) and latent.v.shape != latent.parameter.shape:
                raise InvalidParameterError(
                    f"{type(self.base).__name__} already has a state for a parameter of shape "
                    f"{tuple(latent.parameter.shape)}, and {type(latent.projection).__name__} needs latents of shape "
                    f"{tuple(latent.v.shape)}; wrap a base optimiser that has no state yet"
                )
        return made

    def _adopt(self, groups: list[LabelledGroup]) -> None:
        """Put groups to work: the network gets their weights, and latents the state that the base already has."""
        self._groups += groups
        for group in groups:
            for latent in group.latents:
                state = self.base.state.pop(latent.parameter, None)
                if state:
                    self.base.state[latent.v] = state
            group.project(self.steps_done - 1, mixing=1.0)

    def _link(self) -> None:
        """Share parameter groups, state and defaults with the base optimiser."""
        self.param_groups, self.state, self.defaults = self.base.param_groups, self.base.state, self.base.defaults

    @property
    def _exchange(self) -> Exchange:
        return Exchange(self.base, self._groups)

    def _all(self) -> list[Latent]:
        return [latent for group in self._groups for latent in group.latents]

    def _receive(self) -> None:
        for group in self._groups:
            group.receive(self.steps_done)

    def _discretise(self) -> None:
        for latent in self._all():
            latent.discretise()

    def _reevaluation(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure for the base optimiser: the network at the present latents, and their gradients."""
        evaluations = 0

        def reevaluate() -> Any:
            nonlocal evaluations
            with self._exchange.parameters(), torch.no_grad():  # base optimisers call closures with gradients enabled
                if evaluations:
                    for group in self._groups:
                        group.reproject(self.steps_done - 1)
                with torch.enable_grad():
                    loss = closure()
                self._receive()
            evaluations += 1
            return loss

        return reevaluate

    def _check_open(self) -> None:
        if self.finalized:
            raise MrfqError("this LabelOptimizer is finalized: its network is discrete and cannot be trained on")
        if self._rounded:
            raise MrfqError("the network has its rounded weights for a while: leave quantized() before you go on")

    def __getstate__(self) -> dict[str, Any]:
        # As in torch, copies have no hooks, and none of the `step` that schedulers put around the original.
        own = ("base", "steps", "steps_done", "finalized", "_settings", "_groups", "_ready", "_rounded")
        return {name: self.__dict__[name] for name in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._link()
        super().__setstate__({})

    def __repr__(self) -> str:
        quantized = sum(latent.parameter.numel() for latent in self._all())
        return f"LabelOptimizer({self.base!r}, {quantized} quantized weights, step {self.steps_done} of {self.steps})"
