"""Models of pydantic from values that were valid when they were stored.

Validation would take longer than the read. Pydantic's own ways to leave it out, ``model_construct`` and
``model_copy``, take as long: they look at each field. This sets the attributes that `pydantic.BaseModel`
documents, as ``model_construct`` does. The tests of the modules that use it compare each model with a
validated one.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

__all__ = ["rebuilt"]

Model = TypeVar("Model", bound=BaseModel)

_set = object.__setattr__


def rebuilt(model_class: type[Model], fields: dict[str, Any], extra: dict[str, Any] | None = None) -> Model:
    """Return a model with these fields.

    Args:
        model_class: Its class, which has neither private attributes nor ``model_post_init``.
        fields: All fields of the class, with values as validation returns them. It becomes the model's own.
        extra: Further fields; None if the class does not allow any.
    """
    model = model_class.__new__(model_class)
    _set(model, "__dict__", fields)
    _set(model, "__pydantic_fields_set__", {*fields, *extra} if extra else set(fields))
    _set(model, "__pydantic_extra__", extra)
    _set(model, "__pydantic_private__", None)
    return model
