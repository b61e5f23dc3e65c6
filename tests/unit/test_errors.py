from __future__ import annotations

import copy
import pickle

import pytest

import sessions
from sessions import errors

PARENTS = {
    errors.SessionsError: (Exception,),
    errors.ConfigurationError: (errors.SessionsError,),
    errors.InvalidInputError: (errors.SessionsError, ValueError),
    errors.SessionNotFoundError: (errors.SessionsError, LookupError),
    errors.SessionConflictError: (errors.SessionsError,),
    errors.MessageConflictError: (errors.SessionsError,),
    errors.VersionConflictError: (errors.SessionsError,),
    errors.TurnConflictError: (errors.SessionsError,),
    errors.BackendUnavailableError: (errors.SessionsError,),
    errors.SchemaOutdatedError: (errors.SessionsError,),
    errors.UnknownRepositoryError: (errors.SessionsError, LookupError),
    errors.MissingDependencyError: (errors.SessionsError, ImportError),
}


@pytest.mark.parametrize(("error", "parents"), PARENTS.items())
def test_each_error_has_the_root_and_the_python_class_that_callers_expect(
    error: type[Exception], parents: tuple[type[Exception], ...]
) -> None:
    assert error.__bases__ == parents


def test_the_table_above_has_every_error_and_all_of_them_are_public() -> None:
    assert {error.__name__ for error in PARENTS} == set(errors.__all__)
    assert set(errors.__all__) <= set(sessions.__all__)
    assert all(getattr(sessions, name) is getattr(errors, name) for name in errors.__all__)


def test_invalid_input_names_the_argument_and_the_reason() -> None:
    error = errors.InvalidInputError("metadata.tags[2]", "must be a finite number")

    assert (error.argument, error.reason) == ("metadata.tags[2]", "must be a finite number")
    assert str(error) == "metadata.tags[2]: must be a finite number"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_invalid_input_survives_pickling(protocol: int) -> None:
    error = errors.InvalidInputError("role", "must be 'user' or 'assistant'")

    found = pickle.loads(pickle.dumps(error, protocol))

    assert type(found) is errors.InvalidInputError
    assert (found.argument, found.reason, str(found)) == (error.argument, error.reason, str(error))
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("error", [error for error in PARENTS if error is not errors.InvalidInputError])
def test_every_other_error_survives_pickling(error: type[Exception]) -> None:
    found = pickle.loads(pickle.dumps(error("the text")))

    assert type(found) is error
    assert str(found) == "the text"
