"""URLs of cloud providers, invalid URLs, and the options of a service's own client."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from pymongo import ReadPreference, monitoring

from sessions import BackendUnavailableError, ConfigurationError, RetryConfig, SessionRepositoryFactory
from sessions.backends.mongodb.options import client_class
from sessions.backends.mongodb.url import parse_url
from sessions.errors import SessionsError
from tests.faults.breakable import ReplicaSet, running
from tests.support.databases import mongodb_client
from tests.support.mongodb_with_users import DATABASE, PASSWORD, mongodb_with_users
from tests.support.servers import free_port

SECRET = "hunter2Zq9"
ONE_TRY = RetryConfig(max_attempts=1)


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("mongodb", url=url, **options)


async def refusal(kind: type[SessionsError], url: str | None = None, **options: Any) -> str:
    """Return the text of the error that a first call raises; it must not show the password."""
    repo = repository(url, **options)
    with pytest.raises(kind) as caught:
        await repo.count_sessions("alice")
    await repo.aclose()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


# As in the providers' manuals, with other names.
ATLAS = f"mongodb+srv://app:{SECRET}@cluster0.ab1cd.mongodb.net/?retryWrites=true&w=majority&appName=Cluster0"
ATLAS_HOSTS = (
    f"mongodb://app:{SECRET}@a-00.mongodb.net:27017,a-01.mongodb.net:27017/chat"
    "?tls=true&replicaSet=atlas-1&authSource=admin&retryWrites=true&w=majority"
)
DOCUMENTDB = (
    f"mongodb://app:{SECRET}@docdb.cluster-1.eu-west-1.docdb.amazonaws.com:27017/?tls=true&replicaSet=rs0"
    "&readPreference=secondaryPreferred&retryWrites=false&tlsCAFile="
)
COSMOS = (
    f"mongodb+srv://app:{SECRET}@chats.mongocluster.cosmos.azure.com/?tls=true&authMechanism=SCRAM-SHA-256"
    "&retrywrites=false&maxIdleTimeMS=120000"
)


def test_urls_of_cloud_providers_are_parsed(tmp_path: Path) -> None:
    ca_file = tmp_path / "global-bundle.pem"
    ca_file.touch()
    for url, hosts in [
        (ATLAS, ("cluster0.ab1cd.mongodb.net",)),
        (ATLAS_HOSTS, ("a-00.mongodb.net:27017", "a-01.mongodb.net:27017")),
        (f"{DOCUMENTDB}{ca_file}", ("docdb.cluster-1.eu-west-1.docdb.amazonaws.com:27017",)),
        (COSMOS, ("chats.mongocluster.cosmos.azure.com",)),
    ]:
        parsed = parse_url(url)
        assert (parsed.addresses, parsed.user) == (hosts, "app")


@pytest.mark.parametrize("options", ["retryWrites=false", "retryWrites=true&w=majority&appName=Cluster0"])
async def test_parameters_of_clouds_work(mongodb_url: str, options: str) -> None:
    async with repository(f"{mongodb_url}&{options}") as repo:
        session_id = await repo.create_session_async("alice")
        await repo.add_messages(session_id, [("user", "Hello")] * 100)
        assert len(await repo.get_session_history("alice", session_id)) == 100
        assert await repo.delete_session_async("alice", session_id)


@pytest.mark.parametrize("sign", ["@", "/", "?", ":", "%", "/@", "?a=1&b", "%zz", "@h/"])
async def test_an_unescaped_password_is_reported(sign: str) -> None:
    for user, password in [("app", f"{SECRET}{sign}{SECRET}"), (f"app{sign}", SECRET)]:
        if user != "app" and sign == ":":
            continue  # The password begins there.
        text = await refusal(ConfigurationError, f"mongodb://{user}:{password}@127.0.0.1:1/chat")
        assert text.startswith("db.mongodb.url: ")
        assert "percent-encode the user name and password" in text


async def test_an_escaped_password_logs_in() -> None:
    with mongodb_with_users() as port:
        url = f"mongodb://readWrite:{quote_plus(PASSWORD)}@127.0.0.1:{port}/{DATABASE}"
        async with repository(url) as repo:
            assert await repo.count_sessions("alice") == 0

        wrong = f"mongodb://readWrite:{SECRET}@127.0.0.1:{port}/{DATABASE}"
        text = await refusal(ConfigurationError, wrong)
        for part in (
            "db.mongodb.url",
            f"127.0.0.1:{port}",
            f"database {DATABASE}",
            "user readWrite",
            "code 18",
        ):
            assert part in text
        text = await refusal(
            ConfigurationError, host="127.0.0.1", port=port, username="readWrite", password=SECRET
        )
        assert text.startswith("db.mongodb.password: ")


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("foo=1", "parameter foo is unknown"),
        ("maxPoolSize=many", "parameter maxPoolSize has a value of no use"),
        ("readPreference=anywhere", "parameter readPreference has"),
        ("tls=true&tlsCAFile=/no/such/file.pem", "parameter tlsCAFile names a file that cannot be read"),
        ("tls=true&tlsCertificateKeyFile=/no/such.pem", "parameter tlsCertificateKeyFile names a file"),
        ("w=0", "parameter w is 0"),
        ("w=%30", "parameter w is 0"),
        ("w=00", "parameter w is 0"),
        ("minPoolSize=11", "parameter minPoolSize is more than pool_size (10)"),
        ("tls", "parameter tls has no value"),
        (
            "tls=true&tlsInsecure=true&tlsAllowInvalidHostnames=true",
            "combination of parameters (tls, tlsallowinvalidhostnames, tlsinsecure)",
        ),
    ],
)
async def test_a_parameter_at_fault_is_named_and_nothing_is_retried(
    parameter: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = await refusal(ConfigurationError, f"mongodb://app:{SECRET}@127.0.0.1:1/chat?{parameter}")
    assert text.startswith("db.mongodb.url: ")
    assert reason in text
    assert "attempt" not in caplog.text


async def test_a_server_that_cannot_be_reached_is_named_with_database_and_user() -> None:
    port = free_port()
    text = await refusal(
        BackendUnavailableError, f"mongodb://app:{SECRET}@127.0.0.1:{port}/chat", refused_timeout=0.5
    )
    assert text.startswith(f"cannot reach MongoDB at 127.0.0.1:{port}, database chat, as user app: ")


async def test_a_name_that_dns_does_not_know_is_named() -> None:
    text = await refusal(
        BackendUnavailableError, f"mongodb://app:{SECRET}@no-such-host.invalid/chat", refused_timeout=0.5
    )
    assert "no-such-host.invalid:27017" in text


async def test_the_wrong_name_of_a_replica_set_is_named(mongodb_replica_set_server: str) -> None:
    url = mongodb_replica_set_server.replace("replicaSet=rs0", "replicaSet=another")
    text = await refusal(BackendUnavailableError, url, connect_timeout=0.5, retry=ONE_TRY)
    assert "another" in text


@pytest.mark.parametrize("limit", ["0", "1"])
async def test_a_pool_without_a_limit_works_and_so_does_one_of_one(mongodb_url: str, limit: str) -> None:
    async with repository(f"{mongodb_url}&maxPoolSize={limit}") as repo:
        session_id = await repo.create_session_async("alice")
        assert await repo.add_message(session_id, "user", "Hello")


async def test_a_url_without_a_timeout_keeps_the_configured_one(mongodb_url: str) -> None:
    async with repository(f"{mongodb_url}&timeoutMS=0") as repo:
        session_id = await repo.create_session_async("alice")
        assert await repo.add_message(session_id, "user", "Hello")


async def test_a_client_with_unacknowledged_writes_is_rejected(mongodb_url: str) -> None:
    async with mongodb_client(mongodb_url, w=0) as client:
        assert "w=0" in await refusal(ConfigurationError, client=client)


PREFERENCES = ("primaryPreferred", "secondary", "secondaryPreferred", "nearest")


class Reads(monitoring.CommandListener):
    """Records the server of each read, and whether it was in a transaction."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        preference = event.command.get("$readPreference", {}).get("mode", "primary")
        self.seen.append((event.command_name, event.connection_id, preference))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing of interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing of interest."""


async def test_writes_read_from_the_primary_whatever_the_read_preference() -> None:
    members = ReplicaSet(2)
    with running(members):
        primary = ("127.0.0.1", members.wait_for_primary().port)
        for preference in PREFERENCES:
            reads = Reads()
            client = client_class()(f"{members.url}&readPreference={preference}", event_listeners=[reads])
            assert client.read_preference != ReadPreference.PRIMARY
            repo = repository(client=client)
            session_id = await repo.create_session_async("alice")
            reads.seen.clear()
            # Immediately, and with an empty cache: a secondary may not have the session yet.
            repo._connection_manager.known.forget(session_id)
            await repo.add_messages(session_id, [("user", "Hello")] * 100)
            assert await repo.ensure_session_exists(session_id, "alice") is False
            assert await repo.delete_session_async("alice", session_id)
            assert {server for _, server, _ in reads.seen} == {primary}

            reads.seen.clear()
            await repo.count_sessions("alice")
            await repo.get_session_history("alice", session_id)
            assert {asked for *_, asked in reads.seen} >= {preference}
            closed = client.close()
            if closed is not None:  # Motor's is a plain call.
                await closed


async def test_a_callable_password_is_called_for_each_new_client() -> None:
    asked: list[str] = []

    async def password() -> str:
        asked.append("")
        return PASSWORD

    with mongodb_with_users() as port:
        parts = {"host": "127.0.0.1", "port": port, "database": DATABASE, "auth_source": DATABASE}
        repo = repository(username="readWrite", password=password, **parts)
        for times in (1, 2):
            await repo.count_sessions("alice")
            await repo.count_sessions("alice")
            await repo.aclose()
            assert len(asked) == times
        url = f"mongodb://readWrite@127.0.0.1:{port}/{DATABASE}"
        async with repository(url, password=password) as repo:
            assert await repo.count_sessions("alice") == 0


async def test_a_long_idle_connection_is_not_reused(mongodb_url: str) -> None:
    """A load balancer may have dropped it silently."""
    async with repository(mongodb_url) as repo:
        client = (await repo._connection_manager.connect()).client
        assert 0 < client.options.pool_options.max_idle_time_seconds <= 240
    async with repository(f"{mongodb_url}&maxIdleTimeMS=1000") as repo:
        client = (await repo._connection_manager.connect()).client
        assert client.options.pool_options.max_idle_time_seconds == 1
