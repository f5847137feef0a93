import { screen, waitFor, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { ConnectButton, ConnectorCatalog } from "../src/index.js";
import { browser } from "../../client/tests/support/browser.js";
import { Proxy } from "../../client/tests/support/proxy.js";
import { connected, page, type Page } from "./support/render.js";

const ZENDESK = <ConnectButton connectorId="zendesk" connectorName="Zendesk" />;

/** The form, once the connector is known to need one. */
async function form(person: Awaited<ReturnType<typeof page>>["person"]) {
  const proxyKnows = await screen.findByRole("button", { name: "Connect Zendesk" });
  await waitFor(async () => {
    await person.click(proxyKnows);
    expect(screen.queryByRole("form", { name: "Connect Zendesk" })).toBeTruthy();
  });
  return within(screen.getByRole("form", { name: "Connect Zendesk" }));
}

/** How many requests for a connector, by its slug or id, there were. */
function fetched(proxy: Proxy): number {
  return proxy.seen.filter(({ path }) => /^\/(zendesk|[0-9a-f-]{36})$/.test(path)).length;
}

/** The page has fetched what the connector needs. */
async function known({ proxy, queries }: Page) {
  await waitFor(() => expect(fetched(proxy)).toBe(1));
  await waitFor(() => expect(queries.isFetching()).toBe(0));
}

test("parameters_are_asked_for_before_the_window_opens", async () => {
  const shown = await page(ZENDESK);
  const { person, elsewhere } = shown;
  await known(shown);
  const inside = await form(person);
  expect(browser.popups).toHaveLength(0);
  const field = inside.getByLabelText<HTMLInputElement>("Zendesk subdomain");
  await waitFor(() => expect(document.activeElement).toBe(field));
  expect(inside.getByText("https://")).toBeTruthy();
  expect(inside.getByText(".zendesk.com")).toBeTruthy();
  // An address is read from left to right on every page.
  expect(field.closest("[dir=ltr]")?.textContent).toBe("https://.zendesk.com");
  expect(inside.getByText(/The first part of your help center's address\. Example: acme/)).toBeTruthy();

  await person.keyboard("{Enter}");
  expect(inside.getByRole("alert").textContent).toBe("Enter the Zendesk subdomain. Example: acme");
  await person.type(field, "not valid!{Enter}");
  expect(inside.getByRole("alert").textContent).toMatch(/is not in the right form/);
  expect(field.getAttribute("aria-invalid")).toBe("true");
  expect(document.activeElement).toBe(field);
  expect(browser.popups).toHaveLength(0);

  // As it is pasted from the browser's address bar.
  await person.clear(field);
  await person.type(field, " https://acme.zendesk.com/ {Enter}");
  expect(browser.popups).toHaveLength(1);
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  expect(browser.popup.url).toContain("/oauth/connect/zendesk");
  await browser.popup.decide("allow");
  await screen.findByRole("button", { name: "Zendesk connected" });
  expect((await elsewhere.listConnections()).connections[0]).toMatchObject({ status: "connected" });
});

test("refused_parameter_is_explained_at_its_field", async () => {
  const proxy = await Proxy.start();
  const detail = '`parameters.subdomain` must match `^[a-z]+$`, as "acme" does.';
  const body = { code: "invalid_request", title: "", detail, status: 400 };
  const shown = await page(ZENDESK, { proxy });
  const { person } = shown;
  await known(shown);
  const inside = await form(person);
  proxy.fate = ({ method }) => (method === "POST" ? { status: 400, type: "application/problem+json", body } : "pass");
  await person.type(inside.getByLabelText("Zendesk subdomain"), "acme1{Enter}");
  const again = within(await screen.findByRole("form", { name: "Connect Zendesk" }));
  expect(again.getByRole("alert").textContent).toBe('Zendesk subdomain must match `^[a-z]+$`, as "acme" does.');
  const field = again.getByLabelText<HTMLInputElement>("Zendesk subdomain");
  expect(field.value).toBe("acme1");
  expect(browser.popup.closed).toBe(true);
  proxy.fate = () => "pass";
  await person.clear(field);
  await person.type(field, "acme{Enter}");
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
});

test("parameters_form_is_canceled_by_escape_and_keeps_the_focus", async () => {
  const shown = await page(ZENDESK);
  const { person } = shown;
  await known(shown);
  await form(person);
  await person.keyboard("{Escape}");
  expect(screen.queryByRole("form")).toBeNull();
  await waitFor(() => expect(document.activeElement?.textContent).toBe("Connect Zendesk"));
});

test("given_parameters_are_not_asked_for", async () => {
  const { person } = await page(
    <>
      <ConnectButton connectorId="zendesk" connectorName="Zendesk" details={{ parameters: { subdomain: "acme" } }} />
      <ConnectButton connectorId="zendesk" instanceId="b" connectorName="Window" parameters={[]} />
    </>,
  );
  await person.click(await screen.findByRole("button", { name: "Connect Zendesk" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  expect(browser.popup.url).toContain("/oauth/connect/zendesk");
  // Without a form, the window asks.
  await person.click(screen.getByRole("button", { name: "Connect Window" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  expect(browser.popup.url).toContain("connect-ui");
});

test("catalog_asks_for_parameters_and_reconnect_does_not", async () => {
  const { person, elsewhere, proxy } = await page(<ConnectorCatalog pageSize={100} />);
  const card = within(await screen.findByRole("listitem", { name: "Zendesk" }));
  await person.click(card.getByRole("button", { name: "Connect Zendesk" }));
  expect(await card.findByLabelText("Zendesk subdomain")).toBeTruthy();
  expect(fetched(proxy)).toBe(0);
  await person.keyboard("{Escape}");
  await connected(elsewhere, "gmail");
  await card.findByRole("button", { name: "Connect Zendesk" });
});
