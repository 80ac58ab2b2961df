"""Orders in which to eliminate variables, and what each would cost, found without touching any cost table.

Eliminating a variable joins all tables it is in; the largest joint table decides whether exact inference is possible.
Finding the best order is NP-hard, so a few cheap ones are compared.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

Graph = list[set[int]]
#: tables beyond this many entries are not followed: no machine holds them
LIMIT = 2**40
#: the fill-in of a variable with more neighbours is not counted but taken to be the largest possible
COUNTED = 64
#: min-fill is not tried on more variables than this: it takes tens of seconds there
FILLED = 20_000


@dataclass(frozen=True)
class Order:
    """An elimination order and its costs, in table entries.

    Examples
    --------
    >>> order = elimination_order([2, 2, 2, 2], [(0, 1), (1, 2), (2, 3), (3, 0)])
    >>> order.width, order.table_size
    (2, 8)
    """

    #: the variables, first eliminated first
    sequence: tuple[int, ...]
    #: largest number of other variables in a joint table: an upper bound of the treewidth, met on trees
    width: int
    #: entries of the largest joint table
    table_size: int
    #: entries of all joint tables, which is what elimination computes
    total_size: int
    #: entries of all messages, each of which leaves a back-pointer
    message_size: int
    #: largest number of entries of messages alive at once
    live_size: int
    #: whether it was followed to its end; if not, it was given up at a table over the limit, and the figures are
    #: those up to there
    complete: bool = True


def elimination_order(cardinalities: Iterable[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> Order:
    """Return the order with the smallest largest table out of min-weight, natural, reverse Cuthill-McKee and min-fill.

    Parameters
    ----------
    cardinalities : (n,) integers
        Number of labels of each variable.
    scopes : iterable of sequences of int
        The variables of each factor.
    limit : int
        Entries of a table at which an order is given up.

    Notes
    -----
    Min-weight and min-fill are greedy: next comes the variable with the smallest joint table, or with the fewest
    pairs of neighbours that are not yet neighbours (Kjaerulff 1990; Koller and Friedman, Probabilistic Graphical
    Models, 2009, section 9.4.3). They keep a heap, as trying every variable at every step is quadratic on a chain.
    """
    cards = [int(c) for c in cardinalities]
    distinct = [tuple(s) for s in {frozenset(scope) for scope in scopes}]
    floor = max((math.prod(cards[i] for i in scope) for scope in distinct), default=1)
    best: Order | None = None
    rules = (min_weight, natural, cuthill_mckee) + (min_fill,) * (len(cards) <= FILLED)
    for rule in rules:
        order = follow(rule(cards, distinct, limit), cards, distinct, limit)
        if best is None or _rank(order) < _rank(best):
            best = order
        if best.complete:
            limit = best.table_size
        if best.table_size <= floor and best.complete:  # no order avoids the largest factor
            break
    assert best is not None
    return best


def _rank(order: Order) -> tuple[bool, int, int]:
    return not order.complete, order.table_size, order.total_size


def follow(sequence: Sequence[int], cards: Sequence[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> Order:
    """Return what it costs to eliminate in this order, up to the first table of more than `limit` entries."""
    position = {v: p for p, v in enumerate(sequence)}
    buckets: list[list[set[int]]] = [[] for _ in sequence]
    arrivals = [0] * len(sequence)  # entries of the messages each bucket has received
    for scope in scopes:
        if scope:
            buckets[min(position[i] for i in scope)].append(set(scope))
    width, largest, total, messages, live, peak = 0, 1, 0, 0, 0, 0
    for p, v in enumerate(sequence):
        joint = {v}.union(*buckets[p])
        buckets[p] = []
        size = math.prod(cards[i] for i in joint)
        width, largest, total = max(width, len(joint) - 1), max(largest, size), total + size
        if size > limit:
            return Order(tuple(sequence), width, largest, total, messages, peak, complete=False)
        joint.discard(v)
        message = size // cards[v]
        messages, live = messages + message, live + message
        peak = max(peak, live)
        live -= arrivals[p]
        if joint:
            target = min(position[i] for i in joint)
            buckets[target].append(joint)
            arrivals[target] += message
        else:
            live -= message
    return Order(tuple(sequence), width, largest, total, messages, peak)


def natural(cards: Sequence[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> list[int]:
    """Return 0..n-1: good for images numbered row by row."""
    return list(range(len(cards)))


def cuthill_mckee(cards: Sequence[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> list[int]:
    """Return the reverse Cuthill-McKee order, which keeps neighbours close: good for long thin graphs."""
    ends = np.array([(i, j) for s in scopes for i in s for j in s if i != j], dtype=np.int64).reshape(-1, 2)
    matrix = csr_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(cards), len(cards)))
    return [int(i) for i in reverse_cuthill_mckee(matrix, symmetric_mode=True)]


def min_weight(cards: Sequence[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> list[int]:
    """Return the greedy order by the size of the joint table; min-degree where all have as many labels."""
    weight = [math.log2(c) for c in cards]

    def cost(graph: Graph, v: int) -> float:
        return weight[v] + sum(weight[i] for i in graph[v]) if len(graph[v]) <= COUNTED else float(len(graph[v]))

    return _greedy(cards, scopes, cost, limit, wide=False)


def min_fill(cards: Sequence[int], scopes: Iterable[Sequence[int]], limit: int = LIMIT) -> list[int]:
    """Return the greedy order by the number of edges that eliminating a variable adds."""

    def cost(graph: Graph, v: int) -> float:
        around = graph[v]
        if len(around) > COUNTED:
            return len(around) * (len(around) - 1) / 2
        return sum(len(around - graph[i]) - 1 for i in around) / 2

    return _greedy(cards, scopes, cost, limit, wide=True)


def _greedy(
    cards: Sequence[int],
    scopes: Iterable[Sequence[int]],
    cost: Callable[[Graph, int], float],
    limit: int,
    wide: bool,
) -> list[int]:
    """Eliminate a cheapest variable at a time; past a table over the limit the rest comes as it is.

    `wide` says that costs depend on edges between neighbours, not on the neighbours alone.
    """
    graph = _neighbours(len(cards), scopes)
    current = [cost(graph, v) for v in range(len(cards))]
    heap = [(c, v) for v, c in enumerate(current)]
    heapq.heapify(heap)
    sequence: list[int] = []
    done = [False] * len(cards)
    while heap:
        c, v = heapq.heappop(heap)
        if done[v] or c != current[v]:
            continue  # an entry from before its cost changed
        around = graph[v]
        sequence.append(v)
        done[v] = True
        everything_left = len(sequence) + len(around) == len(cards)
        if everything_left or math.prod(cards[i] for i in around) * cards[v] > limit:
            break
        for i in _connect(graph, v, wide):
            new = cost(graph, i)
            if new != current[i]:
                current[i] = new
                heapq.heappush(heap, (new, i))
    return sequence + [v for v, gone in enumerate(done) if not gone]


def _neighbours(n: int, scopes: Iterable[Sequence[int]]) -> Graph:
    graph: Graph = [set() for _ in range(n)]
    for scope in scopes:
        for i, j in itertools.combinations(scope, 2):
            graph[i].add(j)
            graph[j].add(i)
    return graph


def _connect(graph: Graph, v: int, wide: bool) -> set[int]:
    """Take v out of the graph, make its neighbours a clique, and return the variables whose costs may have changed."""
    around = graph[v]
    changed = set(around)
    for i in around:
        new = around - graph[i]
        new.discard(i)
        if wide:
            for j in new:
                changed |= graph[i] & graph[j]
        graph[i] |= new
        graph[i].discard(v)
    changed.discard(v)
    return changed
