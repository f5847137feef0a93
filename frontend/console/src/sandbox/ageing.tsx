import { useState } from "react";
import { age } from "./controls.js";

/** What can happen to an account at its provider, made to happen. */
export function Ageing({ controls, nangoId, onDone }: { controls: string; nangoId: string; onDone: () => void }) {
  const [trouble, setTrouble] = useState<string | null>(null);
  const make = async (how: "expire" | "revoke") => {
    setTrouble(null);
    try {
      await age(controls, how, nangoId);
      onDone();
    } catch (error) {
      setTrouble(error instanceof Error ? error.message : "The sandbox cannot be reached.");
    }
  };
  return (
    <section className="panel block" aria-labelledby="ageing">
      <h2 id="ageing">In the sandbox</h2>
      <div className="stack">
        <p className="quiet small">
          Change the account at the provider, and have the connection checked at once. What you should see: an expired token
          is renewed and the account stays connected; after access is revoked, it shows “Access ended” and asks for a reconnect,
          or “Having trouble” while no other account shows that the provider itself works.
        </p>
        <div className="actions">
          <button className="button compact" onClick={() => void make("expire")}>
            Let the token expire
          </button>
          <button className="button compact" onClick={() => void make("revoke")}>
            Revoke access at the provider
          </button>
        </div>
        {trouble && <p role="alert">{trouble}</p>}
      </div>
    </section>
  );
}
