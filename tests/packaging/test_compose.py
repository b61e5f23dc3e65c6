"""docker-compose.yml follows the compose schema and is safe to start. No container engine is needed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_it_follows_the_compose_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_servers_are_postgresql_18_and_mongodb_8() -> None:
    assert {name: service["image"] for name, service in SERVICES.items()} == {
        "postgres": "postgres:18",
        "mongodb": "mongo:8",
    }


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_ports_are_open_to_this_machine_only(service: dict[str, Any]) -> None:
    assert service["ports"]
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), port
    assert "network_mode" not in service


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_the_server_is_watched_and_started_again(service: dict[str, Any]) -> None:
    assert service["healthcheck"]["test"][0] == "CMD-SHELL"
    assert service["healthcheck"].keys() >= {"interval", "timeout", "retries", "start_period"}
    assert service["restart"] == "unless-stopped"


def test_data_is_in_named_volumes_where_the_images_keep_it() -> None:
    mounts = {name: dict(volume.split(":") for volume in s["volumes"]) for name, s in SERVICES.items()}
    assert set(mounts["postgres"].values()) == {"/var/lib/postgresql"}
    assert set(mounts["mongodb"].values()) == {"/data/db", "/data/configdb"}
    assert {volume for found in mounts.values() for volume in found} == COMPOSE["volumes"].keys()


def test_passwords_come_from_the_environment_and_have_no_default() -> None:
    values = {key: value for service in SERVICES.values() for key, value in service["environment"].items()}
    secret = {key: value for key, value in values.items() if "PASSWORD" in key}
    assert secret.keys() == {"POSTGRES_PASSWORD", "MONGO_INITDB_ROOT_PASSWORD"}
    for value in secret.values():
        assert re.fullmatch(r"\$\{\w+_PASSWORD:\?[^}]+\}", value), value


def test_it_reads_only_variables_that_the_settings_read() -> None:
    settings = (ROOT / "sessions" / "config" / "application-db.yaml").read_text()
    # "$$" is a dollar sign for the shell in the container.
    asked_for = set(re.findall(r"\$\{(\w+)", FILE.read_text().replace("$$", "")))
    assert asked_for <= set(re.findall(r"\$\{(\w+)", settings))


def test_the_mongodb_port_is_the_same_inside_and_outside() -> None:
    # Clients of a replica set connect to the name that its member has in the set's own configuration.
    port = SERVICES["mongodb"]["environment"]["MONGODB_PORT"]
    assert SERVICES["mongodb"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert '"127.0.0.1:" + process.env.MONGODB_PORT' in SERVICES["mongodb"]["healthcheck"]["test"][1]


def test_the_key_of_the_replica_set_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    [script] = SERVICES["mongodb"]["command"]
    config, programs = tmp_path / "configdb", tmp_path / "programs"
    config.mkdir()
    programs.mkdir()
    for name in ("docker-entrypoint.sh", "chown"):
        Path(programs, name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        Path(programs, name).chmod(0o755)
    script = script.replace("$$", "$").replace("/data/configdb", str(config))
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "MONGODB_PORT": "27018"}

    def start() -> tuple[bytes, str]:
        entrypoint = SERVICES["mongodb"]["entrypoint"]
        result = subprocess.run(
            [*entrypoint, script], env=environment, capture_output=True, encoding="utf-8", check=True
        )
        return (config / "keyfile").read_bytes(), result.stdout

    key, printed = start()
    assert re.fullmatch(rb"[A-Za-z0-9+/=]{6,1024}", b"".join(key.split()))
    assert stat.S_IMODE((config / "keyfile").stat().st_mode) == 0o400
    assert [file.name for file in config.iterdir()] == ["keyfile"]
    assert printed.splitlines() == [
        f"chown mongodb:mongodb {config}/keyfile",
        f"docker-entrypoint.sh mongod --bind_ip_all --port 27018 --replSet rs0 --keyFile {config}/keyfile",
    ]
    assert start() == (key, printed)
