import { useId, useState, type FormEvent } from "react";
import iconUrl from "../icon.svg";
import { useTitle } from "../ui/hooks.js";

/** The way in where no window of the product has opened the console: a user's token, by hand. */
export function SignIn({ onToken }: { onToken: (token: string) => void }) {
  useTitle("Sign in");
  const [token, setToken] = useState("");
  const id = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onToken(token.trim());
  };
  return (
    <div className="sign-in">
      <main className="panel">
        <img src={iconUrl} alt="" width="40" height="40" />
        <div>
          <h1>Connections</h1>
          <p className="quiet">
            Your product opens this page for you, signed in. To look at it without, paste a user’s token as your identity
            provider signs it.
          </p>
        </div>
        <form className="stack" onSubmit={submit}>
          <div className="field">
            <label htmlFor={id}>Token</label>
            <input
              id={id}
              className="input mono"
              type="password"
              autoComplete="off"
              spellCheck={false}
              value={token}
              aria-describedby={`${id}-hint`}
              onChange={(event) => setToken(event.target.value)}
            />
            <p id={`${id}-hint`} className="quiet small">
              It stays in this tab and is sent to this service only. It is forgotten when you sign out or close the tab.
            </p>
          </div>
          <button className="button primary" disabled={token.trim() === ""}>
            Sign in
          </button>
        </form>
      </main>
    </div>
  );
}
