"""An installation under failure: a database, the fake Nango, replicas, the product's endpoint, users; and the invariants."""

import concurrent.futures
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/attack.d"))

from data_store import PROGRAM, Postgres, Stage, free_port, ready, send  # noqa: E402
from network import Forwarder, Gate, Product  # noqa: E402

FAKE_NANGO = Path(PROGRAM).parent / "examples/fake_nango"
INTEGRATIONS = [("gmail", "google-mail"), ("github", "github"), ("notion", "notion"), ("gmail-new", "google-mail")]
# The key of a workflow.
KEY = f"pbk_{secrets.token_hex(32)}"
# The maximum duration of a request, in seconds.
MAX_ANSWER = 30


class Failed(Exception):
    """An expectation of a scenario that did not hold."""


def expect(holds, message):
    if not holds:
        raise Failed(message)


def wait(condition, seconds, message):
    """Waits until the condition holds. Returns the seconds until then."""
    start = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - start
        except (OSError, ValueError, subprocess.CalledProcessError):
            pass
        expect(time.monotonic() - start < seconds, f"not within {seconds} s: {message}")
        time.sleep(0.2)


class Faketime:
    """A clock with an offset, for the processes with its environment."""

    LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

    def __init__(self):
        self._file = tempfile.NamedTemporaryFile("w")
        os.chmod(self._file.name, 0o644)
        self.environment = {
            "LD_PRELOAD": self.LIBRARY, "FAKETIME_TIMESTAMP_FILE": self._file.name, "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds):
        # One write, so that readers never see a part of it.
        with open(self._file.name, "r+") as file:
            file.write(f"{seconds:+}".ljust(16))


class Cluster(Postgres):
    """A PostgreSQL server in a separate folder."""

    def __init__(self, clock=None):
        super().__init__(tempfile.mkdtemp(), {**os.environ, **clock.environment} if clock else None)

    def create_database(self, name):
        self.sql(f'create database "{name}"')
        return self.url_of(name)

    def url_of(self, name, port=None):
        return f"postgres://patchbay@127.0.0.1:{port or self.port}/{name}"

    def query(self, database, statement):
        """Returns the rows of a statement, each as a list of texts."""
        command = [f"{self.bin}/psql", "-qtAX", "-F", "\t", "-v", "ON_ERROR_STOP=1", self.url_of(database), "-c", statement]
        done = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def dump(self, database):
        command = [f"{self.bin}/pg_dump", self.url_of(database)]
        return subprocess.run(command, cwd="/", check=True, capture_output=True).stdout

    def restore(self, database, dump):
        self.create_database(database)
        command = [f"{self.bin}/psql", "-qX", "-v", "ON_ERROR_STOP=1", self.url_of(database)]
        subprocess.run(command, cwd="/", check=True, input=dump, stdout=subprocess.DEVNULL)

    def end(self):
        try:
            self.stop()
        except subprocess.CalledProcessError:
            pass
        shutil.rmtree(self.folder, ignore_errors=True)


class Standby(Cluster):
    """A streaming standby of a cluster, which applies changes with a delay in seconds."""

    def __init__(self, primary, lag=0):
        self._primary, self._lag = primary, lag
        super().__init__()

    def create(self):
        url = f"postgres://patchbay@127.0.0.1:{self._primary.port}"
        data = f"{self.folder}/data"
        self.run("pg_basebackup", "--pgdata", data, "-R", "--wal-method", "stream", "--checkpoint", "fast", "-d", url)
        settings = f"recovery_min_apply_delay = {self._lag * 1000}\nhot_standby = on\n"
        with open(f"{data}/postgresql.auto.conf", "a") as file:
            file.write(settings)

    def promote(self):
        self.run("pg_ctl", "--pgdata", f"{self.folder}/data", "--wait", "promote")


class Replica:
    """A process of the service."""

    def __init__(self, world, port, environment):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.log = f"{world.folder}/replica-{port}-{secrets.token_hex(2)}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "serve"], cwd=world.folder, env={**environment, "PORT": str(port)}, stdout=log, stderr=log
            )

    def until_ready(self):
        try:
            ready(self.process, self.url)
        except SystemExit:
            raise Failed(f"the program did not start: {Path(self.log).read_text()[-300:]}") from None

    def kill(self):
        self.process.kill()
        self.process.wait()


