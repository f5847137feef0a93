"""Measures requests, webhooks and commands with a growing number of other connections. Run by scripts/sizes."""

import atexit
import collections
import http.client
import http.server
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

program, folder, server_url, psql, document, *sizes = sys.argv[1:]
sizes = [int(size) for size in sizes]

# The number of measured requests of a round, of those sent before, and of rounds. Each round measures all sizes, so that
# slow minutes of the machine affect all of them.
REQUESTS, WARM, ROUNDS = 60, 15, 5
# The events of the connection whose history is read.
EVENTS = 100_000
# The maximum growth of a request's cost with ten times the rows. Another level of an index costs a buffer and does not
# count.
MAX_RATIO, LEVELS = 1.3, 4
# A request without a statement, as a baseline.
CONTROL = "health"
# The duration in which messages to an endpoint and answers to concurrent requests are counted, in seconds.
SECONDS = 5
# The number of users that send concurrent requests, and of connections.
USERS, CONCURRENT = 200, 16
# The share of the rate with the fewest rows that concurrent requests keep with a hundred times as many.
MIN_RATE = 0.85
# The statements of the service's background jobs.
JOBS = re.compile(
    r"webhook_queue|webhook_endpoint|upstream_deletion set leased|attempt_owner where due|update job|into job|clock_timestamp\(\)$"
    r"|idempotency_key where|account_lookup|from installation|pg_stat|from brake|sweep_pass|transaction_read_only|webhook_delivery"
)


def free_port():
    return int(subprocess.check_output(os.path.join(os.path.dirname(__file__), "free-port")))


