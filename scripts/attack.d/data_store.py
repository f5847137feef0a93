#!/usr/bin/env python3
"""Attacks on stored data: erasure, dumps, growth, webhook replays and the access log. Prints `name: ok` or `name: FAILED
…` for each.

Starts the program's sandbox with a temporary PostgreSQL, and stops both. The program is PATCHBAY_BIN, by default
target/debug/patchbay. Needs PostgreSQL's server programs and Python 3 without packages.
"""

import base64
import glob
import hashlib
import hmac
import http.server
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay"))
KEY = "pbk_sandbox_0123456789abcdef0123456789abcdef"


def free_port():
    return int(subprocess.check_output(ROOT / "scripts/free-port"))


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(NoRedirects)


def send(method, url, body=None, headers=None):
    """Sends a request. Returns its status, headers and body, parsed if it is JSON."""
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        answer = OPENER.open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        text = answer.read()
    try:
        return answer.status, answer.headers, json.loads(text)
    except ValueError:
        return answer.status, answer.headers, text


class Postgres:
    """A temporary PostgreSQL server. It does not run as root, so root starts it as the user `nobody`."""

    def __init__(self, folder, environment=None):
        self.folder, self.port, self.environment = folder, free_port(), environment
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))[-1]
        self.url = f"postgres://patchbay@127.0.0.1:{self.port}/postgres"
        self.owner = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self.owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.create()
        self.start()

    def create(self):
        """Creates the data folder."""
        self.run("initdb", "--pgdata", f"{self.folder}/data", "--username", "patchbay", "--auth", "trust", "--no-sync")

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = f"{self.folder}/log"
        self.run("pg_ctl", "--pgdata", f"{self.folder}/data", "--log", log, "--wait", "--options", options, "start")

    def run(self, program, *arguments):
        return subprocess.run(
            [f"{self.bin}/{program}", *arguments], cwd="/", check=True, stdout=subprocess.DEVNULL, env=self.environment,
            **self.owner,
        )

    def sql(self, statement):
        """Returns the rows of a statement, as text."""
        command = [f"{self.bin}/psql", "-qtAX", "-v", "ON_ERROR_STOP=1", self.url, "-c", statement]
        return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout.strip()

    def stop(self):
        self.run("pg_ctl", "--pgdata", f"{self.folder}/data", "--mode", "immediate", "stop")


