import { useEffect, useId, useState, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { useConnectors } from "../react/useConnectors.js";
import type { Category, Connection, Connector } from "@patchbay/client";
import { Button } from "./Button.js";
import { ConnectButton } from "./ConnectButton.js";
import { ConnectionStatus } from "./ConnectionStatus.js";
import { ConnectorLogo } from "./ConnectorLogo.js";
import { ErrorNotice } from "./ErrorNotice.js";

/** Props of `ConnectorCatalog`. */
export interface ConnectorCatalogProps {
  /** How many connectors are fetched at once. */
  pageSize?: number | undefined;
  /** Called when an account is connected. */
  onConnected?: ((connection: Connection) => void) | undefined;
  /** What a card has below the connector's name, instead of its status and button. */
  children?: ((connector: Connector) => ReactNode) | undefined;
  className?: string | undefined;
}

/** How long the user may pause between two letters before the search begins, in milliseconds. */
const PAUSE = 200;

/** All connectors, with a search, categories, and how each stands. */
export function ConnectorCatalog({ pageSize, onConnected, children, className }: ConnectorCatalogProps): ReactNode {
  const messages = useMessages();
  const [search, setSearch] = useState("");
  const [category, setCategory] = useState("");
  const asked = useSettled(search.trim(), PAUSE);
  const catalog = useConnectors({ search: asked, category: category || undefined, pageSize });
  const { connectors, categories, totalCount, isLoading, error } = catalog;
  return (
    <section data-patchbay="catalog" aria-label={messages.catalog} className={className}>
      <Filters
        search={search}
        onSearch={setSearch}
        category={category}
        onCategory={setCategory}
        categories={categories}
      />
      <p data-patchbay="count" role="status">
        {isLoading ? messages.loading : error ? "" : totalCount === 0 ? messages.noConnectors : messages.found(totalCount)}
      </p>
      {error && <ErrorNotice error={error} onRetry={() => void catalog.refetch()} />}
      <ul data-patchbay="cards" aria-busy={isLoading || catalog.isStale || undefined}>
        {connectors.map((connector) => (
          <Card key={connector.id} connector={connector}>
            {children ? children(connector) : <Offer connector={connector} onConnected={onConnected} />}
          </Card>
        ))}
      </ul>
      {catalog.hasMore && (
        <Button off={catalog.isLoadingMore} onClick={() => void catalog.loadMore()}>
          {messages.loadMore}
        </Button>
      )}
    </section>
  );
}

interface FiltersProps {
  search: string;
  onSearch: (search: string) => void;
  category: string;
  onCategory: (category: string) => void;
  categories: Category[];
}

function Filters({ search, onSearch, category, onCategory, categories }: FiltersProps): ReactNode {
  const messages = useMessages();
  const id = useId();
  return (
    <div data-patchbay="filters" role="search">
      <label htmlFor={`${id}-search`}>{messages.search}</label>
      <input
        id={`${id}-search`}
        type="search"
        data-patchbay="input"
        value={search}
        onChange={(event) => onSearch(event.target.value)}
      />
      <label htmlFor={`${id}-category`}>{messages.category}</label>
      <select
        id={`${id}-category`}
        data-patchbay="input"
        value={category}
        onChange={(event) => onCategory(event.target.value)}
      >
        <option value="">{messages.allCategories}</option>
        {categories.map(({ name, count }) => (
          <option key={name} value={name}>
            {name} ({count})
          </option>
        ))}
      </select>
    </div>
  );
}

function Card({ connector, children }: { connector: Connector; children: ReactNode }): ReactNode {
  const id = useId();
  return (
    <li data-patchbay="card" aria-labelledby={id}>
      <ConnectorLogo connector={connector} />
      <div data-patchbay="card-title">
        <strong id={id}>{connector.name}</strong>
        <span>{connector.category}</span>
      </div>
      {children}
    </li>
  );
}

function Offer({ connector, onConnected }: Pick<ConnectorCatalogProps, "onConnected"> & { connector: Connector }): ReactNode {
  const messages = useMessages();
  if (!connector.available || connector.configured === false) {
    const why = connector.available ? messages.notConfigured : (connector.unavailable_reason ?? messages.unavailable);
    return <p data-patchbay="unavailable">{why}</p>;
  }
  return (
    <>
      <ConnectionStatus connectorId={connector.id} instanceId="" />
      <ConnectButton
        connectorId={connector.slug}
        connectorName={connector.name}
        parameters={connector.parameters}
        onConnected={onConnected}
      />
    </>
  );
}

/** A value once it has stopped changing. */
function useSettled<T>(value: T, milliseconds: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}
