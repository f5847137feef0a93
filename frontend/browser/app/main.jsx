// A product's page with the package, as Vite builds it. The address says where Patchbay is, whose token it is, and what is shown.
import "@patchbay/react/styles.css";
import { ConnectButton, ConnectionManager, ConnectionPicker, ConnectorCatalog, PatchbayProvider, useSession } from "@patchbay/react";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

const query = new URLSearchParams(location.search);
// A test may take the token away, or have it come late.
window.getToken = () => query.get("token");
window.connected = [];
const scheme = query.get("scheme");
if (scheme) document.documentElement.style.colorScheme = scheme;

const gmail = { connectorId: "gmail", connectorName: "Gmail" };

function Step() {
  const [value, setValue] = useState(null);
  return <ConnectionPicker {...gmail} value={value} onChange={setValue} />;
}

const VIEWS = {
  button: () => <ConnectButton {...gmail} onConnected={({ id }) => window.connected.push(id)} />,
  catalog: () => <ConnectorCatalog pageSize={20} />,
  zendesk: () => <ConnectButton connectorId="zendesk" connectorName="Zendesk" />,
  manager: () => <ConnectionManager />,
  picker: Step,
};

function Session() {
  const { expired, retry } = useSession();
  return expired && <button onClick={() => void retry()}>Sign in again</button>;
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <QueryClientProvider client={new QueryClient()}>
      <PatchbayProvider baseUrl={query.get("api")} getToken={(wanted) => window.getToken(wanted)}>
        <main>
          <h1>A product</h1>
          <Session />
          {(query.get("views") ?? "manager").split(",").map((name, index) => {
            const View = VIEWS[name];
            return <View key={index} />;
          })}
        </main>
      </PatchbayProvider>
    </QueryClientProvider>
  </StrictMode>,
);
