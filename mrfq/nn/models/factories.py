"""The user's own network: a function that makes it, named as ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mrfq.errors import InvalidParameterError
from mrfq.nn.models.layers import seeded
from mrfq.user_functions import accepted, called, current_directory_importable, named_function


def is_spec(name: str) -> bool:
    """Whether a name of a network is that of a factory."""
    return ":" in name


def factory(spec: str, *, seed: int = 0, required: Mapping[str, object] | None = None, **offered: object) -> nn.Module:
    """Return the network that a function of the user's makes.

    The module is imported with the current directory in front of the path; the function is called with torch's
    global generators seeded, and they are put back afterwards.

    Parameters
    ----------
    spec : str
        `"package.module:function"`; the function may also be a class, or an attribute of one.
    seed : int
    required : mapping, optional
        Arguments that the function must accept.
    **offered
        Arguments that are passed if the function accepts them by name, and left out otherwise.

    Raises
    ------
    InvalidParameterError
        The text is not of that form, there is no such module or function, either fails, the function needs other
        arguments, or what it returns is not an `nn.Module`.

    Examples
    --------
    >>> factory("torch.nn:Flatten", channels=3, size=32, classes=10)
    Flatten(start_dim=1, end_dim=-1)
    """
    place = f"model {spec!r}"
    with current_directory_importable():
        make = named_function(place, spec, "factory")
        arguments = accepted(place, make, offered, required)
        with seeded(seed):
            made = called(place, spec, make, arguments)
    if not isinstance(made, nn.Module):
        raise InvalidParameterError(f"{place}: must return a torch.nn.Module, got {type(made).__name__}")
    return made
