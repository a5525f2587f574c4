"""Keypoints by OpenCV: ORB, SIFT and Shi-Tomasi corners, and the points of two pictures that match."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import InputError, UnknownNameError
from jetlens.frame import Image
from jetlens.learn.views import Look, Panel, opencv

__all__ = ["METHODS", "Keypoints", "Matches", "match", "turned"]

METHODS: Final = ("orb", "sift")
RATIO = 0.8
MATCHED = 2000
"""Points of a picture that are looked for to match; the panels show fewer."""
SMALLEST = 8
"""Pixels; ORB halves a picture's sides more than once."""
NEAR = 3.0
"""Pixels that a match may miss and still be right."""
_TURN = 25.0
_SHRINK = 0.85
_MOST_LINES = 70
_GREEN, _RED, _YELLOW = (70, 230, 90), (240, 60, 60), (255, 220, 60)
_LOOKS: Final[Mapping[str, tuple[tuple[int, int, int], float]]] = {
    "ORB": ((60, 220, 255), 0.1),
    "SIFT": ((255, 120, 220), 0.5),
    "Shi-Tomasi": (_GREEN, 0.4),
}
"""Colour and the circle's radius by the point's size: ORB's is the whole patch that it describes."""


class Matches:
    """Pairs of points of two pictures.

    Attributes:
        first: [N, 2] x and y in the first picture; ``second`` likewise.
        good: [N], those that one transformation explains (RANSAC), or that truth confirms.
    """

    def __init__(self, first: NDArray[np.float32], second: NDArray[np.float32], good: NDArray[np.bool_]) -> None:
        self.first, self.second, self.good = first, second, good


class Keypoints:
    """See ``View``; on a stream each frame is matched with the one before.

    Args:
        most: points of each kind.
        method: whose points are matched.
        other: the picture to match with; None takes the picture itself, turned by 25° and made smaller, where it is known what is right.
    """

    name = "keypoints"

    def __init__(self, most: int = 400, method: str = "orb", other: Image | None = None, *, stream: bool = False) -> None:
        if method not in METHODS:
            raise UnknownNameError("method of matching", method, METHODS)
        self._most, self._method, self._other, self._stream = most, method, other, stream
        self._before: Image | None = None

    @property
    def text(self) -> tuple[str, ...]:
        """The explanation."""
        return (
            "Shi-Tomasi (1994): a corner is where the smaller eigenvalue of Σ [Ix² IxIy; IxIy Iy²] over a window is large: brightness changes in all directions.",
            "ORB (Rublee et al. 2011): FAST corners on several scales, each with a direction and 256 comparisons of brightness; told apart by Hamming distance.",
            "SIFT (Lowe 2004): extrema of differences of Gaussians on several scales, each with a direction and 128 numbers; told apart by Euclidean distance.",
            f"Matching: the nearest description, kept where it is at most {RATIO:g} times as far as the second (Lowe's ratio test); RANSAC then keeps the matches "
            "that one homography explains.",
        )

    def __call__(self, image: Image) -> Look:
        """Three panels with the points of each kind, and the matches.

        Raises:
            InputError: a picture is too small to have points.
        """
        cv2 = opencv()
        for picture in (image, image if self._other is None else self._other):
            if min(picture.shape[:2]) < SMALLEST:
                raise InputError(
                    f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels is too small; keypoints need {SMALLEST} a side"
                )
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = {name: detect(cv2, gray, self._most) for name, detect in _DETECTORS.items()}
        panels = [Panel(f"{name}: {len(points)} points", _marked(cv2, image, points, name)) for name, points in found.items()]
        counts = {name: len(points) for name, points in found.items()}
        if self._stream:
            before, self._before = self._before, image
            matches = match(image, image if before is None else before, self._method)
            panels.insert(0, Panel(f"{self._method.upper()} matches with the frame before", _motion(cv2, image, matches)))
            line = f"{_words(counts)}; {len(matches.first)} matches, {int(matches.good.sum())} of one motion"
            return Look(panels, 2, (line,), {"points": counts, "matches": len(matches.first), "good": int(matches.good.sum())})
        other, truth = (self._other, None) if self._other is not None else turned(image)
        matches = match(image, other, self._method, truth)
        good, all_of_them = int(matches.good.sum()), len(matches.first)
        judged = f"within {NEAR:g} pixels of the truth" if truth is not None else "explained by one homography (RANSAC)"
        title = f"{self._method.upper()}: {all_of_them} matches, {good} {judged}"
        lines = (_words(counts), f"{title} ({good / max(1, all_of_them):.1%}), among up to {MATCHED:,} points of each picture")
        numbers = {"points": counts, "matches": all_of_them, "good": good, "judged_by": "truth" if truth is not None else "homography"}
        return Look(panels, 3, lines, numbers, (Panel(title, _pairs(cv2, image, other, matches)),))


