import "@patchbay/react/styles.css";
import "./page.css";
import { PatchbayProvider } from "@patchbay/react";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { getToken, user } from "./session";

const queries = new QueryClient();
const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");

createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <PatchbayProvider baseUrl="" getToken={getToken} user={user}>
        <App />
      </PatchbayProvider>
    </QueryClientProvider>
  </StrictMode>,
);
