import { useConnect, useConnectForm, useConnections, type Category, type Connection, type Connector } from "@patchbay/react";
import { memo, useDeferredValue, useMemo, useRef } from "react";
import { useCatalog, useFound } from "../catalog.js";
import { Link, paths, setParameters, useParameter } from "../router.js";
import { targetOf } from "../target.js";
import { useTitle } from "../ui/hooks.js";
import { Search } from "../ui/icons.js";
import { Logo } from "../ui/logo.js";
import { Empty, Trouble, Why } from "../ui/parts.js";
import { isNew, nameOf, remedyOf, saidOf, standingOf, type Tone } from "../words.js";
import { toneOf } from "./flow-notice.js";
import { ParametersDialog } from "./parameters.js";

const NOTHING: { connectors: Connector[]; categories: Category[] } = { connectors: [], categories: [] };

/** Everything that can be connected. */
export function CatalogPage() {
  useTitle("Catalog");
  const typed = useParameter("search");
  const search = useDeferredValue(typed);
  return (
    <div className="page">
      <div className="page-head">
        <div>
          <h1>Catalog</h1>
          <p>Connect an account, and your workflows can use it.</p>
        </div>
        <div className="search" role="search">
          <Search />
          <input
            className="input"
            type="search"
            aria-label="Search the catalog"
            placeholder="Search"
            value={typed}
            onChange={(event) => setParameters({ search: event.target.value }, true)}
          />
        </div>
      </div>
      <Results search={search} />
    </div>
  );
}

/** The connectors that a search finds. They follow the search box when there is time: a key that is pressed shows first. */
const Results = memo(function Results({ search }: { search: string }) {
  const catalog = useCatalog();
  const { connectors, categories } = catalog.data ?? NOTHING;
  const { connections, isLoading, isUnknown, error, refetch } = useConnections();
  const unknown = isUnknown ? error : null;
  const category = useParameter("category");
  const bySynonym = useFound(search);
  const matches = useMemo(() => matching(connectors, search, bySynonym), [connectors, search, bySynonym]);
  const found = category ? matches.filter((one) => one.category === category) : matches;
  const counts = useMemo(
    () =>
      categories
        .map(({ name }) => ({ name, count: matches.filter((one) => one.category === name).length }))
        .filter(({ name, count }) => count > 0 || name === category),
    [categories, matches, category],
  );
  const bySlug = useMemo(() => Map.groupBy(live(connections), (one) => one.connector_slug), [connections]);

  return (
    <>
      {catalog.error && !catalog.data && <Trouble what="The catalog cannot be shown" error={catalog.error} retry={() => void catalog.refetch()} />}
      {catalog.data && unknown && (
        <Trouble what="Your accounts cannot be shown" error={unknown} retry={() => void refetch()} />
      )}
      {(catalog.data || !catalog.error) && !unknown && (
        <div className="catalog">
          <Categories categories={counts} total={matches.length} chosen={category} />
          <div>
            <p className="hidden" role="status">
              {found.length === 1 ? "1 connector" : `${found.length} connectors`}
            </p>
            {catalog.isPending && <CardBones />}
            {!catalog.isPending && found.length === 0 && <NothingFound search={search} onClear={() => setParameters({ search: "", category: "" }, false)} />}
            {[...Map.groupBy(found, (one) => one.category)].sort(byName).map(([name, connectors]) => (
              <section key={name} className="group" aria-label={name}>
                <h2>{name}</h2>
                <ul className="cards">
                  {connectors.map((connector) => (
                    <Card
                      key={connector.id}
                      connector={connector}
                      connections={bySlug.get(connector.slug) ?? []}
                      known={!isLoading}
                    />
                  ))}
                </ul>
              </section>
            ))}
          </div>
        </div>
      )}
    </>
  );
});

function byName([one]: [string, unknown], [other]: [string, unknown]): number {
  return one.localeCompare(other, "en");
}

function matching(connectors: Connector[], search: string, bySynonym: Set<string> | undefined): Connector[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return connectors.filter((one) => {
    const text = `${one.name} ${one.slug} ${one.category}`.toLowerCase();
    return words.every((word) => text.includes(word)) || bySynonym?.has(one.slug);
  });
}

/** What is connected, or meant to be. */
function live(connections: Connection[]): Connection[] {
  return connections.filter((connection) => connection.status !== "disconnected");
}

interface CategoriesProps {
  /** The categories, with how many connectors the search finds in each. */
  categories: Category[];
  total: number;
  chosen: string;
}

/** One stop of the keyboard, whose arrows choose: what was found comes right after it. */
function Categories({ categories, total, chosen }: CategoriesProps) {
  const byKey = useRef(false);
  const choose = (category: string) => setParameters({ category }, byKey.current);
  const choices = [{ name: "", count: total }, ...categories];
  return (
    <div
      className="categories"
      role="radiogroup"
      aria-label="Categories"
      onKeyDown={() => (byKey.current = true)}
      onPointerDown={() => (byKey.current = false)}
    >
      <ul>
        {choices.map(({ name, count }) => (
          <li key={name}>
            <label>
              <input
                type="radio"
                name="category"
                className="hidden"
                checked={chosen === name}
                onChange={() => choose(name)}
              />
              {name || "All"} <span>{count}</span>
            </label>
          </li>
        ))}
      </ul>
    </div>
  );
}

