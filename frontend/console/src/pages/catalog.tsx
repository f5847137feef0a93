import { useConnect, useConnections, type Category, type Connection, type Connector } from "@patchbay/react";
import { useDeferredValue, useMemo, useState } from "react";
import { useCatalog } from "../catalog.js";
import { Link, paths } from "../router.js";
import { useTitle } from "../ui/hooks.js";
import { Search } from "../ui/icons.js";
import { Empty, Mark, Trouble } from "../ui/parts.js";
import { flowWords, nameOf, standingOf, troubleText, type Tone } from "../words.js";
import { toneOf } from "./flow-notice.js";

const NOTHING: { connectors: Connector[]; categories: Category[] } = { connectors: [], categories: [] };

/** Everything that can be connected. */
export function CatalogPage() {
  useTitle("Catalog");
  const catalog = useCatalog();
  const { connectors, categories } = catalog.data ?? NOTHING;
  const { connections, isLoading, isUnknown, error, refetch } = useConnections();
  const unknown = isUnknown ? error : null;
  const [typed, setTyped] = useState("");
  const [category, setCategory] = useState<string | null>(null);
  const search = useDeferredValue(typed);
  const found = useMemo(() => matching(connectors, search, category), [connectors, search, category]);
  const bySlug = useMemo(() => Map.groupBy(live(connections), (one) => one.connector_slug), [connections]);

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
            onChange={(event) => setTyped(event.target.value)}
          />
        </div>
      </div>
      {catalog.error && !catalog.data && <Trouble what="The catalog cannot be shown" error={catalog.error} retry={() => void catalog.refetch()} />}
      {catalog.data && unknown && (
        <Trouble what="Your accounts cannot be shown" error={unknown} retry={() => void refetch()} />
      )}
      {(catalog.data || !catalog.error) && !unknown && (
        <div className="catalog">
          <Categories categories={categories} total={connectors.length} chosen={category} onChoose={setCategory} />
          <div>
            <p className="hidden" role="status">
              {found.length === 1 ? "1 connector" : `${found.length} connectors`}
            </p>
            {catalog.isPending && <CardBones />}
            {!catalog.isPending && found.length === 0 && <NothingFound search={search} onClear={() => (setTyped(""), setCategory(null))} />}
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
    </div>
  );
}

function byName([one]: [string, unknown], [other]: [string, unknown]): number {
  return one.localeCompare(other, "en");
}

function matching(connectors: Connector[], search: string, category: string | null): Connector[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return connectors.filter((one) => {
    const text = `${one.name} ${one.slug} ${one.category}`.toLowerCase();
    return (category === null || one.category === category) && words.every((word) => text.includes(word));
  });
}

/** What is connected, or meant to be. */
function live(connections: Connection[]): Connection[] {
  return connections.filter((connection) => connection.status !== "disconnected");
}

function Categories(props: {
  categories: Category[];
  total: number;
  chosen: string | null;
  onChoose: (category: string | null) => void;
}) {
  const { categories, total, chosen, onChoose } = props;
  return (
    <nav className="categories" aria-label="Categories">
      <ul>
        <li>
          <button aria-pressed={chosen === null} onClick={() => onChoose(null)}>
            All <span>{total || ""}</span>
          </button>
        </li>
        {categories.map(({ name, count }) => (
          <li key={name}>
            <button aria-pressed={chosen === name} onClick={() => onChoose(name)}>
              {name} <span>{count}</span>
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}

interface CardProps {
  connector: Connector;
  connections: Connection[];
  /** Whether these are all that there are: what may be connected already is not offered. */
  known: boolean;
}

function Card({ connector, connections, known }: CardProps) {
  const connect = useConnect({ connectorId: connector.slug, instanceId: "" });
  const { state } = connect;
  const usable = connector.available && connector.configured !== false;
  const busy = state.phase === "starting" || state.phase === "waiting";
  const told = busy || state.phase === "refused" ? flowWords(state) : null;
  const line = told ? { tone: toneOf(state), text: told.title } : lineOf(connector, connections);
  return (
    <li className={usable ? "panel card" : "panel card unavailable"}>
      <Mark name={connector.name} seed={connector.slug} />
      <div>
        <h3>
          <Link className="cover" href={paths.connector(connector.slug)} title={connector.name}>
            {connector.name}
          </Link>
        </h3>
        <p className={`card-line tone-${line.tone}`} title={line.text}>
          {line.tone !== "off" && <span className="dot" />}
          <bdi>{line.text}</bdi>
        </p>
        {state.phase === "refused" && (
          <p className="quiet small" role="alert">
            {troubleText(state.error)}
          </p>
        )}
      </div>
      {usable && known && connections.length === 0 && !busy && (
        <button className="button compact" onClick={connect.start}>
          Connect<span className="hidden"> {connector.name}</span>
        </button>
      )}
      {busy && (
        <button className="button compact" onClick={connect.reopen}>
          Open<span className="hidden"> {connector.name}’s window again</span>
        </button>
      )}
    </li>
  );
}

const WAYS: Record<string, string> = {
  OAUTH1: "Sign-in",
  OAUTH2: "Sign-in",
  API_KEY: "API key",
  BASIC: "Password",
};

function lineOf(connector: Connector, connections: Connection[]): { tone: Tone; text: string } {
  const [first, ...others] = connections;
  if (!first) {
    if (!connector.available) return { tone: "off", text: "Not available" };
    if (connector.configured === false) return { tone: "off", text: "Not set up yet" };
    return { tone: "off", text: WAYS[connector.auth_mode ?? ""] ?? "Credentials" };
  }
  const worst = connections.map(standingOf).find((standing) => standing.tone !== "good");
  if (others.length > 0) return { tone: worst?.tone ?? "good", text: `${connections.length} accounts` };
  return worst ? { tone: worst.tone, text: worst.word } : { tone: "good", text: nameOf(first) };
}

function NothingFound({ search, onClear }: { search: string; onClear: () => void }) {
  return (
    <Empty
      title="Nothing fits"
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
