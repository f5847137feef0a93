"""Scenarios with bounded effects: failures of the database and clocks, unreadable data, a slow Nango."""

import concurrent.futures
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

from network import answer
from proof import names
from world import Cluster, Faketime, Standby, World, expect, free_port, send, wait

SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


class Traffic:
    """Users' requests in the background: lists and new labels. Counts statuses, and 503 without `Retry-After`."""

    def __init__(self, world, connections, api=None):
        self.statuses, self.details, self.without_retry_after, self._stop = [], set(), 0, threading.Event()
        self._world, self._connections, self._api = world, connections, api or world.api
        self._threads = [threading.Thread(target=self._run, args=one, daemon=True) for one in connections.items()]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, user, connection):
        for number in range(10_000):
            if self._stop.wait(0.1):
                return
            method, path, body = ("GET", "", None) if number % 2 else ("PATCH", f"/{connection['id']}", {"label": f"n{number}"})
            url = f"{self._api}/api/v1/connectors/connections{path}"
            try:
                status, headers, answered = self._world.request(method, url, body, self._world.headers(user))
            except OSError:
                status, headers, answered = 0, {"retry-after": ""}, None
            self.statuses.append(status)
            if status >= 500 and isinstance(answered, dict):
                self.details.add(f"{status} {answered.get('detail')}")
            self.without_retry_after += status == 503 and not headers["retry-after"]

    def counts(self):
        return {status: self.statuses.count(status) for status in sorted(set(self.statuses))}


def check_traffic(row, traffic, allowed):
    row["answers"] = str(traffic.counts()).replace(",", ";")
    expect(set(traffic.statuses) <= allowed, f"answers {traffic.counts()}, {traffic.details}")
    expect(not traffic.without_retry_after, f"{traffic.without_retry_after} 503 without Retry-After")
    return row


@scenario
def silent_failover(cluster):
    """Packets to the database vanish for 30 s, and old connections stay dead."""
    with World(cluster) as world:
        connections = world.many(names("user", 12))
        with Traffic(world, connections) as traffic:
            time.sleep(2)
            world.forwarder.silence()
            time.sleep(30)
            world.forwarder.hangs = False
            back = wait(lambda: send("GET", f"{world.api}/readyz")[0] == 200, 30, "ready again")
            time.sleep(5)
        connections |= world.many(names("after", 3))
        row = world.verify(connections, seconds=60)
        row["ready_again_s"] = round(back, 1)
        return check_traffic(row, traffic, {200, 503})