interface CardProps {
  connector: Connector;
  connections: Connection[];
  /** Whether these are all that there are: what may be connected already is not offered. */
  known: boolean;
}

function Card({ connector, connections, known }: CardProps) {
  const { subject, line } = stateOf(connector, connections);
  const connect = useConnect(subject ? targetOf(subject) : { connectorId: connector.slug, instanceId: "" });
  const form = useConnectForm(connect, subject && !isNew(subject) ? [] : connector.parameters);
  const { state } = connect;
  const usable = isUsable(connector);
  const busy = state.phase === "starting" || state.phase === "waiting";
  const shown = busy ? { tone: toneOf(state), text: saidOf(state, connector.name), why: null } : line;
  return (
    <li className={usable ? "panel card" : "panel card unavailable"}>
      <Logo name={connector.name} slug={connector.slug} />
      <div>
        <h3>
          <Link className="cover" href={paths.connector(connector.slug)} title={connector.name}>
            {connector.name}
          </Link>
        </h3>
        <p className={`card-line tone-${shown.tone}`} title={shown.text}>
          {shown.tone !== "off" && <span className="dot" />}
          <bdi>{shown.text}</bdi>
        </p>
        {shown.why && <p className="quiet small">{shown.why}</p>}
        {state.phase === "refused" && !form.isOpen && (
          <div className="quiet small" role="alert">
            <Why error={state.error} />
          </div>
        )}
      </div>
      <ParametersDialog form={form} name={connector.name} />
      {busy && (
        <>
          <button className="button compact" onClick={connect.reopen}>
            Open<span className="hidden"> {connector.name}’s window again</span>
          </button>
          <button className="button compact bare" onClick={connect.dismiss}>
            Cancel<span className="hidden"> {connector.name}</span>
          </button>
        </>
      )}
      {!busy && known && <NextStep connector={connector} connections={connections} subject={subject} start={form.start} />}
    </li>
  );
}

interface NextStepProps {
  connector: Connector;
  connections: Connection[];
  subject: Connection | undefined;
  start: () => void;
}

/** What helps most: to connect, to repair what does not work, or else to the connector's page. */
function NextStep({ connector, connections, subject, start }: NextStepProps) {
  const leads = (text: string) => (
    <Link className="button compact" href={paths.connector(connector.slug)}>
      {text}
      <span className="hidden"> {connector.name}</span>
    </Link>
  );
  if (subject?.status_reason === "account_mismatch") return leads("Choose");
  if (!subject && connections.length > 0) return leads("Manage");
  if (!isUsable(connector)) return leads("Why?");
  return (
    <button className="button compact" onClick={start}>
      {subject ? remedyOf(subject) : "Connect"}
      <span className="hidden"> {connector.name}</span>
    </button>
  );
}

function isUsable(connector: Connector): boolean {
  return connector.available && connector.configured !== false;
}

const WAYS: Record<string, string> = {
  OAUTH1: "Sign-in",
  OAUTH2: "Sign-in",
  API_KEY: "API key",
  BASIC: "Password",
};

interface Line {
  tone: Tone;
  text: string;
  why: string | null;
}

/** What a card says of a connector, and the connection that it is about, if one needs its user. */
function stateOf(connector: Connector, connections: Connection[]): { subject: Connection | undefined; line: Line } {
  const connected = connections.filter(({ status }) => status === "connected");
  const broken = connections.filter((one) => !isNew(one) && standingOf(one).tone !== "good");
  const [first] = connections;
  if (!first) {
    const text = !connector.available
      ? "Not available"
      : connector.configured === false
        ? "Not set up yet"
        : (WAYS[connector.auth_mode ?? ""] ?? "Credentials");
    return { subject: undefined, line: { tone: "off", text, why: null } };
  }
  // What never was connected is not worth a word beside an account that is.
  const subject = broken[0] ?? (connected.length === 0 ? first : undefined);
  if (!subject) {
    const text = connected.length > 1 ? `${connected.length} accounts` : nameOf(connected[0] ?? first);
    return { subject, line: { tone: "good", text, why: null } };
  }
  const { tone, word, why } = standingOf(subject);
  const others = connected.filter((one) => one !== subject).length;
  const text = others > 0 ? `${nameOf(subject)}: ${word}` : word;
  return { subject, line: { tone, text, why: others > 0 ? `${others} other ${others === 1 ? "account works" : "accounts work"}.` : why } };
}

function NothingFound({ search, onClear }: { search: string; onClear: () => void }) {
  return (
    <Empty
      title="Nothing found"
      action={
        <button className="button" onClick={onClear}>
          Show everything
        </button>
      }
    >
      {search ? `No connector’s name or category has “${search}” in it.` : "There is no connector here."}
    </Empty>
  );
}

function CardBones() {
  return (
    <div className="cards" role="status" aria-label="The catalog is loading">
      {Array.from({ length: 12 }, (_, index) => (
        <div key={index} className="panel card">
          <span className="bone" style={{ width: "2.5rem", height: "2.5rem" }} />
          <div>
            <span className="bone" style={{ width: "55%" }} />
            <span className="bone" style={{ width: "80%", marginTop: "0.5rem" }} />
          </div>
        </div>
      ))}
    </div>
  );
}
