import { readFile } from "node:fs/promises";
import { render, screen, waitFor, within } from "@testing-library/react";
import { useState } from "react";
import { expect, test, vi } from "vitest";
import {
  accountName,
  ConnectButton,
  ConnectionManager,
  ConnectionPicker,
  ConnectionStatus,
  ConnectorCatalog,
  defaultMessages,
  ErrorNotice,
  errorText,
  FlowNotice,
  nameOf,
  PatchbayError,
  type Attempt,
  type Connection,
  type ErrorCode,
  type UseConnect,
} from "../src/index.js";
import { browser } from "../../client/tests/support/browser.js";
import { consent, faults } from "../../client/tests/support/nango.js";
import { Proxy, type Seen } from "../../client/tests/support/proxy.js";
import { connected, page } from "./support/render.js";

/** Of a connect that is over. */
const controls: Omit<UseConnect, "state" | "dismiss"> = {
  isBusy: false,
  start: () => {},
  startWith: () => {},
  reopen: () => {},
  followed: () => {},
};

test("ConnectionManager shows accounts and their actions", async () => {
  const { person, elsewhere } = await page(<ConnectionManager />);
  await screen.findByText("Nothing is connected yet.");
  const id = await connected(elsewhere, "gmail", "work", "Work");
  await connected(elsewhere, "github");
  const card = await screen.findByRole("listitem", { name: "Work" });
  await waitFor(() => expect(screen.getAllByRole("listitem")).toHaveLength(2));
  const inside = within(card);
  await inside.findByText("Connected");
  expect(inside.getByText("Not used yet")).toBeTruthy();

  await person.click(inside.getByRole("button", { name: "Rename" }));
  const name = await inside.findByLabelText<HTMLInputElement>("Name");
  await waitFor(() => expect(document.activeElement).toBe(name));
  await person.clear(name);
  await person.type(name, "Job{Enter}");
  await screen.findByRole("listitem", { name: "Job" });
  await waitFor(() => expect(document.activeElement).toBe(inside.getByRole("button", { name: "Rename" })));

  await person.click(inside.getByRole("button", { name: "History" }));
  const renamed = await inside.findByText("Renamed");
  expect(renamed.closest("li")?.textContent).toMatch(/from Work to Job.*By you/);
  expect(inside.getByText("Authorization started")).toBeTruthy();

  await person.click(inside.getByRole("button", { name: "Check" }));
  await inside.findByText("It works.");

  await person.click(inside.getByRole("button", { name: "Disconnect" }));
  expect(await inside.findByText(/Workflows that use it stop working/)).toBeTruthy();
  await waitFor(() => expect(document.activeElement?.textContent).toBe("Cancel"));
  await person.keyboard("{Escape}");
  await waitFor(() => expect(document.activeElement?.textContent).toBe("Disconnect"));
  await person.keyboard("{Enter}");
  const question = inside.getByRole("group", { name: /^Disconnect Job ?\?$/ });
  await person.click(within(question).getByRole("button", { name: "Disconnect" }));
  await screen.findByText("Disconnected (1)");
  expect(await elsewhere.getConnection(id)).toMatchObject({ status: "disconnected" });
});

