"""Scenarios in which nothing may be deleted at Nango and no user asked to reconnect without proof."""

import json
import time

from network import answer
from world import Cluster, Faketime, Replica, Standby, World, expect, free_port, send, wait

SCENARIOS = {}
DAYS = 86_400


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def names(prefix, count):
    return [f"{prefix}-{number}" for number in range(count)]


def unchanged(world, before, seconds):
    """Nothing of this is deleted at Nango while the service runs so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lost = before - world.held()
        expect(not lost, f"{len(lost)} of {len(before)} grants were deleted")
        time.sleep(1)


def restore(cluster, target, clock=None, later=0):
    """A backup is restored; connects are newer than it. `target` is the server that it is restored to."""
    clocks = {"clock": clock, "nango_clock": clock} if clock else {}
    with World(cluster, **clocks) as world:
        connections = world.many(names("old", 6))
        dump = cluster.dump(world.database)
        if clock:
            world.jump(clock, later)
        connections |= world.many(names("new", 6))
        # The backup contains the previous grant of this user.
        world.call("old-2", "DELETE", "/gmail/disconnect")
        connections["old-2"] = world.connected("old-2")
        before, earlier = world.held(), {one[0] for one in world.product.messages}
        world.stop()
        if target is cluster:
            cluster.sql(f'drop database "{world.database}"')
        target.restore(world.database, dump)
        world.cluster = target
        world.forwarder.switch(target.port)
        world.start()
        # Nango resends the webhooks of the grants that the backup does not contain.
        world.resend_webhooks()
        unchanged(world, before, 20)
        paused = "database" in world.patchbay("brake")
        world.patchbay("brake", "release", "database")
        world.sweeps(2)
        unchanged(world, before, 5)
        world.patchbay("orphans", "restore", "--all")
        world.call("old-0", "PATCH", f"/connections/{connections['old-0']['id']}", {"label": "after"})
        world.call("old-1", "DELETE", "/gmail/disconnect")
        ended = connections.pop("old-1")
        wait(lambda: ended["nango_connection_id"] not in world.held(), 30, "a disconnect after the restore")
        row = world.verify(connections)
        later_ids = [one[0] for one in world.sql(
            "select 'evt_' || replace(id::text, '-', '') from connection_event where kind in ('restored', 'disconnected')")]
        row["repeated ids"] = len(earlier & set(later_ids))
        expect(paused and not row["repeated ids"], f"paused {paused}, {row['repeated ids']} message ids were used before")
        return row


@scenario
def restore_of_a_backup(cluster):
    """A backup is restored; the newest connects are not in it."""
    return restore(cluster, cluster)


@scenario
def restore_of_an_older_backup(_):
    """The same, and the connects are three days newer than the backup."""
    clock = Faketime()
    cluster = Cluster(clock)
    try:
        return restore(cluster, cluster, clock, 3 * DAYS)
    finally:
        cluster.end()


@scenario
def restore_into_another_cluster(cluster):
    """A backup is restored into another server, under the same name."""
    other = Cluster()
    try:
        return restore(cluster, other)
    finally:
        other.end()


class Copy:
    """A replica with production's key over another database."""

    def __init__(self, world, settings):
        port = free_port()
        self.replica = Replica(world, port, {**world.environment, **settings, "PORT": str(port)})
        self.url = self.replica.url
        self.replica.until_ready()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.replica.kill()


def copy(cluster, disconnects=True, **settings):
    """A copy of production's database is started with production's key. Production goes on working."""
    with World(cluster) as world:
        connections = world.many(names("user", 10))
        dump = cluster.dump(world.database)
        connections |= world.many(names("new", 6))
        cluster.restore(f"{world.database}_copy", dump)
        before = world.held()
        with Copy(world, {"DATABASE_URL": cluster.url_of(f"{world.database}_copy"), **settings}) as second:
            if disconnects:
                status, ended = world.call("user-0", "DELETE", "/gmail/disconnect", api=second.url)
                expect(status == 200 and not ended["upstream_deleted"], f"the copy's disconnect: {status} {ended}")
            unchanged(world, before, 20)
            connections |= world.many(names("later", 3))
            unchanged(world, before, 5)
        return world.verify(connections)


@scenario
def copy_with_the_same_address(cluster):
    """A copy of the database runs with production's key and PUBLIC_URL."""
    return copy(cluster)


@scenario
def copy_with_another_address(cluster):
    """A copy of the database runs with production's key and another PUBLIC_URL."""
    return copy(cluster, PUBLIC_URL="https://staging.example.com", NANGO_PUBLIC_URL="https://nango.example.com")


