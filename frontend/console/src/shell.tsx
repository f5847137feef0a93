import { useConnections, useSession } from "@patchbay/react";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { Announcer } from "./announcer.js";
import iconUrl from "./icon.svg";
import { CatalogPage } from "./pages/catalog.js";
import { ConnectionPage } from "./pages/connection.js";
import { ConnectionsPage } from "./pages/connections.js";
import { ConnectorPage } from "./pages/connector.js";
import { cameBack, Link, paths, routeOf, usePath, type Route } from "./router.js";
import { WAY_IN, type Asked } from "./pages/sign-in.js";
import { FaultsBanner } from "./sandbox/banner.js";
import { ControlsContext } from "./sandbox/controls.js";
import { SandboxPanel } from "./sandbox/panel.js";
import { remember, remembered, type Person } from "./session.js";
import { setTheme, useTheme } from "./theme.js";
import { troubleText } from "./words.js";
import { useFocusNearby } from "./ui/focus.js";
import { Down, Flask, Moon, Sun } from "./ui/icons.js";
import { Empty, Mark, Notice } from "./ui/parts.js";

interface ShellProps {
  person: Person;
  /** Others to be instead. */
  people?: Person[];
  onPerson?: (id: string) => void;
  onSignOut?: (() => void) | undefined;
  /** Has the product hand over a new token; where it cannot, the user signs out to sign in again. */
  onSignIn?: (() => Promise<void>) | undefined;
  /** Where the sandbox is controlled; in the sandbox only. */
  controls?: string;
}

/** What stands around every page. */
export function Shell({ person, people, onPerson, onSignOut, onSignIn, controls }: ShellProps) {
  const path = usePath();
  const route = routeOf(path);
  const main = useMainFocus(path);
  useFocusNearby(main);
  const [panel, setPanel] = usePanel();
  const open = controls !== undefined && panel;
  return (
    <ControlsContext value={controls ?? null}>
      <a className="button skip" href="#main">
        Skip to the page
      </a>
      <header className="bar">
        <div>
          <Link className="brand" href={paths.catalog}>
            <img src={iconUrl} alt="" />
            <span className="brand-name">Patchbay</span>
          </Link>
          <Tabs route={route} />
          <div className="aside-actions">
            {controls !== undefined && (
              <button className="button bare" aria-label="Sandbox controls" aria-expanded={open} onClick={() => setPanel(!open)}>
                <Flask />
                <span className="wide-only">Sandbox</span>
              </button>
            )}
            <ThemeButton />
            {people && onPerson && (
              <PersonPicker person={person} people={people} onPerson={onPerson} />
            )}
            {onSignOut && (
              <button className="button" onClick={onSignOut}>
                Sign out<span className="hidden"> {person.name}</span>
              </button>
            )}
          </div>
        </div>
      </header>
      {controls !== undefined && <FaultsBanner />}
      <div className={open ? "ground with-panel" : "ground"}>
        <main id="main" ref={main} tabIndex={-1}>
          <SessionNotice onSignOut={onSignOut} onSignIn={onSignIn} />
          <StaleNotice />
          <Page route={route} />
        </main>
        {open && <SandboxPanel onClose={() => setPanel(false)} />}
      </div>
      <Announcer />
    </ControlsContext>
  );
}

function Tabs({ route }: { route: Route }) {
  const { connections } = useConnections();
  const connected = connections.filter((connection) => connection.status === "connected").length;
  const inCatalog = route.page === "catalog" || route.page === "connector";
  const inConnections = route.page === "connections" || route.page === "connection";
  return (
    <nav className="tabs" aria-label="Pages">
      <Link href={paths.catalog} aria-current={inCatalog ? "page" : undefined}>
        Catalog
      </Link>
      <Link href={paths.connections} aria-current={inConnections ? "page" : undefined}>
        Connections
        {connected > 0 && (
          <span className="count">
            {connected}
            <span className="hidden"> connected</span>
          </span>
        )}
      </Link>
    </nav>
  );
}