def turned(image: Image) -> tuple[Image, NDArray[np.float64]]:
    """The picture turned by 25° and made smaller, and the matrix [2, 3] that takes its points along."""
    cv2 = opencv()
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), _TURN, _SHRINK)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_AREA), np.asarray(matrix, np.float64)


def match(first: Image, second: Image, method: str, truth: NDArray[np.float64] | None = None) -> Matches:
    """The matching points of two pictures.

    Args:
        truth: the matrix [2, 3] from the first to the second, where it is known; else a homography is fitted.
    """
    cv2 = opencv()
    finder, norm = (cv2.SIFT_create(MATCHED), cv2.NORM_L2) if method == "sift" else (cv2.ORB_create(MATCHED), cv2.NORM_HAMMING)
    sides = [finder.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image in (first, second)]
    if any(descriptions is None or len(descriptions) < 2 for _, descriptions in sides):
        return Matches(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty(0, bool))
    pairs = cv2.BFMatcher(norm).knnMatch(sides[0][1], sides[1][1], k=2)
    kept = [best for best, next_best in pairs if best.distance < RATIO * next_best.distance]
    a, b = (
        np.array([points[index].pt for index in indices], np.float32).reshape(-1, 2)
        for points, indices in ((sides[0][0], [row.queryIdx for row in kept]), (sides[1][0], [row.trainIdx for row in kept]))
    )
    if truth is not None:
        distance = np.linalg.norm(a @ truth[:, :2].T + truth[:, 2] - b, axis=1)
        return Matches(a, b, distance <= NEAR)
    good = np.zeros(len(a), bool)
    if len(a) >= 4:
        _, inside = cv2.findHomography(a, b, cv2.RANSAC, NEAR)
        good = good if inside is None else inside.ravel().astype(bool)
    return Matches(a, b, good)


def _orb(cv2: Any, gray: NDArray[np.uint8], most: int) -> list[Any]:
    return list(cv2.ORB_create(most).detect(gray, None))


def _sift(cv2: Any, gray: NDArray[np.uint8], most: int) -> list[Any]:
    return list(cv2.SIFT_create(most).detect(gray, None))[:most]


def _corners(cv2: Any, gray: NDArray[np.uint8], most: int) -> list[Any]:
    found = cv2.goodFeaturesToTrack(gray, most, 0.01, 5)
    return [] if found is None else [cv2.KeyPoint(float(x), float(y), 7) for x, y in found.reshape(-1, 2)]


_DETECTORS: Final[Mapping[str, Callable[[Any, NDArray[np.uint8], int], list[Any]]]] = {"ORB": _orb, "SIFT": _sift, "Shi-Tomasi": _corners}


def _marked(cv2: Any, image: Image, points: Sequence[Any], name: str) -> Image:
    """The points as circles of their scale, with a line in their direction."""
    drawn = image.copy()
    colour, scale = _LOOKS[name]
    for point in points:
        x, y = round(point.pt[0]), round(point.pt[1])
        radius = max(2, round(point.size * scale))
        cv2.circle(drawn, (x, y), radius, colour, 1, cv2.LINE_AA)
        if point.angle >= 0:
            turn = np.deg2rad(point.angle)
            cv2.line(
                drawn, (x, y), (round(x + radius * float(np.cos(turn))), round(y + radius * float(np.sin(turn)))), colour, 1, cv2.LINE_AA
            )
    return drawn


def _motion(cv2: Any, image: Image, matches: Matches) -> Image:
    """Lines from where the points were to where they are."""
    drawn = image.copy()
    for now, before in zip(matches.first[matches.good], matches.second[matches.good], strict=True):
        cv2.line(drawn, tuple(map(round, before.tolist())), tuple(map(round, now.tolist())), _YELLOW, 1, cv2.LINE_AA)
        cv2.circle(drawn, tuple(map(round, now.tolist())), 2, _GREEN, -1, cv2.LINE_AA)
    return drawn


def _pairs(cv2: Any, first: Image, second: Image, matches: Matches) -> Image:
    """Both pictures beside each other, with lines between the points that match: green where right, red where not."""
    height = max(first.shape[0], second.shape[0])
    canvas = np.zeros((height, first.shape[1] + second.shape[1], 3), np.uint8)
    canvas[: first.shape[0], : first.shape[1]] = first
    canvas[: second.shape[0], first.shape[1] :] = second
    order = np.linspace(0, len(matches.first) - 1, min(_MOST_LINES, len(matches.first))).astype(int)
    for index in sorted(order.tolist(), key=lambda at: bool(matches.good[at])):
        colour = _GREEN if matches.good[index] else _RED
        a, b = matches.first[index], matches.second[index] + (first.shape[1], 0)
        start, end = (tuple(map(round, point.tolist())) for point in (a, b))
        cv2.line(canvas, start, end, colour, 1, cv2.LINE_AA)
        for point in (start, end):
            cv2.circle(canvas, point, 3, colour, 1, cv2.LINE_AA)
    return canvas


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name} points" for name, count in counts.items())