@scenario
def physical_copy(_):
    """A physical copy, whose identifiers are production's, runs with production's key."""
    primary = Cluster()
    standby = Standby(primary)
    try:
        with World(primary) as world:
            connections = world.many(names("user", 8))
            wait(lambda: standby.query(world.database, "select 1"), 30, "the copy has the database")
            time.sleep(2)
            standby.promote()
            connections |= world.many(names("new", 6))
            before = world.held()
            with Copy(world, {"DATABASE_URL": standby.url_of(world.database)}):
                unchanged(world, before, 25)
            return world.verify(connections)
    finally:
        standby.end()
        primary.end()


def lagging_standby(lag, seconds):
    """The database's address leads to a standby that lags, while users authorize."""
    primary = Cluster()
    standby = Standby(primary, lag)
    try:
        with World(primary) as world:
            connections = world.many(names("user", 6))
            started = {name: world.begin(name) for name in names("late", 6)}
            world.forwarder.switch(standby.port)
            for one in started.values():
                world.popup(one["oauth_url"])
            before = world.held()
            unchanged(world, before, seconds)
            world.forwarder.switch(primary.port)
            unchanged(world, before, 5)
            for name, one in started.items():
                connections[name] = world.until_connected(name, one["connection_id"])
            return world.verify(connections)
    finally:
        standby.end()
        primary.end()


@scenario
def standby_lags_2_s(_):
    """The database's address leads for 5 s to a standby that lags 2 s."""
    return lagging_standby(2, 5)


@scenario
def standby_lags_60_s(_):
    """The database's address leads for 20 s to a standby that lags 60 s."""
    return lagging_standby(60, 20)


def use(world, connections, seconds, disconnects=()):
    """Users check and use their connections, and some disconnect; returns the statuses of checks."""
    checks, end = [], time.monotonic() + seconds
    ended = list(disconnects)
    while time.monotonic() < end:
        for user, one in connections.items():
            checks.append(world.call(user, "POST", f"/connections/{one['id']}/check")[0])
            world.token(user, one)
            # Slow enough that Nango's rate limit leaves room for sweeps.
            time.sleep(0.2)
            if ended:
                status, answered = world.call(ended.pop(), "DELETE", "/gmail/disconnect")
                expect(status == 200 and not answered["upstream_deleted"], f"a disconnect: {status} {answered}")
            if time.monotonic() >= end:
                break
    return checks


def other_environment(cluster, at_start):
    with World(cluster) as world:
        connections = world.many(names("user", 20))
        leaving = world.many(names("leaving", 3))
        before = world.held()
        if at_start:
            world.stop()
        world.faults(environment="staging")
        if at_start:
            world.start()
        checks = use(world, connections, 30, leaving)
        refused = [world.call(user, "POST", f"/connections/{one['id']}/reconnect")[0] for user, one in connections.items()]
        world.faults()
        expect(before == world.held(), "the right environment has lost a grant")
        gone = {one["nango_connection_id"] for one in leaving.values()}
        wait(lambda: not gone & world.held(), 60, "the disconnects are done")
        row = world.verify(connections)
        row["checks 200"], row["reconnects started"] = checks.count(200), refused.count(200)
        return row


@scenario
def wrong_key_at_start(cluster):
    """NANGO_SECRET_KEY of another environment for 30 s from the start on, with disconnects meanwhile."""
    return other_environment(cluster, True)


@scenario
def wrong_key_while_running(cluster):
    """NANGO_SECRET_KEY opens another environment for 30 s, with disconnects meanwhile."""
    return other_environment(cluster, False)


@scenario
def empty_lists(cluster):
    """Every list and look-up at Nango comes back empty for 25 s; a popup is open."""
    with World(cluster) as world:
        connections = world.many(names("user", 20))
        started = world.begin("late")
        world.faults(hide_connections=["*"])
        world.popup(started["oauth_url"])
        use(world, connections, 25)
        world.faults()
        connections["late"] = world.until_connected("late", started["connection_id"])
        return world.verify(connections)


@scenario
def lookups_404_for_a_part(cluster):
    """Look-ups by id answer 404 for a third of the connections for 25 s."""
    with World(cluster) as world:
        connections = world.many(names("user", 15))
        hidden = [one["nango_connection_id"] for one in list(connections.values())[:5]]

        def rule(method, path, forward):
            if method == "GET" and any(path.startswith(f"/connections/{one}") for one in hidden):
                error = {"error": {"code": "not_found", "message": "Failed to find connection"}}
                return answer(404, error)
            return forward()

        world.gate.rule = rule
        use(world, connections, 25)
        world.gate.rule = None
        return world.verify(connections)


