"""Methods that stand for an async one, with its arguments and results: blocking, or of another object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_args

from sessions.core.blocking import run_blocking

__all__ = ["blocking", "delegating", "iterating"]

P = ParamSpec("P")
R = TypeVar("R")
Find = Callable[[Any], Any]
Iterate = Callable[[AsyncGenerator[R, None]], Iterator[R]]

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

    _name(twin, method, name, is_beside=of is _itself)
    return cast("Twin[P, R]", twin)


def delegating(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], *, to: Find
) -> Twin[P, Coroutine[Any, Any, R]]:
    """Return an async method that calls the one of another object.

    Args:
        method: The async method.
        to: Returns the object to call it of.
    """

    async def delegated(self: Any, *args: Any, **options: Any) -> Any:
        return await getattr(to(self), method.__name__)(*args, **options)

    functools.update_wrapper(delegated, method)
    return cast("Twin[P, Coroutine[Any, Any, R]]", delegated)


def _iterate(items: AsyncGenerator[R, None]) -> Iterator[R]:
    async def step() -> R | None:
        return await anext(items, None)

    try:
        while (item := run_blocking(step)) is not None:
            yield item
    finally:
        run_blocking(items.aclose)


def iterating(
    method: Callable[Concatenate[Any, P], AsyncGenerator[R, None]],
    name: str = "",
    *,
    of: Find = _itself,
    by: Iterate[R] = _iterate,
) -> Twin[P, Iterator[R]]:
    """Return a method that yields the items of an async generator, and closes it at the end.

    Args:
        method: The method that returns the generator; an override in a subclass is called instead.
        name: As for `blocking`.
        of: As for `blocking`.
        by: Iterates over the generator; by default each item, which is never None, is a call of its own.
    """

    def twin(self: Any, *args: Any, **options: Any) -> Any:
        return by(getattr(of(self), method.__name__)(*args, **options))

    _name(twin, _returning_iterator(method), name, is_beside=of is _itself)
    return cast("Twin[P, Iterator[R]]", twin)


def _returning_iterator(method: Any) -> Callable[..., Any]:
    """Return a function with the signature of the twin, for what asks for it: it is never called."""
    item = get_args(inspect.signature(method, eval_str=True).return_annotation)[0]
    copy = FunctionType(
        method.__code__, method.__globals__, method.__name__, method.__defaults__, method.__closure__
    )
    copy.__kwdefaults__, copy.__doc__ = method.__kwdefaults__, method.__doc__
    copy.__annotations__ = method.__annotations__ | {"return": Iterator[item]}  # type: ignore[valid-type]
    return copy


def _name(twin: Any, method: Callable[..., Any], name: str, *, is_beside: bool) -> None:
    """Name and document a twin; ``is_beside`` if its class has the async method, too."""
    functools.update_wrapper(twin, method)
    if name:
        twin.__name__ = twin.__qualname__ = name
    if is_beside:
        summary, separator, details = (inspect.getdoc(method) or "").partition("\n")
        twin.__doc__ = f"{summary.removesuffix('.')}; blocking.{separator}{details}"
