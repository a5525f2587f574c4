"""Exact assignment: which rows belong to which columns so that the weights of the pairs sum to the most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_pairs"]


def best_pairs(weights: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The pairs (row, column) [M, 2] of highest total weight, rows ascending, each row and column at most once.

    Args:
        weights: [R, C]; only pairs above 0 are ever taken, so that a weight of 0 or less forbids one.
    """
    found: list[tuple[int, int]] = []
    for rows, columns in _islands(weights > 0):
        if len(rows) == 1:
            found.append((int(rows[0]), int(columns[weights[rows[0], columns].argmax()])))
            continue
        island = np.maximum(weights[np.ix_(rows, columns)].astype(np.float64), 0)
        turned = len(rows) > len(columns)
        for row, column in enumerate(_cheapest(-island.T if turned else -island)):
            pair = (int(column), row) if turned else (row, int(column))
            if island[pair] > 0:
                found.append((int(rows[pair[0]]), int(columns[pair[1]])))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _islands(allowed: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns that no allowed pair joins to others: each group is solved by itself, and most are of one pair."""
    waiting = allowed.any(axis=1)
    while waiting.any():
        rows: NDArray[np.bool_] = np.zeros(len(allowed), bool)
        rows[waiting.argmax()] = True
        while True:
            columns = allowed[rows].any(axis=0)
            reached = np.asarray(allowed[:, columns].any(axis=1))
            if (reached == rows).all():
                break
            rows = reached
        yield np.flatnonzero(rows), np.flatnonzero(columns)
        waiting &= ~rows


def _cheapest(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of each row at the lowest total cost; [R, C] with R <= C. Shortest augmenting paths over reduced costs (Kuhn, Munkres)."""
    rows, columns = costs.shape
    row_price = np.zeros(rows)
    # Column 0 is where each search starts; the true columns are 1 to C.
    column_price = np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)
    for row in range(rows):
        owner[0] = row
        here = 0
        distance = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, np.int64)
        done = np.zeros(columns + 1, bool)
        while owner[here] >= 0:
            done[here] = True
            reduced = costs[owner[here]] - row_price[owner[here]] - column_price[1:]
            nearer = ~done[1:] & (reduced < distance[1:])
            distance[1:][nearer] = reduced[nearer]
            before[1:][nearer] = here
            following = int(np.where(done, np.inf, distance)[1:].argmin()) + 1
            step = distance[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            distance[~done] -= step
            here = following
        while here:
            owner[here] = owner[before[here]]
            here = int(before[here])
    answer = np.empty(rows, np.int64)
    for column in range(1, columns + 1):
        if owner[column] >= 0:
            answer[owner[column]] = column - 1
    return answer
