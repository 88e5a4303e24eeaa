"""What may be asked next: whoever has changed something at a path may go on at it and below it. Pure."""

from __future__ import annotations

from typing import Any, Final

_MAKES: Final = ("put", "post")


def add_links(paths: dict[str, dict[str, Any]]) -> None:
    """Add links (OpenAPI 3.1, "Link Object") from each PUT and POST with parameters to what lies below it."""
    for path, methods in paths.items():
        for method in _MAKES:
            operation = methods.get(method)
            if operation is not None and "{" in path:
                links = _links(path, operation["operationId"], paths)
                for status, response in operation["responses"].items():
                    if status in ("200", "201") and links:
                        response["links"] = links


def _links(path: str, own: str, paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    links: dict[str, Any] = {}
    given = _parameters(path)
    for other, methods in paths.items():
        if _shape(other)[: len(_shape(path))] != _shape(path):
            continue
        for method in ("get", "put", "post", "delete"):
            operation = methods.get(method)
            if operation is None or operation["operationId"] == own:
                continue
            filled = zip(_parameters(other), given, strict=False)
            parameters = {f"path.{name}": f"$request.path.{value}" for name, value in filled}
            links[operation["operationId"]] = {
                "operationId": operation["operationId"],
                "parameters": parameters,
            }
    return links


def _shape(path: str) -> list[str]:
    return ["{}" if part.startswith("{") else part for part in path.split("/")]


def _parameters(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]
