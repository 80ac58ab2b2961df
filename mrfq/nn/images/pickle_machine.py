"""The stack machine that a pickle is a program for, without the instructions that could run anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mrfq.nn.images.pickled_arrays import NAMES, Array, Name, RefusedError, Type, called, set_content, set_order

#: how deep lists, tuples and dictionaries may be nested
DEEPEST = 20


class Machine:
    """The stack, what was below each open mark, and what was stored under a number.

    Parameters
    ----------
    letters : int
        Of texts that may be turned into byte strings: as many as the file has bytes, however often it repeats one.
    """

    def __init__(self, letters: int) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.letters = letters

    def run(self, instruction: str, argument: Any) -> None:
        """Execute one instruction."""
        _ACTIONS[instruction](self, argument)

    def result(self) -> Any:
        """Return the value that a finished program leaves."""
        if len(self.stack) != 1 or self.below:
            raise RefusedError("a pickle that leaves more or less than one value")
        return _Finishing().finished(self.stack[0])

    # ---- the stack ------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise RefusedError("an instruction that takes a value where there is none")
        return self.stack.pop()

    def top(self, kind: type[Any]) -> Any:
        """Return the value on top, which stays there."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise RefusedError(f"an instruction that needs a {kind.__name__.lower()} where there is none")
        return self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return the values above the last mark, and take them and the mark away."""
        if not self.below:
            raise RefusedError("an instruction that needs a mark where there is none")
        values, self.stack = self.stack, self.below.pop()
        return values

    # ---- instructions ---------------------------------------------------------------------------------

    def put(self, number: int) -> None:
        value = self.pop()
        self.memo[number] = value
        self.push(value)

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise RefusedError(f"the stored value {number}, which there is not")
        self.push(self.memo[number])

    def name(self, text: str) -> None:
        if Name(text) not in NAMES:
            raise RefusedError(f"the name {text[:60]!r}")
        self.push(Name(text))

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        items = self.top(dict)
        if len(values) % 2:
            raise RefusedError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, bytes | str | int):
                raise RefusedError(f"a key of type {type(key).__name__}")
            items[key] = value

    def set_item(self) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        made = called(function, arguments)
        self.letters -= len(made) if isinstance(made, bytes) else 0
        if self.letters < 0:
            raise RefusedError("byte strings that are made again and again")
        self.push(made)

    def build(self) -> None:
        state = self.pop()
        if self.stack and type(self.stack[-1]) is Type:
            set_order(self.stack[-1], state)
        else:
            set_content(self.top(Array), state)


_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "VALUE": Machine.push,
    "NONE": lambda machine, _: machine.push(None),
    "TRUE": lambda machine, _: machine.push(True),
    "FALSE": lambda machine, _: machine.push(False),
    "LIST": lambda machine, _: machine.push([]),
    "DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.mark(),
    "PUT": Machine.put,
    "GET": Machine.get,
    "GLOBAL": Machine.name,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE0": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


class _Finishing:
    """Puts arrays in their places; what contains itself, or is only half made, is refused."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def finished(self, item: Any, depth: int = 0) -> Any:
        if isinstance(item, bytes | str | int | float | None):
            return item
        if depth > DEEPEST:
            raise RefusedError("data that are nested too deep")
        if id(item) not in self.done:
            self.done[id(item)] = self._made(item, depth + 1)
        return self.done[id(item)]

    def _made(self, item: Any, depth: int) -> Any:
        if isinstance(item, Array) and item.content is not None:
            return item.content
        if isinstance(item, dict):
            return {key: self.finished(entry, depth) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return type(item)([self.finished(entry, depth) for entry in item])
        raise RefusedError("a value that is only half made")
