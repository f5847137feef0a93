"""Drives the generated Python client against `patchbay sandbox`: list, connect, wait, token and disconnect."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from patchbay_client import AuthenticatedClient
from patchbay_client.api.connections import (
    connect,
    disconnect,
    get_connection,
    list_connections,
    list_history,
    update_connection,
)
from patchbay_client.api.tokens import get_token
from patchbay_client.models import (
    Connection,
    ConnectRequest,
    ConnectionEvent,
    KnownProblemCode,
    OAuth2Credentials,
    Problem,
    Status,
    UpdateConnectionRequest,
)

# The sandbox accepts this key.
KEY = "pbk_sandbox_0123456789abcdef0123456789abcdef"

USER = "ada"

FREE_PORT = Path(__file__).resolve().parents[1] / "free-port"


def wait_until_ready(api: str, sandbox: subprocess.Popen) -> None:
    """Returns when the service is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sandbox.poll() is None:
        try:
            if httpx.get(f"{api}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the sandbox did not become ready")


def drive(api: str, nango: str) -> None:
    """Connects and disconnects an account, each time with a typed request and response."""
    client = AuthenticatedClient(base_url=api, token=KEY, timeout=httpx.Timeout(60))

    before = list_connections.sync(client=client, patchbay_user=USER)
    assert before.total_count == 0, before

    details = ConnectRequest(label="Work mail")
    started = connect.sync("gmail", client=client, patchbay_user=USER, body=details)
    assert started.oauth_url and not started.already_connected, started
    httpx.put(f"{nango}/sandbox/faults", json={"consent": "allow"}).raise_for_status()
    with httpx.Client(follow_redirects=True) as browser:
        browser.get(started.oauth_url).raise_for_status()
    connection = get_connection.sync(started.connection_id, client=client, patchbay_user=USER, wait=30)
    assert connection.status == Status.CONNECTED, connection
    assert connection.label == "Work mail", connection

    token = get_token.sync(connection.id, client=client, patchbay_user=USER)
    assert isinstance(token, OAuth2Credentials) and token.access_token, token
    assert token.connection_id == connection.id, token

    change = UpdateConnectionRequest(label=None)
    updated = update_connection.sync(connection.id, client=client, patchbay_user=USER, body=change)
    assert updated.label is None and updated.version > connection.version, updated
    history = list_history.sync(connection.id, client=client, patchbay_user=USER)
    assert {event.kind for event in history.events} >= {"connected", "updated"}, history

    after = list_connections.sync(client=client, patchbay_user=USER, status=Status.CONNECTED)
    assert [one.id for one in after.connections] == [connection.id], after

    ended = disconnect.sync("gmail", client=client, patchbay_user=USER, connection_id=connection.id)
    assert ended.status == Status.DISCONNECTED, ended
    refused = get_token.sync(connection.id, client=client, patchbay_user=USER)
    assert isinstance(refused, Problem), refused
    assert refused.code == KnownProblemCode.NOT_CONNECTED, refused

    accept_unknown_values(connection, history.events[0], refused)


def accept_unknown_values(connection: Connection, event: ConnectionEvent, problem: Problem) -> None:
    """Checks that values which a later version may add do not break this client."""
    attempt = {**connection.attempt.to_dict(), "kind": "new", "outcome": "new", "error_code": "new"}
    values = {**connection.to_dict(), "status_reason": "new", "attempt": attempt, "new_field": 1}
    newer = Connection.from_dict(values)
    assert newer.status_reason == newer.attempt.kind == newer.attempt.outcome == newer.attempt.error_code == "new"
    assert ConnectionEvent.from_dict({**event.to_dict(), "kind": "new", "status_reason": "new"}).kind == "new"
    assert Problem.from_dict({**problem.to_dict(), "code": "new"}).code == "new"


def main() -> None:
    """Starts a sandbox, drives the client, and stops the sandbox."""
    port, nango_port = subprocess.check_output([FREE_PORT, "2"], text=True).split()
    environment = {**os.environ, "PORT": port, "SANDBOX_PORT": nango_port}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "sandbox.log")
        with log.open("w") as output:
            sandbox = subprocess.Popen(
                [sys.argv[1], "sandbox"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            api = f"http://127.0.0.1:{port}"
            wait_until_ready(api, sandbox)
            drive(api, f"http://127.0.0.1:{nango_port}")
        except BaseException:
            print(log.read_text(), file=sys.stderr)
            raise
        finally:
            sandbox.send_signal(signal.SIGINT)
            sandbox.wait(timeout=60)
    print("the generated client works: list, connect, wait, token, disconnect")


main()
