"""What a route replies, said above its function for the OpenAPI document; all else is read off the code.

    @operators.put("/v1/addons/<name>")
    @gives(AddonView, 200, 201)
    def _put_addon(name: str) -> Response:

A shape is a class with ``as_json``; ``str``, ``int`` or ``bool``; a list of one shape; an object of shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from keybroker.web.problems import JSON_TYPE

Shape = Any

_View = TypeVar("_View", bound=Callable[..., Any])

_TOLD: Final = "keybroker_told"


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of a route's replies.

    Attributes:
        shape: of the reply's document; None for text that is no JSON, or whose shape is nobody's to say.
        statuses: that it replies with where nothing is wrong.
        media: Content-Type of the reply.
    """

    shape: Shape
    statuses: tuple[int, ...]
    media: str


def gives(shape: Shape, *statuses: int, media: str = JSON_TYPE, **more: Shape) -> Callable[[_View], _View]:
    """Say what a route replies; 200 unless other statuses are given.

    Args:
        more: fields of the reply beside those of ``shape``.
    """
    told = Told((shape, more) if more else shape, statuses or (200,), media)

    def tell(view: _View) -> _View:
        setattr(view, _TOLD, told)
        return view

    return tell


def told_of(view: Callable[..., Any]) -> Told | None:
    """Return what was said of a route."""
    found: Told | None = getattr(view, _TOLD, None)
    return found
