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
          Make happen what happens at providers, and have it checked at once. An expired token is renewed and nothing is
          lost; access that its owner has withdrawn is noticed, and asks for a reconnect.
        </p>
        <div className="actions">
          <button className="button compact" onClick={() => void make("expire")}>
            Let the token expire
          </button>
          <button className="button compact" onClick={() => void make("revoke")}>
            Withdraw access at the provider
          </button>
        </div>
        {trouble && <p role="alert">{trouble}</p>}
      </div>
    </section>
  );
}