class World(Stage):
    """The service with its dependencies."""

    def __init__(self, cluster, clock=None, nango_clock=None, **settings):
        self.cluster, self.folder = cluster, tempfile.mkdtemp()
        self.database = f"w{secrets.token_hex(4)}"
        cluster.create_database(self.database)
        self.forwarder = Forwarder(cluster.port)
        self.signing_key, self.fault_state, self.slowest, self.users = secrets.token_hex(16), {}, 0.0, {}
        self._lock = threading.Lock()
        nango_port, port = free_port(), free_port()
        self.nango, self.api = f"http://127.0.0.1:{nango_port}", f"http://127.0.0.1:{port}"
        secret_key, jwt_secret = str(uuid.uuid4()), secrets.token_hex(32)
        arguments = {
            "listen": f"127.0.0.1:{nango_port}", "secret_key": secret_key, "webhook_signing_key": self.signing_key,
            "webhook_url": f"{self.api}/api/v1/webhooks/nango", "jwt_secret": jwt_secret,
            "rate_limit": settings.pop("rate_limit", 5_000), "integrations": INTEGRATIONS,
        }
        faked = {**os.environ, **nango_clock.environment} if nango_clock else None
        self._nango_process = subprocess.Popen([FAKE_NANGO, json.dumps(arguments)], stdin=subprocess.PIPE, env=faked)
        self.gate, self.product = Gate(nango_port), Product()
        self.environment = {
            "PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), "PUBLIC_URL": self.api,
            "DATABASE_URL": cluster.url_of(self.database, self.forwarder.port),
            "NANGO_BASE_URL": f"http://127.0.0.1:{self.gate.server_port}", "NANGO_SECRET_KEY": secret_key,
            "NANGO_WEBHOOK_SIGNING_KEY": self.signing_key, "AUTH_JWT_SECRET": jwt_secret, "SERVICE_API_KEYS": f"faults={KEY}",
            "METRICS_TOKEN": KEY, "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "SHUTDOWN_DELAY_SECONDS": "0",
            "SWEEP_INTERVAL_SECONDS": "5", "TOKEN_CACHE_TTL_SECONDS": "0", "RATE_LIMIT_USER_PER_MINUTE": "0",
            "RATE_LIMIT_CONNECT_PER_MINUTE": "0", "RATE_LIMIT_ADDRESS_PER_MINUTE": "0",
            "RUST_LOG": "info", **(clock.environment if clock else {}), **settings,
        }
        self.replicas = []
        self.port = port

    def __enter__(self):
        try:
            wait(lambda: send("GET", f"{self.nango}/sandbox/connections")[0] == 200, 10, "the fake Nango starts")
            self.start()
            self.patchbay("webhooks", "add", f"http://127.0.0.1:{self.product.server_port}/")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for replica in self.replicas:
            replica.kill()
        self._nango_process.stdin.close()
        self._nango_process.wait()
        self.gate.shutdown()
        self.product.shutdown()
        if os.environ.get("KEEP"):
            print(f"the logs are in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    # Processes

    def start(self, port=None, wait_ready=True, **settings):
        replica = Replica(self, port or self.port, {**self.environment, **settings})
        self.replicas.append(replica)
        if wait_ready:
            replica.until_ready()
        return replica

    def stop(self):
        for replica in self.replicas:
            replica.kill()
        self.replicas = []

    def restart(self, **settings):
        self.stop()
        return self.start(**settings)

    def patchbay(self, *arguments, check=True):
        """Runs a command. Returns its output."""
        environment = {**self.environment, "DATABASE_URL": self.cluster.url_of(self.database)}
        command = [PROGRAM, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        expect(not check or done.returncode == 0, f"patchbay {' '.join(arguments)}: {done.stdout} {done.stderr}")
        return done.stdout

    def log_text(self):
        return "".join(Path(replica.log).read_text() for replica in self.replicas)

    # Requests

    def faults(self, **faults):
        self.fault_state = {"consent": "allow", **faults}
        super().faults(**self.fault_state)

    def request(self, method, url, body=None, headers=None):
        """Sends a request and records its latency."""
        start = time.monotonic()
        try:
            return send(method, url, body, headers)
        finally:
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - start)

    def call(self, user, method, path, body=None, api=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{api or self.api}/api/v1/connectors{path}"
        status, _, body = self.request(method, url, body, {**self.headers(user), **headers})
        return status, body

    def headers(self, user):
        if user not in self.users:
            self.users[user] = self.user(user)
        return self.users[user]

    def service(self, method, path, user=None):
        headers = {"authorization": f"Bearer {KEY}"} | ({"patchbay-user": user} if user else {})
        status, _, body = self.request(method, f"{self.api}/api/v1{path}", None, headers)
        return status, body

    def token(self, user, connection):
        status, body = self.service("POST", f"/connectors/connections/{connection['id']}/token", user)
        return status, body.get("code") if isinstance(body, dict) else None

    def begin(self, user, connector="gmail"):
        status, started = self.call(user, "POST", f"/{connector}/connect")
        expect(status == 200, f"a connect was answered {status}: {started}")
        return started

    def connected(self, user, connector="gmail"):
        started = self.begin(user, connector)
        self.popup(started["oauth_url"])
        return self.until_connected(user, started["connection_id"])

    def until_connected(self, user, connection, seconds=60):
        found = {}

        def is_connected():
            nonlocal found
            found = self.call(user, "GET", f"/connections/{connection}?wait=5")[1]
            return found.get("status") == "connected"

        wait(is_connected, seconds, f"the connection of {user} is connected")
        return found

    def jump(self, clock, seconds):
        """Moves all clocks. The service reads the database's time at its start, and once a minute."""
        clock.set(seconds)
        self.users = {}
        self.restart()

    def many(self, names, connector="gmail"):
        """Connects these users. Returns a dictionary of their connections."""
        self.faults(**{name: value for name, value in self.fault_state.items() if name != "consent"})
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return dict(zip(names, pool.map(lambda name: self.connected(name, connector), names)))

    def send_webhook(self, url, body):
        """Sends a signed webhook like Nango. Returns its status."""
        text = json.dumps(body).encode()
        signature = hmac.digest(self.signing_key.encode(), text, hashlib.sha256).hex()
        return send("POST", url, text, {"x-nango-hmac-sha256": signature})[0]

    def resend_webhooks(self):
        """Resends all webhooks that Nango has sent."""
        for hook in send("GET", f"{self.nango}/sandbox/webhooks")[2]:
            self.send_webhook(hook["url"], hook["body"])

    def refresh_failed(self, user, connection):
        """Sends the webhook of a refresh that failed."""
        body = {
            "from": "nango", "type": "auth", "operation": "refresh", "success": False, "authMode": "OAUTH2",
            "connectionId": connection["nango_connection_id"], "providerConfigKey": "gmail", "provider": "google-mail",
            "environment": "dev", "error": {"type": "refresh_token_external_error", "description": "The provider answered 500."},
        }
        return self.send_webhook(f"{self.api}/api/v1/webhooks/nango", body)

    def expire(self, connections):
        """Expires the access tokens of these connections, so that the next request refreshes them."""
        for one in connections:
            send("POST", f"{self.nango}/sandbox/expire", {"connection_id": one["nango_connection_id"]})

    def held(self):
        return {one["connection_id"] for one in send("GET", f"{self.nango}/sandbox/connections")[2]}

    def sql(self, statement):
        return self.cluster.query(self.database, statement)

    def number(self, statement):
        return int(self.sql(statement)[0][0])

    def metric(self, name):
        text = send("GET", f"{self.api}/metrics", None, {"authorization": f"Bearer {KEY}"})[2].decode()
        return [float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)]

    def sweeps(self, count=1, seconds=60):
        """Waits until this many sweeps have ended from now on."""
        # A first sweep that runs has a row without an end.
        ended = "select finished_at from job where name = 'sweep' and finished_at is not null"
        for _ in range(count):
            before = self.sql(ended)
            wait(lambda: self.sql(ended) != before, seconds, "a sweep ends")

    # Invariants

    def verify(self, connections, broken=0, seconds=90):
        """Checks the invariants after the failure. `connections` are those that must work, by user."""
        row = {"grants": len(connections)}
        expected = {one["nango_connection_id"] for one in connections.values()}
        row["lost"] = len(expected - self.held())

        def recovered():
            ids = ",".join(f"'{one['id']}'" for one in connections.values())
            return self.number(
                f"select count(*) from user_connector_connection where status = 'connected' and failing_since is null "
                f"and id in ({ids})"
            ) if ids else 0

        try:
            row["recovery_s"] = round(wait(lambda: recovered() == len(connections), seconds, "all recovered"), 1)
        except Failed:
            row["recovery_s"] = None
        row["recovered"] = recovered()
        row["broken"] = self.number(
            "select count(*) from connection_event where kind in ('missing_upstream', 'needs_reauthorization')") - broken
        statuses = [self.token(user, one)[0] for user, one in connections.items()]
        row["tokens"] = statuses.count(200)
        row["gaps"] = self.number(
            "select count(*) from (select c.id from user_connector_connection c join connection_event e "
            "on e.user_id = c.user_id and e.connection_id = c.id group by c.user_id, c.id, c.version "
            "having count(*) <> c.version or max(e.version) <> c.version) g")
        queued = {one[0] for one in self.sql("select nango_connection_id from upstream_deletion")}
        rows = {one[0] for one in self.sql(
            "select nango_connection_id from user_connector_connection where nango_connection_id is not null")}
        row["strays"] = len(self.held() - rows - queued)
        self.verify_webhooks(row, seconds)
        row["slowest_s"] = round(self.slowest, 1)
        return row

    def verify_webhooks(self, row, seconds):
        sent = "select 'evt_' || replace(e.id::text, '-', ''), e.connection_id, e.version from connection_event e " \
               "join webhook_delivery d on d.user_id = e.user_id and d.event_id = e.id"
        events = {one[0]: (one[1], int(one[2])) for one in self.sql(sent)}
        try:
            wait(lambda: set(events) <= {one[0] for one in list(self.product.messages)}, seconds, "all webhooks arrive")
        except Failed:
            pass
        messages = list(self.product.messages)
        row["webhooks"] = f"{len(set(events) & {one[0] for one in messages})}/{len(events)}"
        newest, row["disorder"] = {}, 0
        # Only webhooks of versions in the database, because a restored database repeats versions.
        for message, connection, version in messages:
            if message in events:
                row["disorder"] += version < newest.get(connection, 0)
                newest[connection] = max(version, newest.get(connection, 0))


def problems(row):
    """Returns the violations in a row of the table."""
    found = [f"{name} {row[name]}" for name in ("lost", "broken", "gaps", "strays", "disorder") if row.get(name)]
    if row.get("recovered", 0) != row.get("grants", 0):
        found.append(f"recovered {row['recovered']} of {row['grants']}")
    if row.get("tokens", 0) != row.get("grants", 0):
        found.append(f"tokens {row['tokens']} of {row['grants']}")
    if "webhooks" in row and len(set(row["webhooks"].split("/"))) != 1:
        found.append(f"webhooks {row['webhooks']}")
    if row.get("slowest_s", 0) > MAX_ANSWER:
        found.append(f"an answer after {row['slowest_s']} s")
    return found
