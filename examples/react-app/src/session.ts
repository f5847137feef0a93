/** Who is signed in. A product asks its identity provider; this one asks the sandbox, which signs for anybody. */
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
  if (!answer.ok) throw new Error("Nobody signs tokens here: run cargo run -- sandbox");
  const { token } = (await answer.json()) as { token: string };
  return token;
}
