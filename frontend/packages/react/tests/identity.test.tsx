import { fireEvent, screen, waitFor, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { ConnectionManager, ConnectionPicker, ConnectorCatalog } from "../src/index.js";
import { browser } from "../../client/tests/support/browser.js";
import { consent, faults } from "../../client/tests/support/nango.js";
import { page } from "./support/render.js";

test("connection shows account and missing scopes, and asks again", async () => {
  const { person, elsewhere, container } = await page(<ConnectionManager connectorId="github" />);
  await faults({ withheld_scopes: ["gist"] });
  const started = await elsewhere.connect("github", { details: { label: "Work", scopes: ["repo", "gist"] } });
  await consent(started.oauth_url ?? "", "allow");
  const card = within(await screen.findByRole("listitem", { name: "Work" }));
  await card.findByText("gist");
  expect(card.getByText(/^Not allowed:/)).toBeTruthy();
  await card.findByText("ada@analytical.example");
  expect(card.getByText("Ada Lovelace (work)")).toBeTruthy();

  const picture = container.querySelector<HTMLImageElement>('[data-patchbay="avatar"] img');
  expect(picture?.src).toMatch(/^https:\/\//);
  expect(picture?.getAttribute("referrerpolicy")).toBe("no-referrer");
  if (picture) fireEvent.error(picture);
  expect(container.querySelector('[data-patchbay="avatar"]')?.textContent).toBe("AL");

  await faults({});
  await person.click(card.getByRole("button", { name: "Allow the rest" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await browser.popup.decide("allow");
  await waitFor(() => expect(card.queryByText(/^Not allowed:/)).toBeNull());
  expect(await elsewhere.getConnection(started.connection_id)).toMatchObject({ scopes: ["repo", "gist"], missing_scopes: [] });
});

test("catalog and picker show logos of the service, or initials", async () => {
  const { proxy, container } = await page(
    <>
      <ConnectorCatalog />
      <ConnectionPicker connectorId="github" connectorName="GitHub" value={null} onChange={() => {}} />
    </>,
  );
  await screen.findByText("GitHub");
  const logos = [...container.querySelectorAll<HTMLImageElement>(`img[src="${proxy.url}/api/v1/connectors/github/logo"]`)];
  expect(logos).toHaveLength(2);
  const [logo] = logos;
  if (logo) fireEvent.error(logo);
  await waitFor(() => expect(container.querySelectorAll(`img[src$="/github/logo"]`)).toHaveLength(1));
});