def absent(cluster, count, hidden, seconds):
    """Lists and look-ups lack so many of the connections for so long, while they are used."""
    with World(cluster) as world:
        connections = world.many(names("user", count))
        lacking = {user: connections[user] for user in list(connections)[:hidden]}
        world.faults(hide_connections=[one["nango_connection_id"] for one in lacking.values()])
        use(world, lacking, seconds)
        world.faults()
        return world.verify(connections)


@scenario
def a_third_is_absent_25_s(cluster):
    """Lists and look-ups lack a third of the connections for 25 s."""
    return absent(cluster, 30, 10, 25)


@scenario
def a_third_is_absent_4_min(cluster):
    """Lists and look-ups lack a third of the connections for 4 minutes."""
    return absent(cluster, 30, 10, 240)


@scenario
def the_only_connection_is_absent_4_min(cluster):
    """Lists and look-ups lack a product's only connection for 4 minutes."""
    return absent(cluster, 1, 1, 240)


@scenario
def one_of_two_replicas_lacks_a_third(cluster):
    """One replica's Nango lacks a third of the connections for 7 minutes, the other one's has them."""
    with World(cluster) as world:
        connections = world.many(names("user", 15))
        hidden = {one["nango_connection_id"] for one in list(connections.values())[:5]}

        def rule(method, path, forward):
            status, headers, body = forward()
            if method != "GET" or not path.startswith("/connections") or status != 200:
                return status, headers, body
            found = json.loads(body)
            if found.get("connection_id") in hidden:
                return answer(404, {"error": {"code": "not_found", "message": "Failed to find connection"}})
            if "connections" in found:
                found["connections"] = [one for one in found["connections"] if one["connection_id"] not in hidden]
            return status, headers, json.dumps(found).encode()

        world.start(free_port(), NANGO_BASE_URL=world.nango)
        world.gate.rule = rule
        use(world, dict(list(connections.items())[:5]), 420)
        world.gate.rule = None
        return world.verify(connections)


@scenario
def wrong_key_of_a_small_product(cluster):
    """NANGO_SECRET_KEY of a product with one connection opens another environment for 30 s, with a restart meanwhile."""
    with World(cluster) as world:
        connections = world.many(names("user", 1))
        world.sweeps(1)
        world.faults(environment="staging")
        use(world, connections, 15)
        world.restart()
        use(world, connections, 15)
        reconnect = world.call("user-0", "POST", f"/connections/{connections['user-0']['id']}/reconnect")[0]
        world.faults()
        expect(reconnect == 503, f"a reconnect was answered {reconnect}")
        return world.verify(connections)


def refuse(world, connections, seconds):
    """The provider refuses to refresh these connections for so long, while they are used and swept."""
    world.faults(refuse_refresh_of=[one["nango_connection_id"] for one in connections.values()])
    world.expire(connections.values())
    codes, end = set(), time.monotonic() + seconds
    while time.monotonic() < end:
        for user, one in connections.items():
            world.call(user, "POST", f"/connections/{one['id']}/check")
            codes.add(world.token(user, one)[1])
        time.sleep(min(1, max(0, end - time.monotonic())))
    world.faults()
    expect("needs_reauthorization" not in codes, f"tokens were answered {codes}")


@scenario
def refusals_of_a_part(cluster):
    """The provider refuses 30 to 50 % of all refreshes for 30 s."""
    with World(cluster) as world:
        connections = world.many(names("user", 20))
        users = list(connections)
        for start, size in ((0, 6), (4, 8), (8, 10)):
            refuse(world, {user: connections[user] for user in users[start:start + size]}, 10)
        return world.verify(connections)


def refuse_one(cluster, seconds):
    with World(cluster) as world:
        connections = world.many(names("user", 6))
        refuse(world, {"user-0": connections["user-0"]}, seconds)
        return world.verify(connections, seconds=150)


@scenario
def one_user_refused_5_s(cluster):
    """One user's refresh is refused for 5 s while others' work."""
    return refuse_one(cluster, 5)


@scenario
def one_user_refused_2_min(cluster):
    """One user's refresh is refused for 2 minutes while others' work."""
    return refuse_one(cluster, 120)


