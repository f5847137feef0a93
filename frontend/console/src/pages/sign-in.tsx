import { useId, useState, type FormEvent } from "react";
import iconUrl from "../icon.svg";
import { useTitle } from "../ui/hooks.js";

/** What has come of asking the window that opened the console. */
export type Asked = "waiting" | "unanswered";

interface SignInProps {
  /** Null where there is no window to ask. */
  asked: Asked | null;
  onToken: (token: string) => void;
}

/** What to say of it. */
export const WAY_IN: Record<Asked | "usual", string> = {
  usual: "Your product opens this page for you, signed in.",
  waiting: "Waiting for your product to sign you in…",
  unanswered:
    "Your product did not answer. Close this window and open it from there again. " +
    "(Operator: its origin has to be in CORS_ALLOWED_ORIGINS.)",
};

/** The way in: what has come of asking the product, and if that is not it, a user's token by hand. */
export function SignIn({ asked, onToken }: SignInProps) {
  useTitle("Sign in");
  return (
    <div className="sign-in">
      <main className="panel">
        <img src={iconUrl} alt="" width="40" height="40" />
        <div>
          <h1>Connections</h1>
          <p className="quiet" role="status">
            {WAY_IN[asked ?? "usual"]}
          </p>
        </div>
        {asked !== "waiting" && <ByHand onToken={onToken} />}
      </main>
    </div>
  );
}

function ByHand({ onToken }: Pick<SignInProps, "onToken">) {
  const [token, setToken] = useState("");
  const id = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onToken(token.trim());
  };
  return (
    <form className="stack" onSubmit={submit}>
      <p className="quiet">To look at it without, paste a user’s token as your identity provider signs it.</p>
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
  );
}
