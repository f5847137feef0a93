import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, screen, waitFor } from "@testing-library/react";
import { version } from "react";
import { expect, test, vi } from "vitest";
import { ConnectButton, ConnectionStatus, createClient, PatchbayProvider, useConnections, useSession } from "../src/index.js";
import { browser } from "../../client/tests/support/browser.js";
import { faults, newUser, tokenFor } from "../../client/tests/support/nango.js";
import { Proxy } from "../../client/tests/support/proxy.js";
import { connected, page } from "./support/render.js";

test("React version matches the tested version", () => {
  expect(version.split(".")[0]).toBe(process.env["REACT_MAJOR"] ?? "19");
});

test("ConnectButton connects and updates every component", async () => {
  const onConnected = vi.fn();
  const { person, elsewhere, proxy } = await page(
    <>
      <ConnectButton connectorId="gmail" connectorName="Gmail" onConnected={onConnected} />
      <ConnectionStatus connectorId="gmail" />
    </>,
  );
  expect(await screen.findByText("Not connected")).toBeTruthy();
  const button = screen.getByRole("button", { name: "Connect Gmail" });
  button.focus();
  await person.keyboard("{Enter}");
  expect(browser.popups).toHaveLength(1);
  await waitFor(() => expect(screen.getByRole("status").textContent).toMatch(/Finish in the other window/));
  expect(await screen.findByText("Waiting for you to allow access")).toBeTruthy();
  await browser.popup.decide("allow");
  await screen.findByRole("button", { name: "Gmail connected" });
  expect(document.activeElement).toBe(button);
  expect(screen.getByRole("status").textContent).toBe("Gmail is connected.");
  expect(screen.getByText("Connected")).toBeTruthy();
  expect(onConnected).toHaveBeenCalledTimes(1);
  expect(onConnected.mock.calls[0]?.[0]).toMatchObject({ connector_slug: "gmail", status: "connected" });
  // One stream however many components there are, in strict mode, too.
  expect(proxy.streams).toBe(1);

  await elsewhere.disconnect("gmail");
  await screen.findByRole("button", { name: "Connect Gmail" });
  expect(screen.getByText("Not connected")).toBeTruthy();
  expect(screen.getByRole("status").textContent).toBe("");
});