@scenario
def one_user_refused_20_min(_):
    """One user's refresh is refused for 20 minutes: needs_reauthorization is right then, and ends by itself."""
    clock = Faketime()
    cluster = Cluster(clock)
    try:
        with World(cluster, clock=clock, nango_clock=clock) as world:
            connections = world.many(names("user", 6))
            one = connections["user-0"]
            world.faults(refuse_refresh_of=[one["nango_connection_id"]])
            world.expire([one])
            for minute in range(0, 21, 4):
                world.jump(clock, 60 * minute)
                world.call("user-0", "POST", f"/connections/{one['id']}/check")
            refused = world.token("user-0", one)
            expect(refused == (409, "needs_reauthorization"), f"after 20 minutes: {refused}")
            world.faults()
            # Each refusal doubles the pause before the next try.
            world.jump(clock, DAYS // 2)
            row = world.verify(connections, broken=1)
            return row
    finally:
        cluster.end()


@scenario
def integration_changed_with_popup_open(cluster):
    """The catalog's integration key of a connector changes while a popup is open."""
    with World(cluster) as world:
        connections = world.many(names("user", 4))
        started = world.begin("late")
        catalog = f"{world.folder}/connectors.toml"
        with open(catalog, "w") as file:
            file.write('[[connector]]\nslug = "gmail"\nintegration_key = "gmail-new"\n')
        world.environment["CATALOG_FILE"] = catalog
        world.restart()
        world.popup(started["oauth_url"])
        connections["late"] = world.until_connected("late", started["connection_id"], 20)
        connections |= world.many(["newest"])
        keys = {one["provider_config_key"] for one in send("GET", f"{world.nango}/sandbox/connections")[2]}
        expect(keys == {"gmail", "gmail-new"}, f"the integrations in use are {keys}")
        return world.verify(connections)


@scenario
def queued_deletion_of_a_connection_in_use(cluster):
    """A deletion is queued for a connection at Nango that a connected row uses, as by an import of two rows with its id."""
    with World(cluster) as world:
        connections = world.many(names("user", 3))
        for one in connections.values():
            world.sql(
                "insert into upstream_deletion (nango_connection_id, integration_key, reason, next_attempt_at, created_at) "
                f"values ('{one['nango_connection_id']}', 'gmail', 'disconnected', now(), now())")
        unchanged(world, world.held(), 15)
        return world.verify(connections)


@scenario
def erasure_with_ignored_filters(cluster):
    """Nango ignores filters while a user is erased."""
    with World(cluster) as world:
        connections = world.many(names("user", 15))
        world.faults(ignore_filters=True)
        world.service("DELETE", "/users/user-0/connections")
        erased = connections.pop("user-0")
        others = {one["nango_connection_id"] for one in connections.values()}
        unchanged(world, others, 10)
        world.faults()
        wait(lambda: erased["nango_connection_id"] not in world.held(), 60, "the erased user's grant is deleted")
        return world.verify(connections)


@scenario
def false_deletions(cluster):
    """DELETE is answered 404, unknown_connection, success: false, and 200 without effect."""
    with World(cluster) as world:
        connections = world.many(names("user", 3))
        answered = {}
        for kind in ("not_found", "unknown_connection", "unsuccessful", "no_effect"):
            leaving = world.many([kind])[kind]
            world.faults(false_deletion=kind)
            answered[kind] = world.call(kind, "DELETE", "/gmail/disconnect")[1]["upstream_deleted"]
            expect(leaving["nango_connection_id"] in world.held(), "nothing was deleted")
            world.faults()
        expect(not any(answered.values()), f"upstream_deleted: {answered}")
        held = {one["nango_connection_id"] for one in connections.values()}
        wait(lambda: world.held() == held, 60, "the deletions are done")
        return world.verify(connections)


def deleted(cluster, count):
    """A product's only connections are deleted at Nango: they are missing, and the product goes on."""
    with World(cluster) as world:
        connections = world.many(names("user", count))
        key = {"authorization": f"Bearer {world.environment['NANGO_SECRET_KEY']}"}
        for one in connections.values():
            send("DELETE", f"{world.nango}/connections/{one['nango_connection_id']}?provider_config_key=gmail", None, key)
        missing = "select count(*) from user_connector_connection where status_reason = 'missing_upstream'"
        took = wait(lambda: world.number(missing) == count, 450, f"{count} connections are missing")
        # They connect again by themselves, and are in the same rows.
        row = world.verify(world.many(list(connections)), broken=count)
        row["missing after s"] = round(took)
        return row


@scenario
def one_connection_deleted_at_nango(cluster):
    """A product's only connection is deleted at Nango: it is missing after five to seven minutes."""
    return deleted(cluster, 1)


@scenario
def two_connections_deleted_at_nango(cluster):
    """A product's only two connections are deleted at Nango: they are missing after five to seven minutes."""
    return deleted(cluster, 2)
