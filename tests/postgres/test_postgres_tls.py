"""TLS to PostgreSQL, on a real server behind a TLS-terminating proxy."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from sessions import BackendUnavailableError, ConfigurationError, RetryConfig, SessionRepositoryFactory
from tests.support.tls_postgres import tls_front

SECRET = "hunter2-Zq9"
QUICK = RetryConfig(max_attempts=3, base_delay=0.01)


@pytest.fixture(autouse=True)
def _without_libpqs_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSLMODE", "SSLROOTCERT", "SSLCERT", "SSLKEY", "SSLCRL"):
        monkeypatch.delenv(f"PG{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


async def count(url: str, **options: Any) -> int:
    async with SessionRepositoryFactory.create_repository(
        "postgres", url=url, retry=QUICK, **options
    ) as found:
        return await found.count_sessions("alice")


def url_of(postgres_url: str, port: int, query: str, host: str = "127.0.0.1") -> str:
    split = urlsplit(postgres_url)
    return f"postgresql://{split.username}:{SECRET}@{host}:{port}{split.path}?{query}"


async def test_every_mode_of_tls_connects(postgres_url: str, tmp_path: Path) -> None:
    async with tls_front(postgres_url, tmp_path) as front:
        for query in (
            "sslmode=require",
            "sslmode=require&channel_binding=require",
            "ssl=true",
            "sslmode=prefer",
            "sslmode=prefer&ssl_min_protocol_version=TLSv1.3",
            "",
            f"sslmode=verify-ca&sslrootcert={front.root}",
            f"sslmode=verify-full&sslrootcert={front.root}",
            f"sslmode=verify-full&sslrootcert={front.root}&ssl_min_protocol_version=TLSv1.3",
            f"sslmode=require&sslrootcert={front.root}",
        ):
            assert await count(url_of(postgres_url, front.port, query)) == 0, query
        assert await count(url_of(postgres_url, front.port, f"sslrootcert={front.root}"), ssl=True) == 0
        assert (
            await count(url_of(postgres_url, front.port, f"sslrootcert={front.root}"), ssl="verify-ca") == 0
        )


async def test_the_hosts_name_is_checked_also_where_its_address_is_given(
    postgres_url: str, tmp_path: Path
) -> None:
    async with tls_front(postgres_url, tmp_path) as front:
        query = f"sslmode=verify-full&sslrootcert={front.root}&hostaddr=127.0.0.1"
        assert await count(url_of(postgres_url, front.port, query, "db.example")) == 0
        assert front.names[-1] == "db.example"
        with pytest.raises(BackendUnavailableError, match="other"):
            await count(url_of(postgres_url, front.port, query, "other.example"))


async def test_a_client_shows_its_certificate(postgres_url: str, tmp_path: Path) -> None:
    async with tls_front(postgres_url, tmp_path, wants_certificate=True) as front:
        certificate = f"sslcert={front.certificate}&sslkey={front.key}"
        for mode in ("require", f"verify-full&sslrootcert={front.root}", "prefer"):
            assert await count(url_of(postgres_url, front.port, f"sslmode={mode}&{certificate}")) == 0
        with pytest.raises(BackendUnavailableError, match=f"127.0.0.1:{front.port}"):
            await count(url_of(postgres_url, front.port, "sslmode=require"))


async def test_tls_may_begin_at_once(postgres_url: str, tmp_path: Path) -> None:
    async with tls_front(postgres_url, tmp_path, direct=True) as front:
        query = f"sslnegotiation=direct&sslmode=verify-full&sslrootcert={front.root}"
        assert await count(url_of(postgres_url, front.port, query)) == 0


async def test_a_certificate_of_another_authority_is_refused_at_once(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with tls_front(postgres_url, tmp_path) as front:
        for query in (f"sslmode=verify-ca&sslrootcert={other}", "sslmode=verify-full&sslrootcert=system"):
            with pytest.raises(BackendUnavailableError) as caught:
                await count(url_of(postgres_url, front.port, query))
            text = str(caught.value)
            assert text.startswith(f"cannot reach PostgreSQL at 127.0.0.1:{front.port}, database ")
            assert "certificate is refused" in text
            assert "sslrootcert" in text
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert SECRET not in text
    assert "attempt" not in caplog.text


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("sslmode=verify-full&sslrootcert={}/absent.crt", "sslrootcert"),
        ("sslmode=verify-ca&sslrootcert={}", "sslrootcert"),
        ("sslmode=verify-ca&sslrootcert={}/empty.crt", "sslrootcert"),
        ("sslmode=require&sslrootcert={}/absent.crt", "sslrootcert"),
        ("sslmode=verify-ca&sslrootcert={}/root.crt&sslcrl={}/absent.crl", "sslcrl"),
        ("sslmode=require&sslcert={}/absent.crt&sslkey={}/client.key", "sslcert"),
        ("sslmode=require&sslcert={}/client.crt&sslkey={}/absent.key", "sslkey"),
        ("sslmode=require&sslcert={}/root.crt&sslkey={}/client.key", "sslkey"),
        ("sslmode=prefer&sslcert={}/absent.crt", "sslcert"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_and_nothing_is_retried(
    query: str, name: str, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path(tmp_path, "empty.crt").touch()
    async with tls_front(postgres_url, tmp_path) as front:
        folder = str(tmp_path)
        url = url_of(postgres_url, front.port, query.replace("{}", folder))
        with pytest.raises(ConfigurationError) as caught:
            await count(url)
    text = str(caught.value)
    assert text.startswith("db.postgres.url: ")
    assert name in text
    assert folder in text
    assert SECRET not in text
    assert front.names == []
    assert "attempt" not in caplog.text


async def test_a_key_with_a_password_is_opened_with_it(postgres_url: str, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    async with tls_front(postgres_url, tmp_path, wants_certificate=True) as front:
        key = serialization.load_pem_private_key(front.key.read_bytes(), None)
        front.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(SECRET.encode()),
            )
        )
        query = f"sslmode=require&sslcert={front.certificate}&sslkey={front.key}"
        assert await count(url_of(postgres_url, front.port, f"{query}&sslpassword={SECRET}")) == 0
        for wrong in ("", "&sslpassword=wrong"):
            with pytest.raises(ConfigurationError, match="sslpassword"):
                await count(url_of(postgres_url, front.port, query + wrong))


async def test_files_are_read_again_for_each_connection(postgres_url: str, tmp_path: Path) -> None:
    root = tmp_path / "rotated.crt"
    async with tls_front(postgres_url, tmp_path) as front:
        trustme.CA().cert_pem.write_to_path(str(root))
        url = url_of(postgres_url, front.port, f"sslmode=verify-full&sslrootcert={root}")
        repository = SessionRepositoryFactory.create_repository("postgres", url=url, retry=QUICK)
        with pytest.raises(BackendUnavailableError):
            await repository.count_sessions("alice")
        root.write_bytes(front.root.read_bytes())
        assert await repository.count_sessions("alice") == 0
        await repository.aclose()


async def test_a_server_without_tls_is_named_with_the_parameter(postgres_url: str, tmp_path: Path) -> None:
    from tests.support.serving import serving

    async def refuse_tls(reader: Any, writer: Any) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await reader.read()

    async with serving(refuse_tls) as port:
        with pytest.raises(BackendUnavailableError) as caught:
            await count(url_of(postgres_url, port, "sslmode=require"))
    assert str(caught.value).startswith(f"cannot reach PostgreSQL at 127.0.0.1:{port}, database ")
    assert "sslmode" in str(caught.value)