test("ConnectButton reports a denial and retries with one click", async () => {
  const { person } = await page(<ConnectButton connectorId="github" connectorName="GitHub" />);
  await person.click(await screen.findByRole("button", { name: "Connect GitHub" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("deny");
  await screen.findByText("GitHub was not connected: access was declined.");
  await person.click(screen.getByRole("button", { name: "Connect GitHub" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await screen.findByRole("button", { name: "GitHub connected" });
});

test("ConnectButton shows a link when the popup is blocked", async () => {
  browser.blocks = true;
  const { person } = await page(<ConnectButton connectorId="gmail" connectorName="Gmail" />);
  await person.click(await screen.findByRole("button", { name: "Connect Gmail" }));
  const link = await screen.findByRole<HTMLAnchorElement>("link", { name: "Open it" });
  expect(link.target).toBe("_blank");
  await faults({ consent: "allow" });
  await fetch(link.href, { headers: { accept: "text/html" } });
  await screen.findByRole("button", { name: "Gmail connected" });
});

test("flow resumes after a reload and can be dismissed", async () => {
  const button = <ConnectButton connectorId="gmail" connectorName="Gmail" />;
  const first = await page(button);
  await first.person.click(await screen.findByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  first.unmount();
  await waitFor(() => expect(first.proxy.streams).toBe(0));
  const { person } = await page(button, { user: first.user, proxy: first.proxy });
  await screen.findByRole("button", { name: "Connecting Gmail…" });
  await person.click(screen.getByRole("button", { name: "Open it again" }));
  expect(browser.popups).toHaveLength(2);
  await waitFor(() => expect(browser.popup.url).toBe(browser.popups[0]?.url));
  await person.click(screen.getByRole("button", { name: "Cancel" }));
  await screen.findByRole("button", { name: "Connect Gmail" });
  expect(sessionStorage).toHaveLength(0);
  // Nothing is left of it.
  await waitFor(async () => expect((await first.elsewhere.listConnections()).connections).toEqual([]));
});

test("error messages can be customized", async () => {
  await faults({ status: 503, only: "POST /connect/sessions" });
  const messages = { errors: { nango_unavailable: "Später noch einmal." }, connect: (name: string) => `${name} verbinden` };
  const { person } = await page(<ConnectButton connectorId="gmail" connectorName="Gmail" />, { messages });
  await person.click(await screen.findByRole("button", { name: "Gmail verbinden" }));
  await screen.findByText("Später noch einmal.");
  expect(browser.popup.closed).toBe(true);
});

function List({ asObject }: { asObject: boolean }) {
  const { connections, getConnection, totalCount, isConnected, getConnectionStatus, connect, disconnect, isConnecting, isDisconnecting } =
    useConnections();
  const [first] = connections;
  return (
    <>
      <output>
        {JSON.stringify({
          totalCount,
          ids: connections.map((connection) => connection.instance_id),
          any: isConnected("gmail"),
          work: isConnected("gmail", "work"),
          byId: first ? isConnected(first.connector_id) : null,
          status: getConnectionStatus("gmail", ""),
          label: getConnection("gmail", "work")?.instance_id,
          isConnecting,
          isDisconnecting,
        })}
      </output>
      <button type="button" onClick={() => void (asObject ? connect({ connectorId: "gmail", instanceId: "work" }) : connect("gmail", "work"))}>
        work
      </button>
      <button type="button" onClick={() => void (asObject ? disconnect({ connectorId: "gmail", connectionId: first?.id }) : disconnect("gmail", first?.id))}>
        end
      </button>
    </>
  );
}

test.each([false, true])("useConnections_takes_the_original_argument_shapes (as an object: %s)", async (asObject) => {
  const { person } = await page(<List asObject={asObject} />);
  const shown = () => JSON.parse(screen.getByRole("status").textContent ?? "") as unknown;
  await waitFor(() => expect(shown()).toMatchObject({ totalCount: 0, any: false, status: "disconnected" }));
  await person.click(screen.getByRole("button", { name: "work" }));
  await waitFor(() => expect(shown()).toMatchObject({ isConnecting: true }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  const connectedNow = { totalCount: 1, ids: ["work"], any: true, work: true, byId: true, status: "disconnected" };
  await waitFor(() => expect(shown()).toMatchObject({ ...connectedNow, isConnecting: false }));
  await person.click(screen.getByRole("button", { name: "end" }));
  await waitFor(() => expect(shown()).toMatchObject({ any: false, totalCount: 1, isDisconnecting: false }));
});

test("provider resets state when the user changes", async () => {
  const first = await page(<List asObject={false} />);
  await connected(first.elsewhere, "gmail", "secret");
  await screen.findByText(/secret/);
  await first.signIn(newUser());
  // Not even for a moment: nothing is shown before this user's own list has come.
  expect(screen.queryByText(/secret/)).toBeNull();
  await waitFor(() => expect(screen.getByText(/"totalCount":0/)).toBeTruthy());
  await waitFor(() => expect(first.queries.isFetching()).toBe(0));
  expect(screen.queryByText(/secret/)).toBeNull();
  expect(JSON.stringify(first.queries.getQueryCache().getAll().map((query) => query.state.data))).not.toContain("secret");
});

test("another_user_is_shown_nothing_when_only_the_token_changes", async () => {
  const [ada, bob] = [newUser(), newUser()];
  let token = await tokenFor(ada);
  const { elsewhere, proxy, queries } = await page(<List asObject={false} />, { user: ada, getToken: () => token });
  await connected(elsewhere, "gmail", "secret");
  await screen.findByText(/secret/);
  // Another user signs in to the product, and the product does not notify the provider.
  token = await tokenFor(bob);
  document.dispatchEvent(new Event("visibilitychange"));
  await waitFor(() => expect(screen.queryByText(/secret/)).toBeNull());
  await waitFor(() => expect(screen.getByText(/"totalCount":0/)).toBeTruthy());
  expect(JSON.stringify(queries.getQueryCache().getAll().map((query) => query.state.data))).not.toContain("secret");
  // One stream is left: this user's.
  await waitFor(() => expect(proxy.streams).toBe(1));
  await connected(elsewhere, "github", "also-secret");
  await elsewhere.listConnections();
  expect(screen.queryByText(/secret/)).toBeNull();
});

test("another_user_is_shown_nothing_after_provider_unmounts", async () => {
  const queries = new QueryClient();
  const { url: baseUrl } = await Proxy.start();
  // A product that never names its users, and unmounts the provider at sign-out.
  const of = (token: string | null) => (
    <QueryClientProvider client={queries}>
      {token && (
        <PatchbayProvider baseUrl={baseUrl} getToken={() => token}>
          <List asObject={false} />
        </PatchbayProvider>
      )}
    </QueryClientProvider>
  );
  const ada = await tokenFor(newUser());
  await connected(createClient({ baseUrl, getToken: () => ada }), "gmail", "secret");
  const { rerender } = render(of(ada));
  await screen.findByText(/secret/);
  rerender(of(null));
  rerender(of(await tokenFor(newUser())));
  expect(screen.queryByText(/secret/)).toBeNull();
  await waitFor(() => expect(screen.getByText(/"totalCount":0/)).toBeTruthy());
});

/** As many products write it: the button goes when the list says that it is connected. */
function Usual({ onConnected }: { onConnected: () => void }) {
  const { isConnected } = useConnections();
  if (isConnected("gmail")) return <p>There it is</p>;
  return <ConnectButton connectorId="gmail" connectorName="Gmail" onConnected={onConnected} />;
}

test("ConnectButton calls onConnected before it unmounts", async () => {
  const onConnected = vi.fn();
  const { person } = await page(<Usual onConnected={onConnected} />);
  await person.click(await screen.findByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await screen.findByText("There it is");
  expect(onConnected).toHaveBeenCalledTimes(1);
  expect(sessionStorage).toHaveLength(0);
});

function Session() {
  const { expired, retry } = useSession();
  return expired ? <button onClick={() => void retry()}>Signed in again</button> : <p>fine</p>;
}

test("expired session is reported and requests resume after signing in", async () => {
  let token = "refused";
  const { person, elsewhere, user } = await page(
    <>
      <Session />
      <ConnectionStatus connectorId="gmail" />
    </>,
    { getToken: () => token },
  );
  const again = await screen.findByRole("button", { name: "Signed in again" });
  await connected(elsewhere, "gmail");
  token = await tokenFor(user);
  await person.click(again);
  await screen.findByText("Connected");
  expect(screen.getByText("fine")).toBeTruthy();
});