class Database:
    def __init__(self, name):
        self.url = server_url.rsplit("/", 1)[0] + "/" + name

    def run(self, text):
        command = [psql, "-qtAX", "-v", "ON_ERROR_STOP=1", self.url]
        done = subprocess.run(command, input=text, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


class Client:
    """A connection that stays open."""

    def __init__(self, port):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json", **(headers or {})}
        self.connection.request(method, path, data, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, answer.headers, json.loads(text) if text[:1] in (b"{", b"[") else text


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Receiver.received += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Service:
    """The program's sandbox with a database: the service and a fake Nango."""

    def __init__(self, database):
        self.port, self.nango_port = free_port(), free_port()
        environment = {
            **os.environ, "DATABASE_URL": database.url, "PORT": str(self.port), "SANDBOX_PORT": str(self.nango_port),
            "RUST_LOG": "warn", "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "SWEEP_INTERVAL_SECONDS": "86400",
            "RATE_LIMIT_USER_PER_MINUTE": "0", "RATE_LIMIT_CONNECT_PER_MINUTE": "0",
            "RATE_LIMIT_ADDRESS_PER_MINUTE": "0", "MAX_STREAMS_PER_USER": "0",
        }
        self.environment = environment
        log = open(f"{folder}/sandbox.log", "a")
        self.process = subprocess.Popen([program, "sandbox"], cwd=folder, env=environment, stdout=log, stderr=log)
        atexit.register(self.process.kill)
        while True:
            assert self.process.poll() is None, open(f"{folder}/sandbox.log").read()
            try:
                if Client(self.port).send("GET", "/readyz")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        self.reconnect()
        token = self.nango.send("POST", "/sandbox/token", {"user": "ada"})[2]["token"]
        self.user = {"authorization": f"Bearer {token}"}
        token = self.nango.send("POST", "/sandbox/token", {"user": "ben"})[2]["token"]
        self.connecting_user = {"authorization": f"Bearer {token}"}
        self.nango.send("PUT", "/sandbox/faults", {"consent": "allow"})

    def reconnect(self):
        """Opens new connections, because the service closes idle ones."""
        self.api, self.nango = Client(self.port), Client(self.nango_port)

    def call(self, method, path, body=None, user=None):
        status, _, answer = self.api.send(method, f"/api/v1/connectors{path}", body, user or self.user)
        assert status == 200, (method, path, answer)
        return answer

    def command(self, *arguments):
        """Runs a command of the program. Returns how long it took, or that it failed."""
        started = time.perf_counter()
        ended = subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True)
        took = (time.perf_counter() - started) * 1e3
        return f"{took:,.0f} ms" if ended.returncode == 0 else f"failed: {ended.stderr.strip().splitlines()[-1]}"

    def popup(self, url):
        cookies = []
        for _ in range(10):
            parts = urllib.parse.urlsplit(url)
            client = Client(parts.port)
            path = parts.path + ("?" + parts.query if parts.query else "")
            _, headers, _ = client.send("GET", path, None, {"cookie": "; ".join(cookies)})
            cookies += [cookie.split(";")[0] for cookie in headers.get_all("set-cookie") or []]
            if not headers["location"]:
                return
            url = urllib.parse.urljoin(url, headers["location"])

    def connected(self, connector):
        started = self.call("POST", f"/{connector}/connect")
        self.popup(started["oauth_url"])
        while self.call("GET", f"/connections/{started['connection_id']}?wait=5")["status"] != "connected":
            pass
        return started["connection_id"]

    def stop(self):
        self.process.kill()
        self.process.wait()


SEED = """
set synchronous_commit = off;
-- The fake Nango has none of these connections: a sweep would miss them.
insert into job (name, finished_at) values ('sweep', now()) on conflict (name) do update set finished_at = now();
create function pg_temp.v7(n bigint, k int) returns uuid language sql immutable as
  $$ select (lpad(to_hex(1700000000000 + n * 1000), 12, '0') || '7' || lpad(to_hex(k), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid $$;
create temp table slugs as select row_number() over (order by slug) - 1 as place, id, slug from connector where enabled;
insert into user_connector_connection (user_id, id, connector_id, nango_connection_id, nango_created_at, integration_key,
    status, connected_at, version, created_at, updated_at, attempt_id, attempt_kind, attempt_expires_at, attempt_outcome,
    attempt_invalidated, attempt_created_at, attempt_ended_at, account_unknown_reason)
  select 'user-' || n / 10, pg_temp.v7(n, 1), s.id, 'nango-' || n, t, s.slug, 'connected', t, 3, t, t,
    pg_temp.v7(n, 2), 'connect', t, 'succeeded', false, t, t, 'not_offered'
  from generate_series(0, {size} - 1) n, to_timestamp(1700000000 + n) t, slugs s where s.place = n % 10;
insert into connect_attempt (user_id, id, connection_id, kind, integration_key, expires_at, outcome, created_at, ended_at)
  select user_id, attempt_id, id, 'connect', integration_key, updated_at, 'succeeded', updated_at, updated_at
  from user_connector_connection where user_id like 'user-%';
insert into connection_event (user_id, id, connection_id, version, kind, status, webhook, created_at)
  select user_id, gen_random_uuid(), id, v, 'connected', 'connected', case when v = 3 then
    json_build_object('type', 'connection.connected', 'data', json_build_object('id', id, 'text', repeat('x', 300))) end, updated_at
  from user_connector_connection, generate_series(1, 3) v where user_id like 'user-%';
"""

HISTORY = f"""
insert into connection_event (user_id, id, connection_id, version, kind, status, created_at)
  select user_id, gen_random_uuid(), id, v, 'updated', 'connected', now()
  from user_connector_connection, generate_series(1000, {EVENTS} + 1000) v where id = '{{one}}';
update user_connector_connection set version = {EVENTS} + 1000 where id = '{{one}}';
"""

QUEUE = """
insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at)
  select user_id, '{endpoint}', connection_id, id, now() from connection_event where webhook is not null limit {due};
insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at)
  select distinct user_id, connection_id, '{endpoint}', now() from webhook_delivery where endpoint_id = '{endpoint}'
  on conflict do nothing;
"""


def cost(database, send):
    """Sends a request repeatedly. Returns the times, and the statements and buffers per request."""
    for n in range(WARM):
        send(-1 - n)
    database.run("select pg_stat_statements_reset()")
    times = []
    for n in range(REQUESTS):
        started = time.perf_counter()
        send(n)
        times.append((time.perf_counter() - started) * 1e3)
    rows = json.loads(database.run(
        "select coalesce(json_agg(json_build_array(query, calls, shared_blks_hit + shared_blks_read)), '[]') from pg_stat_statements s "
        "join pg_database d on d.oid = s.dbid where d.datname = current_database()"
    ))
    own = [(calls, buffers) for query, calls, buffers in rows if not JOBS.search(query)]
    return times, sum(calls for calls, _ in own) / REQUESTS, sum(buffers for _, buffers in own) / REQUESTS


def summary(rounds):
    """Summarizes the costs of a request in all rounds."""
    times = sorted(one for times, _, _ in rounds for one in times)
    return {
        "median": statistics.median(times), "max": times[-1],
        "statements": statistics.mean(statements for _, statements, _ in rounds),
        "buffers": statistics.mean(buffers for _, _, buffers in rounds),
    }


def rate(service, requests):
    """The answers a second to concurrent requests, each a path and a token."""
    lines = [f"wrk.format('GET', '{path}', {{['authorization'] = 'Bearer {token}'}})" for path, token in requests]
    script = f"{folder}/load.lua"
    with open(script, "w") as file:
        file.write(
            "local all = {}\nfunction init(_)\n  all = {" + ",\n".join(lines) + "}\nend\nlocal n = 0\n"
            "function request()\n  n = n % #all + 1\n  return all[n]\nend\n"
            "function done(summary)\n  local e = summary.errors\n"
            "  print('rate', summary.requests / summary.duration * 1e6, e.connect + e.read + e.write + e.status + e.timeout)\nend\n"
        )
    command = ["wrk", "-t2", f"-c{CONCURRENT}", f"-d{SECONDS}s", "-s", script, f"http://127.0.0.1:{service.port}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answers, errors = re.search(r"rate\s+(\S+)\s+(\S+)", printed).groups()
    assert float(errors) == 0, printed
    return float(answers)


class Size:
    """A service whose database has this number of connections, and what was measured there."""

    def __init__(self, size):
        self.size = size
        name = f"sizes_{size}"
        Database("postgres").run(f"create database {name}")
        self.database = Database(name)
        self.service = Service(self.database)
        print(f"seeding {size:,} connections", file=sys.stderr)
        # First, so that the service finds its newest connection at Nango.
        self.one = self.service.connected("gmail")
        self.database.run(SEED.format(size=size))
        self.database.run(HISTORY.format(one=self.one))
        self.database.run("create extension pg_stat_statements")
        self.database.run("vacuum analyze")
        self.service.reconnect()
        self.costs, self.rates = collections.defaultdict(list), collections.defaultdict(list)
        self.concurrent = self.concurrent_requests()

    def requests(self):
        """The requests whose costs are measured. Each takes a number."""
        call, one = self.service.call, self.one
        newest = call("GET", f"/connections/{one}/history?limit=50")
        key = next(key for key in newest if key.startswith("next"))
        cursor = "before" if str(newest[key]).isdigit() else "cursor"
        last = f"/connections/{one}/history?limit=50&{cursor}=1040"
        return {
            # The machine's effect on every request.
            CONTROL: lambda _: self.service.api.send("GET", "/healthz"),
            "list": lambda _: call("GET", "/connections"),
            "get": lambda _: call("GET", f"/connections/{one}"),
            "history, first page": lambda _: call("GET", f"/connections/{one}/history?limit=50"),
            "history, last page": lambda _: call("GET", last),
            "label": lambda n: call("PATCH", f"/connections/{one}", {"label": f"label {n} {time.time()}"}),
            # Another user's, so that the list stays as long as it is.
            "connect": lambda n: call("POST", f"/github/connect?instance_id=n{n % 20}", user=self.service.connecting_user),
        }

    def concurrent_requests(self):
        """Lists and gets of users all over the table, and requests without a statement."""
        users = [f"user-{n * (self.size // 10) // USERS}" for n in range(USERS)]
        tokens = {user: self.service.nango.send("POST", "/sandbox/token", {"user": user})[2]["token"] for user in users}
        listed = ",".join(f"'{user}'" for user in users)
        rows = self.database.run(
            f"select distinct on (user_id) user_id || ' ' || id from user_connector_connection where user_id in ({listed}) order by user_id, id"
        )
        ids = dict(row.split(" ") for row in rows.splitlines())
        api = "/api/v1/connectors/connections"
        return {
            CONTROL: [("/healthz", "none")],
            "list": [(api, tokens[user]) for user in users],
            "get": [(f"{api}/{ids[user]}", tokens[user]) for user in ids],
        }

    def measure_requests(self):
        # Its connections were idle while other sizes were measured.
        self.service.reconnect()
        for name, send in self.requests().items():
            self.costs[name].append(cost(self.database, send))

    def measure_rates(self):
        for name, requests in self.concurrent.items():
            self.rates[name].append(rate(self.service, requests))

    def results(self):
        """All results, after measuring the webhooks and the commands."""
        service, commands = self.service, {}
        service.reconnect()
        commands["deliveries --failed"] = service.command("webhooks", "deliveries", "--failed")
        receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{receiver.server_port}/"
        added = subprocess.run([program, "webhooks", "add", url], env=service.environment, check=True, capture_output=True, text=True)
        endpoint = added.stdout.split()[0]
        time.sleep(1)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        commands["replay --since, nothing since"] = service.command("webhooks", "replay", endpoint, "--since", since)
        due = min(self.size, 200_000)
        service.command("webhooks", "disable", endpoint)
        self.database.run(QUEUE.format(endpoint=endpoint, due=due))
        self.database.run("analyze webhook_queue; analyze webhook_delivery")
        commands["enable"] = service.command("webhooks", "enable", endpoint)
        time.sleep(1)
        before = Receiver.received
        time.sleep(SECONDS)
        sent = (Receiver.received - before) / SECONDS
        commands["remove while it sends"] = service.command("webhooks", "remove", endpoint)
        receiver.shutdown()
        service.stop()
        return {
            "requests": {name: summary(rounds) for name, rounds in self.costs.items()},
            "concurrent": {name: statistics.median(rates) for name, rates in self.rates.items()},
            "commands": commands, "sent": sent, "due": due,
        }


def table(measured):
    lines = ["| request | " + " | ".join(f"{size:,}" for size in measured) + " | ratios of buffers | ratios of times | |",
             "|---|" + "--:|" * len(measured) + "--:|--:|---|"]
    failed = False
    of_sizes = list(measured.values())
    for name in of_sizes[0]["requests"]:
        costs = [one["requests"][name] for one in of_sizes]
        cells = [f"{c['median']:.1f} ms, at most {c['max']:.1f}; {c['statements']:.1f} statements, {c['buffers']:.0f} buffers" for c in costs]
        pairs = list(zip(costs, costs[1:]))
        buffers = [after["buffers"] / max(1, before["buffers"]) for before, after in pairs]
        slower = [after["median"] / before["median"] for before, after in pairs]
        kept = (
            all(after["buffers"] <= before["buffers"] * MAX_RATIO + LEVELS for before, after in pairs)
            and all(round(after["statements"]) <= round(before["statements"]) for before, after in pairs)
            and all(ratio <= MAX_RATIO for ratio in slower)
        )
        failed |= not kept
        ratios = [", ".join(f"{ratio:.2f}" for ratio in of_kind) for of_kind in (buffers, slower)]
        lines.append(f"| {name} | {' | '.join(cells)} | {' | '.join(ratios)} | {'kept' if kept else '**not kept**'} |")
    for name in of_sizes[0]["concurrent"]:
        rates = [one["concurrent"][name] for one in of_sizes]
        # Beside what the machine does to every request.
        relative = [one["concurrent"][name] / one["concurrent"][CONTROL] for one in of_sizes]
        kept = relative[min(2, len(relative) - 1)] >= relative[0] * MIN_RATE
        failed |= not kept
        ratios = ", ".join(f"{after / before:.2f}" for before, after in zip(relative, relative[1:]))
        cells = " | ".join(f"{one:,.0f} a second" for one in rates)
        lines.append(f"| {name}, {CONCURRENT} concurrently | {cells} | | {ratios} (rates) | {'kept' if kept else '**not kept**'} |")
    rates = [f"{one['sent']:.0f} a second of {one['due']:,} due" for one in of_sizes]
    lines.append(f"| webhooks | {' | '.join(rates)} | | | |")
    for name in of_sizes[0]["commands"]:
        lines.append(f"| `{name}` | {' | '.join(one['commands'][name] for one in of_sizes)} | | | |")
    return "\n".join(lines), failed


all_sizes = [Size(size) for size in sizes]
for measure in [Size.measure_requests, Size.measure_rates]:
    for _ in range(ROUNDS):
        for size in all_sizes:
            measure(size)
measured = {size.size: size.results() for size in all_sizes}
text, failed = table(measured)
print(text)
if document:
    begin, end = "<!-- sizes -->\n", "<!-- sizes end -->"
    whole = open(document).read()
    before, rest = whole.split(begin, 1)
    after = rest.split(end, 1)[1]
    with open(document, "w") as file:
        file.write(f"{before}{begin}\n{text}\n\n{end}{after}")
sys.exit("a request costs more with more rows" if failed else 0)
