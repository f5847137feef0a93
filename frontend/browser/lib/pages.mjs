// Pages of a product, as its developers would write them. Each takes Patchbay's address and the user's token from
// its own address, which a real one would not.

const FRAME = (title, script) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${title}</title>
<h1>${title}</h1>
<button>Connect Gmail</button>
<p role="status"></p>
<script type="module">
const query = new URLSearchParams(location.search);
const [api, token] = [query.get("api"), query.get("token")];
const button = document.querySelector("button");
const say = (text) => (document.querySelector("[role=status]").textContent = text);
${script}
</script></html>`;

/** A page with the package and no framework, which cuts itself off from the windows that it opens. */
export const ISOLATED = {
  headers: { "cross-origin-opener-policy": "same-origin" },
  html: FRAME(
    "A product",
    `
import { connectFlow, createClient } from "/package/index.js";
const client = createClient({ baseUrl: api, getToken: () => token });
const flow = connectFlow(client, { connectorId: "gmail" });
button.addEventListener("click", () => flow.start());
flow.subscribe(() => say(flow.state.phase + " " + (flow.state.window ?? "")));
`,
  ),
};

/** A page with the package and no framework. */
export const PLAIN = {
  html: FRAME(
    "A plain product",
    `
import { connectFlow, createClient } from "/package/index.js";
const client = createClient({ baseUrl: api, getToken: () => token });
const flow = connectFlow(client, { connectorId: "gmail" });
button.addEventListener("click", () => flow.start());
flow.subscribe(() => say(flow.state.phase + " " + (flow.state.window ?? "")));
`,
  ),
};

/** A page with the package that sends Patchbay's cookie along. */
export const BOUND = {
  html: FRAME(
    "A product of the same site",
    `
import { connectFlow, createClient } from "/package/index.js";
const client = createClient({ baseUrl: api, getToken: () => token, credentials: "include" });
const flow = connectFlow(client, { connectorId: "gmail" });
button.addEventListener("click", () => flow.start());
flow.subscribe(() => say(flow.state.phase));
`,
  ),
};

/**
 * The frontend of the original system: it opens a window with \`oauth_url\`, polls twice a second whether the window is
 * closed, accepts messages of its own origin only, and then fetches the list again.
 */
export const ORIGINAL_FRONTEND = {
  html: FRAME(
    "An older product",
    `
const headers = { authorization: "Bearer " + token };
const connectors = api + "/api/v1/connectors";
async function fetchConnections() {
  const answer = await fetch(connectors + "/connections", { headers });
  const { connections } = await answer.json();
  const gmail = connections.find((one) => one.connector_slug === "gmail");
  say(gmail ? "Gmail: " + gmail.status : "Gmail: not connected");
}
async function connect() {
  const answer = await fetch(connectors + "/gmail/connect", { method: "POST", headers });
  const { oauth_url } = await answer.json();
  const popup = window.open(oauth_url, "oauth", "width=600,height=700");
  const done = () => {
    clearInterval(timer);
    window.removeEventListener("message", heard);
    fetchConnections();
  };
  const heard = (event) => {
    if (event.origin !== window.location.origin) return;
    if (event.data?.type === "OAUTH_SUCCESS" || event.data?.type === "OAUTH_ERROR") done();
  };
  window.addEventListener("message", heard);
  const timer = setInterval(() => { if (popup.closed) done(); }, 500);
}
button.addEventListener("click", connect);
fetchConnections();
`,
  ),
};

/** A product that opens the console for its signed-in user, and hands over the token when it is asked. */
export const OPENER = {
  html: FRAME(
    "A product with a console",
    `
button.textContent = "Manage connections";
button.addEventListener("click", () => {
  const opened = window.open(api + "/console/");
  window.addEventListener("message", (event) => {
    if (event.source !== opened || event.origin !== new URL(api).origin) return;
    if (event.data?.type === "patchbay:token-wanted") opened.postMessage({ type: "patchbay:token", token }, event.origin);
  });
});
`,
  ),
};

/** A product that opens the console, and answers what the test sets as \`answer\`: a token, or null for none. */
export const SILENT = {
  html: FRAME(
    "A silent product",
    `
window.answer = null;
window.asked = [];
button.addEventListener("click", () => {
  const opened = window.open(api + "/console/");
  window.hand = (token) => opened.postMessage({ type: "patchbay:token", token }, new URL(api).origin);
  window.addEventListener("message", (event) => {
    if (event.source !== opened || event.data?.type !== "patchbay:token-wanted") return;
    window.asked.push(event.data.fresh);
    if (window.answer) window.hand(window.answer);
  });
});
`,
  ),
};