class Stage:
    """The sandbox with a database, and the operations of its users."""

    def __init__(self, folder, database):
        ports = free_port(), free_port()
        self.api, self.nango = (f"http://127.0.0.1:{port}" for port in ports)
        self.encryption = base64.b64encode(secrets.token_bytes(32)).decode()
        self.environment = {
            "PATH": os.environ["PATH"], "PORT": str(ports[0]), "SANDBOX_PORT": str(ports[1]), "DATABASE_URL": database.url,
            "ENCRYPTION_KEY": self.encryption, "RUST_LOG": "warn", "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        log = open(f"{folder}/sandbox.log", "wb")
        self.process = subprocess.Popen([PROGRAM, "sandbox"], cwd=folder, env=self.environment, stdout=log, stderr=log)
        ready(self.process, self.api)

    def faults(self, **faults):
        assert send("PUT", f"{self.nango}/sandbox/faults", faults)[0] == 200

    def user(self, name):
        _, _, body = send("POST", f"{self.nango}/sandbox/token", {"user": name})
        return {"authorization": f"Bearer {body['token']}"}

    def call(self, user, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, body = send(method, f"{self.api}/api/v1/connectors{path}", body, {**user, **headers})
        return status, body

    def service(self, method, path, user=None):
        headers = {"authorization": f"Bearer {KEY}"} | ({"patchbay-user": user} if user else {})
        status, _, body = send(method, f"{self.api}/api/v1{path}", None, headers)
        return status, body

    def popup(self, url):
        """Follows the popup like a browser."""
        cookies = []
        for _ in range(10):
            status, headers, _ = send("GET", url, None, {"cookie": "; ".join(cookies)})
            cookies += [cookie.split(";")[0] for cookie in headers.get_all("set-cookie") or []]
            if not headers["location"]:
                return
            url = urllib.parse.urljoin(url, headers["location"])

    def connected(self, user, connector):
        self.faults(consent="allow")
        _, started = self.call(user, "POST", f"/{connector}/connect")
        self.popup(started["oauth_url"])
        return self.call(user, "GET", f"/connections/{started['connection_id']}?wait=20")[1]

    def held(self):
        """Returns the ids of Nango's connections."""
        return {one["connection_id"] for one in send("GET", f"{self.nango}/sandbox/connections")[2]}


def erasure(stage, _):
    """A Nango that ignores filters makes the erasure of one user delete another's connections."""
    ada, bob = stage.user("ada"), stage.user("bob")
    stage.connected(ada, "gmail")
    his = stage.connected(bob, "gmail")
    stage.faults(ignore_filters=True)
    stage.service("DELETE", "/users/ada/connections")
    time.sleep(2)
    stage.faults()
    if his["nango_connection_id"] not in stage.held():
        return "another user's connection was deleted at Nango"
    return None


def dump(stage, database):
    """A dump contains the secrets of webhook endpoints and the tokens of sessions."""
    added = subprocess.run(
        [PROGRAM, "webhooks", "add", "http://127.0.0.1:9/"], env=stage.environment, capture_output=True, text=True, check=True
    )
    endpoint, secret = added.stdout.split()
    _, started = stage.call(stage.user("cem"), "POST", "/gmail/connect", idempotency_key="k")
    token = started["oauth_url"].split("connect_session_token=")[1]
    tables = database.sql("select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'").split()
    text = "".join(database.sql(f"select t::text from {table} t") for table in tables)
    found = [what for what, one in (("endpoint secret", secret[6:]), ("session token", token)) if one in text]
    subprocess.run([PROGRAM, "webhooks", "remove", endpoint], env=stage.environment, capture_output=True, check=True)
    return f"in a dump: {', '.join(found)}" if found else None


def changes(stage, database):
    """One user writes an event for each of 1,200 label changes a minute."""
    user = stage.user("dora")
    _, started = stage.call(user, "POST", "/gmail/connect")
    path, taken = f"/connections/{started['connection_id']}", 0
    for n in range(300):
        taken += stage.call(user, "PATCH", path, {"label": f"label {n}"})[0] == 200
    events = int(database.sql("select count(*) from connection_event where user_id = 'dora' and kind = 'updated'"))
    if taken > 60 or events > 3:
        return f"{taken} of 300 changes in a row were taken, as {events} events"
    return None


def messages(stage, database):
    """Connects and disconnects with a large config store messages of 16 KB although there is no endpoint."""
    user = stage.user("eve")
    stage.faults(consent="allow")
    for _ in range(3):
        config = {"config": {"x": "x" * 3_900}}
        _, started = stage.call(user, "POST", "/gmail/connect", config)
        stage.popup(started["oauth_url"])
        stage.call(user, "GET", f"/connections/{started['connection_id']}?wait=20")
        stage.call(user, "DELETE", "/gmail/disconnect")
    size = int(database.sql("select coalesce(sum(length(webhook::text)), 0) from connection_event where user_id = 'eve'"))
    return f"{size} bytes of messages without an endpoint" if size else None


class Nango(http.server.BaseHTTPRequestHandler):
    """A Nango without connections, which counts its calls."""

    calls = 0

    def do_GET(self):
        type(self).calls += 1
        listed = {"data": []} if self.path.startswith("/integrations") else {"connections": []}
        text = json.dumps(listed).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def replays(stage, database):
    """One signed body, sent repeatedly to invented addresses, causes a call to Nango each time."""
    nango = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nango)
    threading.Thread(target=nango.serve_forever, daemon=True).start()
    database.sql("create database replays")
    signing_key, port = secrets.token_hex(16), free_port()
    api = f"http://127.0.0.1:{port}"
    environment = {
        "HOST": "127.0.0.1", "PORT": str(port), "PUBLIC_URL": api, "DATABASE_URL": database.url.replace("/postgres", "/replays"),
        "NANGO_BASE_URL": f"http://127.0.0.1:{nango.server_port}", "NANGO_SECRET_KEY": str(uuid.uuid4()),
        "NANGO_WEBHOOK_SIGNING_KEY": signing_key, "AUTH_JWT_SECRET": secrets.token_hex(32), "RUST_LOG": "error",
        "SWEEP_INTERVAL_SECONDS": "86400", "SHUTDOWN_DELAY_SECONDS": "0",
    }
    service = subprocess.Popen([PROGRAM, "serve"], cwd=database.folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        ready(service, api)
        # The first sweep has finished by then.
        time.sleep(8)
        body = json.dumps({
            "from": "nango", "type": "auth", "operation": "creation", "success": False, "connectionId": str(uuid.uuid4()),
            "providerConfigKey": "gmail", "error": {"type": "invalid_callback", "description": "error: access_denied"},
        }).encode()
        signature = hmac.digest(signing_key.encode(), body, hashlib.sha256).hex()
        before = Nango.calls
        for _ in range(300):
            url = f"{api}/api/v1/webhooks/nango/{uuid.uuid4()}"
            status, _, _ = send("POST", url, body, {"x-nango-hmac-sha256": signature})
            if status != 204:
                return f"a replay was answered {status}"
        caused = Nango.calls - before
        return f"300 replays caused {caused} calls" if caused else None
    finally:
        service.kill()
        service.wait()
        nango.shutdown()


def audit(stage, database):
    """Token accesses right before a replica is killed are not recorded."""
    gina = stage.user("gina")
    stage.connected(gina, "gmail")
    issued, lock, stop = [0], threading.Lock(), threading.Event()

    def ask():
        while not stop.is_set():
            try:
                status, _ = stage.service("POST", "/connectors/gmail/token", "gina")
            except OSError:
                return
            if status == 200:
                with lock:
                    issued[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for one in threads:
        one.start()
    time.sleep(2)
    stage.process.kill()
    stage.process.wait()
    stop.set()
    for one in threads:
        one.join()
    written = int(database.sql("select coalesce(sum(count), 0) from token_access where user_id = 'gina'"))
    if written < issued[0]:
        return f"{issued[0] - written} of {issued[0]} tokens are not on record"
    return None


def ready(process, api):
    for _ in range(400):
        try:
            if send("GET", f"{api}/readyz")[0] == 200:
                return
        except OSError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the program did not start")


def main():
    failures = 0
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    data = tempfile.mkdtemp()
    database = Postgres(data)
    stage = Stage(folder, database)
    try:
        # The last one ends the stage.
        for attack in (erasure, dump, changes, messages, replays, audit):
            failed = attack(stage, database)
            failures += failed is not None
            print(f"data_{attack.__name__}: {'ok' if failed is None else f'FAILED {failed}'}", flush=True)
    finally:
        stage.process.kill()
        stage.process.wait()
        database.stop()
        shutil.rmtree(folder)
        shutil.rmtree(data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
