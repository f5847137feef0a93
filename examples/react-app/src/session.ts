/** The signed-in user. A product gets tokens from its identity provider; the sandbox signs one for any user. */
export const user = new URLSearchParams(location.search).get("user") ?? "ada";

let token: Promise<string> | undefined;

/** The user's token, asked for once, and again when it is refused. */
export function getToken({ fresh }: { fresh: boolean }): Promise<string> {
  if (fresh || !token) {
    token = signIn();
    // What went wrong once is not kept.
    token.catch(() => (token = undefined));
  }
  return token;
}

async function signIn(): Promise<string> {
  const headers = { "content-type": "application/json" };
  const answer = await fetch("/sandbox/token", { method: "POST", headers, body: JSON.stringify({ user }) });
  if (!answer.ok) throw new Error("No sandbox is running to sign tokens. Start it with: cargo run -- sandbox");
  const { token } = (await answer.json()) as { token: string };
  return token;
}
