"""TLS to a PostgreSQL server, by libpq's parameters."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sessions.backends.postgres.parameters import SSL_MODES
from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["tls_arguments"]

SYSTEM: Final = "system"
VERSIONS: Final = ("ssl_min_protocol_version", "ssl_max_protocol_version")
OF_CLIENT: Final = ("sslcert", "sslkey", "sslpassword")


class _Context(ssl.SSLContext):
    """Sends the name of the host, and checks it, if the connection is to its address."""

    names: Mapping[str, str] = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: Any = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        name = self.names.get(server_hostname, server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, name, session)


def tls_arguments(
    mode: str | bool | None, parameters: Mapping[str, str], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of ``asyncpg.connect`` for TLS. Reads the files each time.

    Args:
        mode: libpq's ``sslmode``, or whether to use TLS: True is ``verify-full``, with the system's
            authorities unless ``sslrootcert`` is set. None for the default of the driver.
        parameters: Parameters of the URL.
        names: Names of the hosts by address, for ``hostaddr``.

    Raises:
        ConfigurationError: A file cannot be read, or has invalid content; the text names the parameter and
            the file.
    """
    root = parameters.get("sslrootcert")
    if isinstance(mode, bool):
        mode, root = ("verify-full", root or SYSTEM) if mode else ("disable", root)
    mode = mode or os.environ.get("PGSSLMODE") or ("verify-full" if root == SYSTEM else None)
    if mode is not None and mode not in SSL_MODES:
        raise ConfigurationError(f"PGSSLMODE: must be one of {', '.join(sorted(SSL_MODES))}")
    direct = parameters.get("sslnegotiation") == "direct"
    if direct and mode not in ("require", "verify-ca", "verify-full"):
        raise _error("sslnegotiation", "direct needs sslmode=require, verify-ca or verify-full")
    if mode not in ("require", "verify-ca", "verify-full"):
        return _without_certainty(mode, parameters)
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.names = names
    context.check_hostname = mode == "verify-full"
    _load_authorities(context, mode, root or os.environ.get("PGSSLROOTCERT"))
    _load_revoked(context, parameters)
    _load_certificate(context, parameters)
    minimum, maximum = (
        parameters.get(name) or os.environ.get("PG" + name.replace("_", "").upper()) for name in VERSIONS
    )
    context.minimum_version = _version(minimum or "TLSv1.2")
    if maximum:
        context.maximum_version = _version(maximum)
    context.set_alpn_protocols(["postgresql"])
    return {"ssl": context} | ({"direct_tls": True} if direct else {})


def _without_certainty(mode: str | None, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for modes that may connect without TLS, which the driver negotiates."""
    given = {name: parameters[name] for name in (*OF_CLIENT, *VERSIONS) if name in parameters}
    for name in OF_CLIENT[:2]:
        if name in given:
            _check_readable(name, given[name])
    for name in VERSIONS:
        if name in given:
            given[name] = _version(given[name]).name.replace("_", ".")
    # In a DSN: the driver has no arguments for these.
    arguments: dict[str, Any] = {"dsn": f"postgresql://?{urlencode(given)}"} if given else {}
    return arguments if mode is None else arguments | {"ssl": mode}


def _load_authorities(context: ssl.SSLContext, mode: str, root: str | None) -> None:
    if root == SYSTEM:
        if mode != "verify-full":
            raise _error("sslrootcert", "system needs sslmode=verify-full")
        context.load_default_certs()
    elif root is not None:
        _check_readable("sslrootcert", root)
        with _reading("sslrootcert", root):
            context.load_verify_locations(cafile=root)
    elif (default := _default("root.crt")) is not None:
        with _reading("sslrootcert", default):
            context.load_verify_locations(cafile=default)
    elif mode == "require":
        context.verify_mode = ssl.CERT_NONE
    else:
        raise _error(
            "sslrootcert",
            f"sslmode={mode} needs it, in the URL or as PGSSLROOTCERT, where there is no "
            "~/.postgresql/root.crt; system takes the authorities that the system trusts",
        )


def _load_revoked(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    path = parameters.get("sslcrl") or os.environ.get("PGSSLCRL") or _default("root.crl")
    if path is not None and context.verify_mode is not ssl.CERT_NONE:
        _check_readable("sslcrl", path)
        with _reading("sslcrl", path):
            context.load_verify_locations(cafile=path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _load_certificate(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    certificate = parameters.get("sslcert") or os.environ.get("PGSSLCERT") or _default("postgresql.crt")
    key = parameters.get("sslkey") or os.environ.get("PGSSLKEY") or _default("postgresql.key")
    if certificate is None:
        return
    _check_readable("sslcert", certificate)
    if key is not None:
        _check_readable("sslkey", key)
    password = parameters.get("sslpassword", "")
    # OpenSSL does not report which of them is wrong, and prompts on the terminal without a password.
    with _reading("sslcert, sslkey or sslpassword", certificate):
        context.load_cert_chain(certificate, key, password=lambda: password)


def _default(name: str) -> str | None:
    """Return a file in libpq's default directory, if it exists."""
    with contextlib.suppress(RuntimeError, OSError):  # No home directory, or not readable.
        path = Path.home() / ".postgresql" / name
        return str(path) if path.exists() else None
    return None


def _check_readable(name: str, path: str) -> None:
    with _reading(name, path), open(path, "rb") as file:
        file.read(1)


@contextlib.contextmanager
def _reading(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise _error(
            name, f"{shown(path)}: is not what it should be ({error.reason or 'SSLError'})"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise _error(name, f"{shown(path)}: cannot be read ({reason})") from error


def _version(text: str) -> ssl.TLSVersion:
    try:
        return ssl.TLSVersion[text.replace(".", "_").replace("tls", "TLS")]
    except KeyError:
        raise _error("ssl_min_protocol_version", "is not a version of TLS, such as TLSv1.2") from None


def _error(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"db.postgres.url: {name}: {reason}")
