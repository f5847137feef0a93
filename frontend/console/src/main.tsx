import "./styles/base.css";
import "@patchbay/react/styles.css";
import "./styles/parts.css";
import "./styles/shell.css";
import "./styles/pages.css";
import "./styles/sandbox.css";

import { StrictMode, useEffect, useReducer, useState } from "react";
import { createRoot } from "react-dom/client";
import { loadConfig, type Config } from "./config.js";
import { Console } from "./console.js";
import { Trouble } from "./ui/parts.js";

function Start() {
  const [config, setConfig] = useState<Config | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [attempts, retry] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    if (config) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    loadConfig().then(setConfig, (cause: unknown) => {
      setError(cause instanceof Error ? cause : new Error(String(cause)));
      // By itself, in growing pauses, half of which are jitter.
      timer = setTimeout(retry, Math.min(60_000, 1_000 * 2 ** attempts) * (0.5 + Math.random() / 2));
    });
    return () => clearTimeout(timer);
  }, [config, attempts]);
  if (config) return <Console config={config} />;
  if (!error) return null;
  return (
    <main className="page slim">
      <Trouble isPage what="The service cannot be reached" error={error} retry={retry} />
    </main>
  );
}

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <Start />
    </StrictMode>,
  );
}
