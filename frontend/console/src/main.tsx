import "./styles/base.css";
import "./styles/parts.css";
import "./styles/shell.css";
import "./styles/pages.css";
import "./styles/sandbox.css";

import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { loadConfig, type Config } from "./config.js";
import { Console } from "./console.js";
import { Trouble } from "./ui/parts.js";

function Start() {
  const [found, setFound] = useState<Config | Error | null>(null);
  useEffect(() => {
    if (found === null) loadConfig().then(setFound, setFound);
  }, [found]);
  if (found === null) return null;
  if (found instanceof Error) {
    return (
      <main className="page slim">
        <Trouble what="The service cannot be reached" error={found} retry={() => setFound(null)} />
      </main>
    );
  }
  return <Console config={found} />;
}

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <Start />
    </StrictMode>,
  );
}