function Page({ route }: { route: Route }) {
  switch (route.page) {
    case "catalog":
      return <CatalogPage />;
    case "connector":
      return <ConnectorPage key={route.slug} slug={route.slug} />;
    case "connections":
      return <ConnectionsPage />;
    case "connection":
      return <ConnectionPage key={route.id} id={route.id} />;
    case "unknown":
      return (
        <div className="page slim">
          <Empty
            title="There is no such page"
            isPage
            action={
              <Link className="button" href={paths.catalog}>
                To the catalog
              </Link>
            }
          />
        </div>
      );
  }
}

/** Says once that the token is refused, wherever the user is, and leads to a new one. */
function SessionNotice({ onSignOut, onSignIn }: Pick<ShellProps, "onSignOut" | "onSignIn">) {
  const { expired, retry } = useSession();
  const queries = useQueryClient();
  const [asked, setAsked] = useState<Asked | null>(null);
  if (!expired) return null;
  const again = async () => {
    if (onSignOut && !onSignIn) return onSignOut();
    setAsked("waiting");
    try {
      await onSignIn?.();
      setAsked(null);
      await retry();
      await queries.invalidateQueries();
    } catch {
      setAsked("unanswered");
    }
  };
  return (
    <div className="page" role="alert">
      <Notice
        tone="bad"
        title="Your session has ended"
        actions={
          <button className="button compact" aria-disabled={asked === "waiting"} onClick={() => void again()}>
            Sign in again
          </button>
        }
      >
        {asked ? WAY_IN[asked] : "This page may be out of date. Nothing is lost."}
      </Notice>
    </div>
  );
}

/** Says that what is shown may be out of date, while the connections cannot be fetched again. */
function StaleNotice() {
  const { error, isUnknown, isLoading, refetch } = useConnections();
  const { expired } = useSession();
  const stale = error && !isUnknown && !isLoading && !expired;
  return (
    <div role="status">
      {stale && (
        <div className="page above">
          <Notice
            tone="warn"
            title="This may be out of date"
            actions={
              <button className="button compact" onClick={() => void refetch()}>
                Try again
              </button>
            }
          >
            {troubleText(error)} Trying again.
          </Notice>
        </div>
      )}
    </div>
  );
}

function PersonPicker({ person, people, onPerson }: { person: Person; people: Person[]; onPerson: (id: string) => void }) {
  const known = people.some((one) => one.id === person.id);
  return (
    <div className="person">
      <Mark name={person.name} seed={person.id} size="small" />
      <select aria-label="You are" value={person.id} onChange={(event) => onPerson(event.target.value)}>
        {!known && <option value={person.id}>{person.name}</option>}
        {people.map((one) => (
          <option key={one.id} value={one.id}>
            {one.name}
          </option>
        ))}
      </select>
      <Down />
    </div>
  );
}

function ThemeButton() {
  const theme = useTheme();
  const dark = theme === "system" ? matchMedia("(prefers-color-scheme: dark)").matches : theme === "dark";
  const label = dark ? "Use light colours" : "Use dark colours";
  return (
    <button className="button bare icon" aria-label={label} title={label} onClick={() => setTheme(dark ? "light" : "dark")}>
      {dark ? <Sun /> : <Moon />}
    </button>
  );
}

/** Whether the sandbox's controls are shown, which the tab remembers. */
function usePanel(): [boolean, (open: boolean) => void] {
  const [panel, setPanel] = useState(() => remembered("panel") === "open");
  const change = (open: boolean) => {
    remember("panel", open ? "open" : null);
    setPanel(open);
  };
  return [panel, change];
}

/** A new page begins at its top, for screen readers and the keyboard, too. */
function useMainFocus(path: string) {
  const main = useRef<HTMLElement>(null);
  const before = useRef(path);
  useEffect(() => {
    if (before.current === path) return;
    before.current = path;
    // After Back, the browser scrolls to where the page was.
    if (!cameBack()) window.scrollTo(0, 0);
    main.current?.focus({ preventScroll: true });
  }, [path]);
  return main;
}