class Session:
    """A manual session, which keeps its locks until it is closed."""

    def __init__(self, world, statement):
        command = [f"{world.cluster.bin}/psql", "-qtAX", world.cluster.url_of(world.database)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", text=True)
        self._process.stdin.write(f"begin;\n{statement};\n")
        self._process.stdin.flush()
        time.sleep(1)

    def close(self):
        self._process.kill()
        self._process.wait()


@scenario
def locked_row(cluster):
    """A session holds one row's lock for 40 s while its user polls."""
    with World(cluster) as world:
        connections = world.many(names("user", 6))
        started = world.begin("locked")
        world.popup(started["oauth_url"])
        path = f"/connections/{started['connection_id']}?wait=25"
        row_of = f"select * from user_connector_connection where id = '{started['connection_id']}' for update"
        session = Session(world, row_of)
        ready = []
        with Traffic(world, connections) as traffic, concurrent.futures.ThreadPoolExecutor(12) as pool:
            polls = [pool.submit(world.call, "locked", "GET", path) for _ in range(10)]
            for _ in range(40):
                time.sleep(1)
                ready.append(send("GET", f"{world.api}/readyz")[0])
            session.close()
            for poll in polls:
                poll.result()
        connections["locked"] = world.until_connected("locked", started["connection_id"])
        expect(set(ready) == {200}, f"/readyz answered {set(ready)}")
        return check_traffic(world.verify(connections), traffic, {200})


def failover(lag, promote):
    primary = Cluster()
    standby = Standby(primary)
    try:
        with World(primary) as world:
            connections = world.many(names("user", 8))
            with Traffic(world, connections) as traffic:
                time.sleep(1)
                if promote:
                    # All commits are durable before the old primary stops.
                    world.cluster.sql("checkpoint")
                    primary.run("pg_ctl", "--pgdata", f"{primary.folder}/data", "--mode", "fast", "--wait", "stop")
                    world.forwarder.switch(standby.port)
                    time.sleep(3)
                    standby.promote()
                    world.cluster = standby
                else:
                    world.forwarder.switch(standby.port)
                    time.sleep(lag)
                    world.forwarder.switch(primary.port)
                back = wait(lambda: send("GET", f"{world.api}/readyz")[0] == 200, 30, "ready again")
                time.sleep(3)
            connections |= world.many(names("after", 3))
            row = world.verify(connections)
            row["ready_again_s"] = round(back, 1)
            return check_traffic(row, traffic, {200, 503})
    finally:
        standby.end()
        primary.end()


@scenario
def read_only_for_10_s(_):
    """The database's address leads to a read-only standby for 10 s, and back."""
    return failover(10, False)


@scenario
def promoted_standby(_):
    """The primary ends, and its standby is promoted three seconds later."""
    return failover(0, True)


@scenario
def start_on_a_read_only_server(_):
    """A replica starts while the database's address leads to a standby: it waits, and starts after the switch."""
    primary = Cluster()
    standby = Standby(primary)
    try:
        with World(primary) as world:
            connections = world.many(names("user", 3))
            world.stop()
            world.forwarder.switch(standby.port)
            replica = world.start(wait_ready=False)
            time.sleep(8)
            expect(replica.process.poll() is None, "the program exited")
            world.forwarder.switch(primary.port)
            back = wait(lambda: send("GET", f"{world.api}/readyz")[0] == 200, 30, "ready after the switch")
            return {**world.verify(connections), "ready_again_s": round(back, 1)}
    finally:
        standby.end()
        primary.end()


@scenario
def sigterm_with_a_silent_database(cluster):
    """SIGTERM under load while the database does not answer: the process ends within 30 s."""
    with World(cluster) as world:
        connections = world.many(names("user", 4))
        with Traffic(world, connections):
            world.forwarder.silence()
            time.sleep(1)
            start = time.monotonic()
            world.replicas[0].process.send_signal(signal.SIGTERM)
            world.replicas[0].process.wait(timeout=40)
            took = time.monotonic() - start
        expect(took < 30, f"the process ended after {took:.0f} s")
        world.forwarder.hangs = False
        world.forwarder.close()
        world.restart()
        return {**world.verify(connections), "stop_s": round(took, 1)}


@scenario
def damaged_schema(cluster):
    """The migrations' table is damaged or empty, a column or the installation is gone: the start and `doctor` say what is wrong."""
    damages = {
        "failed migration": "update _sqlx_migrations set success = false",
        "no migrations": "delete from _sqlx_migrations",
        "missing column": "alter table connect_attempt drop column returned_at",
        "no installation": "delete from installation",
    }
    row = {}
    for name, damage in damages.items():
        with World(cluster) as world:
            world.many(["user"])
            world.stop()
            world.sql(damage)
            replica = world.start(wait_ready=False)
            took = wait(lambda: replica.process.poll() is not None, 20, f"the start refuses: {name}")
            log = Path(replica.log).read_text()
            expect("damaged" in log, f"{name}: {log[-300:]}")
            expect("damaged" in world.patchbay("doctor", check=False), f"{name}: doctor does not say it")
            row[f"{name}_s"] = round(took, 1)
    return row


def with_clock(work, **settings):
    clock = Faketime()
    cluster = Cluster()
    try:
        with World(cluster, clock=clock, **settings) as world:
            return work(world, clock)
    finally:
        cluster.end()


@scenario
def clock_ahead_put_right(_):
    """A replica's clock is an hour ahead for 10 s and is then corrected: no user who was served meanwhile is locked out."""

    def work(world, clock):
        connections = world.many(names("user", 4))
        clock.set(3600)
        for _ in range(5):
            for user in connections:
                world.call(user, "GET", "/connections")
            time.sleep(2)
        clock.set(0)
        statuses = [world.call(user, "GET", "/connections")[0] for _ in range(20) for user in connections]
        expect(set(statuses) == {200}, f"after the correction: { {one: statuses.count(one) for one in set(statuses)} }")
        connections |= world.many(names("after", 2))
        return world.verify(connections)

    return with_clock(work, RATE_LIMIT_USER_PER_MINUTE="600")


def apart(cluster, seconds, duration, ready):
    """A second replica's clock is so far ahead for a while. Its webhooks arrive, and none are given up."""
    with World(cluster) as world:
        connections = world.many(names("user", 4))
        clock = Faketime()
        clock.set(seconds)
        second = world.start(free_port(), wait_ready=False, **clock.environment)
        wait(lambda: send("GET", f"{second.url}/healthz")[0] == 200, 20, "the second replica answers")
        time.sleep(duration / 2)
        is_ready = send("GET", f"{second.url}/readyz")[0] == 200
        connections |= world.many(names("late", 4))
        time.sleep(duration / 2)
        second.kill()
        world.replicas.remove(second)
        off = world.number("select count(*) from webhook_endpoint where off_since is not null")
        expect(is_ready == ready and off == 0, f"ready {is_ready}, endpoints switched off {off}")
        return world.verify(connections)


@scenario
def replica_10_min_ahead(cluster):
    """A replica's clock is ten minutes ahead: it is not ready, and loses nothing."""
    return apart(cluster, 600, 20, False)


@scenario
def replica_40_days_ahead(cluster):
    """A replica's clock is forty days ahead for 30 s: it is not ready, and deletes nothing."""
    return apart(cluster, 40 * 86_400, 30, False)


@scenario
def database_clock_back(_):
    """The database's clock is put back by ten minutes while a replica with leases is killed."""
    clock = Faketime()
    cluster = Cluster(clock)
    try:
        clock.set(600)
        with World(cluster, clock=clock, nango_clock=clock) as world:
            connections = world.many(names("user", 4))
            world.sweeps()
            world.jump(clock, 0)
            connections |= world.many(names("after", 3))
            took = wait(lambda: world.metric("patchbay_sweep_age_seconds")[0] < 30, 90, "sweeps go on")
            age = world.metric("patchbay_sweep_age_seconds")[0]
            expect(age >= 0, f"sweep age {age}")
            return {**world.verify(connections), "sweep_again_s": round(took, 1)}
    finally:
        cluster.end()


@scenario
def odd_rows(cluster):
    """Rows that the program cannot read: a far year, infinity, a number out of range, deep nesting, an odd URL."""
    with World(cluster) as world:
        connections = world.many(names("user", 8))
        odd = {
            "odd-0": "config = '{\"a\": 1e400}'",
            "odd-1": "config = (repeat('{\"a\":', 200) || '1' || repeat('}', 200))::jsonb",
            "odd-2": "failing_since = 'infinity'",
            "odd-3": "updated_at = '290000-01-01'",
        }
        of_odd = world.many(list(odd))
        started = world.begin("odd-4")
        world.sql("alter domain utc_time drop constraint utc_time_range; "
                  "alter domain status_reason_text drop constraint status_reason_known; "
                  "alter table webhook_endpoint drop constraint webhook_endpoint_url_check")
        for user, change in odd.items():
            world.sql(f"update user_connector_connection set {change} where id = '{of_odd[user]['id']}'")
        world.sql(f"update connect_attempt set error_code = 'odd' where connection_id = '{started['connection_id']}'")
        world.patchbay("webhooks", "add", "http://127.0.0.1:9/")
        world.sql("update webhook_endpoint set url = 'https://[' where url = 'http://127.0.0.1:9/'")
        world.sweeps(3)
        statuses = [world.call(user, "POST", f"/connections/{one['id']}/check")[0] for user, one in connections.items()]
        skipped = world.metric("patchbay_database_unreadable_rows_total")[0]
        expect(set(statuses) == {200} and skipped > 0, f"checks {statuses}, {skipped} rows were skipped")
        report = world.patchbay("doctor", check=False)
        expect(all(of_odd[user]["id"] in report for user in odd), f"doctor names not all: {report}")
        connections |= world.many(names("after", 3))
        erased = [world.service("DELETE", f"/users/{user}/connections")[0] for user in odd]
        expect(set(erased) == {200}, f"erasures {erased}")
        world.sql("delete from webhook_delivery where endpoint_id in (select id from webhook_endpoint where url = 'https://[')")
        return {**world.verify(connections), "skipped": int(skipped)}


@scenario
def odd_list_entries(cluster):
    """Nango's list has entries that cannot be read, of this and of other applications."""
    with World(cluster) as world:
        connections = world.many(names("user", 6))
        one = connections["user-0"]["nango_connection_id"]
        odd = [
            {"connection_id": one, "tags": None}, {"connection_id": "a", "tags": {"x": 1}}, {"connection_id": "b", "errors": None},
            {"connection_id": "c", "created": "yesterday"}, None, {"connection_id": "d\u0000e"}, [], "text", 7,
            {"connection_id": "f", "metadata": {"x": "y" * 9_000_000}},
        ]

        def rule(method, path, forward):
            status, headers, text = forward()
            if method == "GET" and path.startswith("/connections?") and "page=0" in path and "limit=1000" in path:
                listed = [it for it in json.loads(text)["connections"] if it["connection_id"] != one]
                text = json.dumps({"connections": odd + listed}).encode()
            return status, headers, text

        world.gate.rule = rule
        world.sweeps(2)
        connections |= world.many(names("after", 2))
        unreadable = world.metric('patchbay_sweep_findings_total{finding="unreadable"')
        world.gate.rule = None
        expect(sum(unreadable) >= len(odd) - 1, f"{unreadable} entries were skipped")
        return {**world.verify(connections), "unreadable": int(sum(unreadable))}


@scenario
def paging_ignored_or_short(cluster):
    """Nango ignores `page`, then answers with pages shorter than asked for."""
    with World(cluster) as world:
        connections = world.many(names("user", 12))
        world.faults(list_ignores_page=True)
        time.sleep(15)
        broken = world.number("select count(*) from connection_event where kind = 'missing_upstream'")
        world.faults(list_page_size=5)
        # One of the first, which is on the last page, is really deleted.
        gone = connections.pop("user-0")
        wait(lambda: send("GET", f"{world.api}/readyz")[0] == 200, 10, "ready")
        path = f"/connections/{gone['nango_connection_id']}?provider_config_key=gmail"
        key = {"authorization": f"Bearer {world.environment['NANGO_SECRET_KEY']}"}
        expect(send("DELETE", f"{world.nango}{path}", None, key)[0] == 200, "Nango deletes the connection")
        wait(lambda: world.number("select count(*) from user_connector_connection where absences <> '{}'") == 1,
             60, "the sweep reads all pages")
        world.faults()
        expect(broken == 0, f"{broken} connections became missing")
        return world.verify(connections)


def slow(cluster, latency_ms, lost_webhooks):
    with World(cluster) as world:
        connections = world.many(names("user", 3))
        world.faults(latency_ms=latency_ms, drop_webhooks=lost_webhooks)
        started = world.begin("waiter")
        world.popup(started["oauth_url"])
        start = time.monotonic()
        connections["waiter"] = world.until_connected("waiter", started["connection_id"], 90)
        waited = time.monotonic() - start
        for user, one in list(connections.items())[:3]:
            world.token(user, one)
            world.call(user, "POST", f"/connections/{one['id']}/check")
        world.faults()
        return {**world.verify(connections), "waiter_s": round(waited, 1)}


@scenario
def nango_takes_1_s(cluster):
    """Every call to Nango takes 1 s, and webhooks are lost: a user who waits is connected."""
    return slow(cluster, 1_000, True)


@scenario
def nango_takes_3_s(cluster):
    """Every call to Nango takes 3 s, and webhooks are lost: a user who waits is connected."""
    return slow(cluster, 3_000, True)


@scenario
def nango_takes_9_s(cluster):
    """Every call to Nango takes 9 s, and webhooks are lost: a user who waits is connected, and no answer takes over 30 s."""
    return slow(cluster, 9_000, True)


@scenario
def refresh_webhooks_of_an_outage(cluster):
    """300 webhooks of failed refreshes of one connector: a user of another connector connects meanwhile."""
    with World(cluster, rate_limit=200) as world:
        connections = world.many(names("user", 30))
        time.sleep(61)
        hooks = [(user, one) for _ in range(10) for user, one in connections.items()]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            sent = pool.map(lambda hook: world.refresh_failed(*hook), hooks)
            start = time.monotonic()
            connections["other"] = world.connected("other", "github")
            took = time.monotonic() - start
            statuses = list(sent)
        row = world.verify(connections)
        expect(took < 15, f"another connector's user was connected after {took:.0f} s")
        return {**row, "other_connected_s": round(took, 1), "webhooks accepted": statuses.count(204)}


@scenario
def rate_limit_without_seconds(cluster):
    """Nango answers 429 without seconds for 20 s: calls are not multiplied, and requests are answered."""
    with World(cluster) as world:
        connections = world.many(names("user", 6))
        limited = {"error": {"code": "too_many_request"}}
        world.gate.rule = lambda method, path, forward: answer(429, limited)
        before, connects, end = world.gate.calls, 0, time.monotonic() + 20
        statuses = set()
        while time.monotonic() < end:
            statuses.add(world.call("user-0", "POST", "/github/connect")[0])
            connects += 1
        calls = world.gate.calls - before
        world.gate.rule = None
        expect(statuses <= {429, 503} and calls <= connects + 20, f"{connects} connects, {calls} calls, answers {statuses}")
        wait(lambda: world.call("user-0", "POST", "/github/connect")[0] == 200, 70, "connects work again")
        return {**world.verify(connections), "connects": connects, "calls": calls}


def integrations(cluster, rule, seconds=70):
    with World(cluster) as world:
        connections = world.many(names("user", 4))
        world.gate.rule = lambda method, path, forward: rule() if path.startswith("/integrations") else forward()
        slowest, statuses, end = 0, set(), time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            world.call("user-0", "GET", "/list")
            slowest = max(slowest, time.monotonic() - start)
            statuses.add(world.call("user-1", "POST", "/github/connect")[0])
            time.sleep(1)
        world.gate.rule = None
        expect(slowest < 2 and statuses == {200}, f"the catalog took {slowest:.1f} s, connects were answered {statuses}")
        return {**world.verify(connections), "catalog_s": round(slowest, 2)}


@scenario
def integrations_hang(cluster):
    """Nango's list of integrations hangs: the catalog is answered at once."""

    def hang():
        time.sleep(30)
        return answer(200, {"data": []})

    return integrations(cluster, hang)


@scenario
def integrations_empty(cluster):
    """Nango's list of integrations comes back empty: connects go on."""
    return integrations(cluster, lambda: answer(200, {"data": []}))
