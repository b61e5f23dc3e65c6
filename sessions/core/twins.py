"""Blocking twins: methods that run an async one on the background loop, with its arguments and results."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from sessions.core.blocking import run_blocking

__all__ = ["blocking", "iterate"]

P = ParamSpec("P")
R = TypeVar("R")
Find = Callable[[Any], Any]

if TYPE_CHECKING:

    class Twin(Generic[P, R]):
        """The type of a twin for type checkers: bound to an object, it takes the arguments of the method."""

        def __get__(self, instance: object, owner: type | None = None) -> Callable[P, R]: ...


def _itself(caller: Any) -> Any:
    return caller


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], name: str = "", *, of: Find = _itself
) -> Twin[P, R]:
    """Return a method that calls an async one and waits, from any thread.

    Args:
        method: The async method; an override in a subclass is called instead.
        name: Name of the twin; empty for the async method's own.
        of: Returns the object to call the async method of.
    """

    def twin(self: Any, *args: Any, **options: Any) -> Any:
        return run_blocking(getattr(of(self), method.__name__), *args, **options)

    functools.update_wrapper(twin, method)
    if name:
        twin.__name__ = twin.__qualname__ = name
    if of is _itself:  # The class has the async method, too.
        summary, separator, details = (inspect.getdoc(method) or "").partition("\n")
        twin.__doc__ = f"{summary.removesuffix('.')}; blocking.{separator}{details}"
    return cast("Twin[P, R]", twin)


def iterate(items: AsyncGenerator[R, None]) -> Iterator[R]:
    """Yield the items, never None, of an async generator, and close it at the end."""

    async def step() -> R | None:
        return await anext(items, None)

    try:
        while (item := run_blocking(step)) is not None:
            yield item
    finally:
        run_blocking(items.aclose)