test("ConnectionManager keeps a working connection when a reconnect is denied", async () => {
  const { person, elsewhere } = await page(<ConnectionManager connectorId="gmail" />);
  const id = await connected(elsewhere, "gmail");
  await person.click(await screen.findByRole("button", { name: "Reconnect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("deny");
  await screen.findByText(/access was declined\. The connection still works\./);
  await person.click(screen.getByRole("button", { name: "Reconnect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await screen.findByText("Gmail is connected.");
  expect((await elsewhere.history(id)).events[0]).toMatchObject({ kind: "reauthorized" });
});

test("failed_first_connection_is_removed_and_never_disconnected", async () => {
  const { person, elsewhere } = await page(<ConnectionManager />);
  await screen.findByText("Nothing is connected yet.");
  const started = await elsewhere.connect("github", { details: { label: "Never" } });
  await consent(started.oauth_url ?? "", "deny");
  const card = within(await screen.findByRole("listitem", { name: "Never" }));
  await card.findByText("Access was declined");
  expect(card.queryByRole("button", { name: "Disconnect" })).toBeNull();
  await person.click(card.getByRole("button", { name: "Remove" }));
  await screen.findByText("Nothing is connected yet.");
  expect(screen.queryByText(/^Disconnected \(/)).toBeNull();
  expect(await elsewhere.getConnection(started.connection_id)).toMatchObject({ status_reason: "removed" });
});

test("account_mismatch_offers_both_choices_beside_every_button", async () => {
  const { person, elsewhere } = await page(
    <>
      <ConnectionManager />
      <ConnectionPicker connectorId="hubspot" connectorName="HubSpot" value={null} onChange={() => {}} />
      <ConnectButton connectorId="hubspot" connectorName="HubSpot" />
    </>,
  );
  await connected(elsewhere, "hubspot");
  await screen.findByRole("button", { name: "HubSpot connected" });
  const { connections } = await elsewhere.listConnections();
  const again = await elsewhere.reconnect(connections[0]?.id ?? "", { details: { login_hint: "grace" } });
  await consent(again.oauth_url ?? "", "allow");
  const use = await screen.findAllByRole("button", { name: /^Use / });
  expect(use).toHaveLength(2);
  expect(screen.getAllByRole("button", { name: "Reconnect HubSpot" })).toHaveLength(2);
  await person.click(use[0] as HTMLElement);
  await screen.findByRole("button", { name: "HubSpot connected" });
});

test("check reports success only for a working connection", async () => {
  const { person, elsewhere } = await page(<ConnectionManager connectorId="hubspot" />);
  await connected(elsewhere, "hubspot", "", "Team");
  const card = within(await screen.findByRole("listitem", { name: "Team" }));
  await card.findByText("Connected");
  await faults({ refuse_refresh: true });
  await person.click(card.getByRole("button", { name: "Check" }));
  const said = () => card.getAllByRole("status").map((status) => status.textContent);
  await waitFor(() => expect(said()).toContain(defaultMessages.failing));
  expect(said()).not.toContain("It works.");
  await faults({});
  await person.click(card.getByRole("button", { name: "Check" }));
  await card.findByText("It works.");
  expect(card.queryByText(defaultMessages.failing)).toBeNull();
});

/** The list of connections is not to be had, and everything else is. */
const noList = ({ path }: Seen) => (path.startsWith("/connections?") ? 404 : "pass");

test("ErrorNotice explains the error and retries with one click", async () => {
  const proxy = await Proxy.start();
  proxy.fate = noList;
  const { person } = await page(<ConnectionManager />, { proxy });
  const alert = await screen.findByRole("alert");
  expect(alert.textContent).toContain(defaultMessages.errors.unreadable);
  // That there is nothing is not known.
  expect(screen.queryByText("Nothing is connected yet.")).toBeNull();
  proxy.fate = () => "pass";
  await person.click(within(alert).getByRole("button", { name: "Try again" }));
  await screen.findByText("Nothing is connected yet.");
  expect(screen.queryByRole("alert")).toBeNull();
});

test("status is unknown until the list is loaded", async () => {
  const proxy = await Proxy.start();
  proxy.fate = noList;
  const { person, elsewhere } = await page(
    <>
      <ConnectionStatus connectorId="gmail" />
      <ConnectionManager />
    </>,
    { proxy },
  );
  await connected(elsewhere, "gmail");
  await screen.findByText("Status unknown. Trying again.");
  const alert = screen.getByRole("alert");
  const asked = proxy.count("GET /connections?");
  // The client retries automatically. Meanwhile no other status is shown, and nothing is announced again.
  await waitFor(() => expect(proxy.count("GET /connections?")).toBeGreaterThan(asked));
  expect(screen.getByText("Status unknown. Trying again.")).toBeTruthy();
  expect(screen.getByRole("alert")).toBe(alert);
  expect(screen.queryByText("Not connected")).toBeNull();
  proxy.fate = () => "pass";
  await person.click(within(alert).getByRole("button", { name: "Try again" }));
  await waitFor(() => expect(screen.getAllByText("Connected")).toHaveLength(2));
  expect(screen.queryByText("Status unknown. Trying again.")).toBeNull();
});

test("long_pause_that_the_service_asks_for_is_explained", async () => {
  const proxy = await Proxy.start();
  proxy.fate = ({ path }) => (path.endsWith("/events") ? "pass" : { status: 429, type: "text/html", body: "", headers: { "retry-after": "60" } });
  const { person } = await page(<ConnectionManager />, { proxy });
  const alert = await screen.findByRole("alert");
  // Once at the start, and once when the event stream has started.
  await new Promise((resolve) => setTimeout(resolve, 4_000));
  expect(proxy.count("GET /connections?")).toBeLessThanOrEqual(2);
  proxy.fate = () => "pass";
  await person.click(within(alert).getByRole("button", { name: "Try again" }));
  await screen.findByText("Nothing is connected yet.");
});

test("status reports a missing session without retrying", async () => {
  await page(<ConnectionStatus connectorId="gmail" />, { getToken: () => null });
  await screen.findByText("Your session has ended. Sign in again.");
  expect(screen.queryByText("Not connected")).toBeNull();
});

test("every error code has a message and a copyable request id", async () => {
  const error = (code: string, requestId?: string) =>
    new PatchbayError({ status: 502, code: code as ErrorCode, title: "", detail: "for an operator", requestId });
  for (const code of ["nango_error", "connector_unavailable", "token_unavailable", "unreadable", "invalid_request"]) {
    expect(errorText(error(code), defaultMessages)).not.toBe("for an operator");
  }
  // Of what has no message, a failure of the server's is said to be one; the rest the service's own detail says.
  expect(errorText(error("starting"), defaultMessages)).toBe(defaultMessages.errors.internal);
  const newer = new PatchbayError({ status: 409, code: "newer" as ErrorCode, title: "", detail: "for a person" });
  expect(errorText(newer, defaultMessages)).toBe("for a person");
  const refused = { phase: "refused", error: error("nango_error", "0198-refused") } as const;
  await page(
    <>
      <FlowNotice name="Gmail" connect={{ ...controls, dismiss: () => {}, state: refused }} />
      <ErrorNotice error={error("nango_error", "0198-noticed")} />
      <ErrorNotice error={error("network")} />
    </>,
  );
  expect(screen.getByText("Reference: 0198-refused").closest("details")?.open).toBe(false);
  const [noticed, network] = screen.getAllByRole("alert");
  expect(noticed?.textContent).toBe(`${defaultMessages.errors.nango_error}Detailsfor an operator Reference: 0198-noticed`);
  expect(network?.textContent).toBe(defaultMessages.errors.network);
});

test("ConnectorCatalog searches, groups, paginates and connects", async () => {
  const { person } = await page(<ConnectorCatalog pageSize={10} />);
  await screen.findByText("99 connectors");
  expect(screen.getAllByRole("listitem")).toHaveLength(10);
  await person.click(screen.getByRole("button", { name: "Show more" }));
  await waitFor(() => expect(screen.getAllByRole("listitem")).toHaveLength(20));
  await person.type(screen.getByRole("searchbox", { name: "Search connectors" }), "gmail");
  await screen.findByText("1 connector");
  const card = within(screen.getByRole("listitem", { name: "Gmail" }));
  await card.findByText("Not connected");
  await person.click(card.getByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await card.findByRole("button", { name: "Gmail connected" });
  await person.clear(screen.getByRole("searchbox"));
  const [first] = screen.getAllByRole<HTMLOptionElement>("option").slice(1);
  await person.selectOptions(screen.getByRole("combobox", { name: "Category" }), first?.value ?? "");
  const count = /\((\d+)\)/.exec(first?.textContent ?? "")?.[1];
  await screen.findByText(count === "1" ? "1 connector" : `${count} connectors`);
  await person.type(screen.getByRole("searchbox"), "no such thing");
  await screen.findByText("No connector fits.");
});

function Step() {
  const [value, setValue] = useState<string | null>(null);
  return (
    <>
      <ConnectionPicker connectorId="gmail" connectorName="Gmail" value={value} onChange={setValue} />
      <output data-testid="chosen">{value}</output>
    </>
  );
}

test("ConnectionPicker connects accounts and returns the connection id", async () => {
  const { person, elsewhere } = await page(<Step />);
  const chosen = () => screen.getByTestId("chosen").textContent;
  await person.click(await screen.findByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await waitFor(() => expect(chosen()).toMatch(/^[0-9a-f-]{36}$/));
  const first = chosen();
  const more = await screen.findByRole("button", { name: "Connect another account" });
  await person.click(more);
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await waitFor(() => expect(chosen()).not.toBe(first));
  const { connections } = await elsewhere.listConnections({ status: "connected" });
  expect(connections.map((connection) => connection.id)).toEqual([chosen(), first]);
  await person.selectOptions(screen.getByRole("combobox", { name: "Gmail account" }), first ?? "");
  expect(chosen()).toBe(first);
  await elsewhere.disconnect("gmail", { connectionId: first ?? "" });
  await screen.findByRole("option", { name: /\(Not connected\)/ });
  expect(chosen()).toBe(first);
});

test("ConnectionPicker keeps its selection when the list fails to load", async () => {
  const { elsewhere, user, unmount } = await page(null);
  const id = await connected(elsewhere, "gmail", "", "Mine");
  unmount();
  const proxy = await Proxy.start();
  proxy.fate = noList;
  await page(<ConnectionPicker connectorId="gmail" connectorName="Gmail" value={id} onChange={() => {}} />, { proxy, user });
  await screen.findByRole("alert");
  const picker = screen.getByRole<HTMLSelectElement>("combobox", { name: "Gmail account" });
  expect(picker.value).toBe(id);
  expect(picker.selectedOptions[0]?.textContent).toBe("Status unknown. Trying again.");
  expect(screen.queryByRole("button", { name: /^Connect/ })).toBeNull();
  proxy.fate = () => "pass";
  await screen.findByRole("option", { name: /^Mine/ });
  expect(picker.value).toBe(id);
  await screen.findByRole("button", { name: "Connect another account" });
});

test("names_lose_what_reverses_the_text_around_them", async () => {
  const { elsewhere } = await page(<ConnectionManager connectorId="gmail" />);
  const id = await connected(elsewhere, "gmail", "", "Work");
  const held = await elsewhere.getConnection(id);
  expect(nameOf({ ...held, label: "\u202Eevil\u2066 \u200Fname" })).toBe("evil name");
  expect(nameOf({ ...held, label: "\u202E", account: { id: "1", name: "\u202Dada" } })).toBe("ada");
  expect(accountName({ id: "\u061C7", name: null })).toBe("7");
});

test("live regions exist before they announce anything", async () => {
  const styles = await readFile("packages/react/src/styles.css", "utf8");
  render(<style>{styles}</style>);
  const { elsewhere } = await page(<ConnectionManager connectorId="gmail" />);
  await connected(elsewhere, "gmail", "", "Work");
  const card = within(await screen.findByRole("listitem", { name: "Work" }));
  const [connect, others] = card.getAllByRole("status");
  expect([connect?.textContent, others?.textContent]).toEqual(["", ""]);
});

test("grant from another browser is marked everywhere and can be disconnected", async () => {
  const { person, elsewhere, user, unmount } = await page(null);
  const id = await connected(elsewhere, "gmail");
  const held = await elsewhere.getConnection(id);
  // What the service tells where it knows browsers apart, which needs a browser: see frontend/browser/tests/forwarded.test.mjs.
  const from = (same_browser: boolean | null): Connection => ({ ...held, attempt: { ...(held.attempt as Attempt), same_browser } });
  const shown = (connection: Connection, dismiss: () => void) => (
    <>
      <ConnectionStatus connection={connection} />
      <FlowNotice name="Gmail" connect={{ ...controls, dismiss, state: { phase: "connected", connection, alreadyConnected: false } }} />
    </>
  );
  unmount();
  const settled = vi.fn();
  for (const same of [true, null]) {
    const usual = await page(shown(from(same), settled), { user });
    expect(screen.getByRole("status").textContent).toBe("Gmail is connected.");
    expect(screen.queryByText(/another browser/)).toBeNull();
    expect(screen.queryByRole("button")).toBeNull();
    usual.unmount();
  }

  const { proxy } = await page(shown(from(false), settled), { user });
  const account = String(held.account?.name);
  const said = defaultMessages.otherBrowser;
  expect(screen.getByText(said).getAttribute("data-patchbay")).toBe("status-advice");
  // The account stands apart from the sentence, in an element that isolates its letters.
  expect(screen.getByRole("status").textContent).toBe(`Gmail is connected. ${said}Account: ${account}`);
  expect(screen.getAllByText(account).map((element) => element.tagName)).toEqual(["BDI", "BDI"]);
  await person.click(screen.getByRole("button", { name: "It was me" }));
  expect(settled).toHaveBeenCalledTimes(1);
  expect(await elsewhere.getConnection(id)).toMatchObject({ status: "connected" });

  proxy.fate = ({ method }) => (method === "DELETE" ? 502 : "pass");
  await person.click(screen.getByRole("button", { name: "Disconnect" }));
  const alert = await screen.findByRole("alert");
  expect(settled).toHaveBeenCalledTimes(1);
  proxy.fate = () => "pass";
  await person.click(within(alert).getByRole("button", { name: "Try again" }));
  await waitFor(() => expect(settled).toHaveBeenCalledTimes(2));
  expect(await elsewhere.getConnection(id)).toMatchObject({ status: "disconnected" });
});
