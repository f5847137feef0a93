//! Reads `DATABASE_URL` as libpq, SQLAlchemy, Prisma and hosting providers write it.
//!
//! Passwords may contain unencoded `@`, `/`, `#`, `?` and `%`. No message contains a value, because any part may be a
//! secret.

mod parameters;

use std::str::FromStr;
use std::sync::LazyLock;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::Regex;
use sqlx::postgres::PgConnectOptions;

use parameters::Parameters;

/// The default port.
const DEFAULT_PORT: u16 = 5432;

/// Everything after the `@` that ends the credentials: hosts, the database's name, parameters. Neither hosts nor the
/// name contain an `@`, so an `@` in a password is not mistaken for that one.
static LOCATION: LazyLock<Regex> = LazyLock::new(|| {
    const HOST: &str = r"(?:\[[0-9A-Fa-f:.%]+\]|[\w.%-]*)(?::\d+)?";
    let pattern = format!(
        r"^(?<hosts>{HOST}(?:,{HOST})*)(?:/(?<database>[^/?#@]*))?(?:\?(?<parameters>(?:[\w.\[\]-]+=[^&#]*(?:&|$))*))?$"
    );
    Regex::new(&pattern).expect("the pattern is a constant")
});

/// The servers of a `DATABASE_URL`, and the settings of connections to them.
#[derive(Clone)]
pub(crate) struct DatabaseUrl {
    /// One or more servers, one of which accepts writes.
    pub(crate) servers: Vec<PgConnectOptions>,
    /// The settings of each session, by name: those of `options`, and `search_path` for `schema`.
    pub(crate) settings: Vec<(String, String)>,
    /// `true` if the server's certificate is verified and no file names the authorities.
    pub(crate) trusts_system: bool,
    /// `true` if `pgbouncer=true` declares a transaction-mode pooler.
    pub(crate) declares_pooler: bool,
    /// The names of parameters that have no effect.
    pub(crate) ignored: Vec<String>,
}

impl FromStr for DatabaseUrl {
    /// An error message without any value of the URL.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = after_scheme(text)?;
        let (credentials, location) = split_credentials(rest)?;
        let part = |name| location.name(name).map_or("", |part| part.as_str());
        let mut parameters = Parameters::parse(part("parameters"))?;
        if let Some((user, password)) = credentials {
            parameters.fallback("user", user)?;
            if let Some(password) = password {
                parameters.fallback("password", password)?;
            }
        }
        let database = part("database");
        if !database.is_empty() {
            parameters.fallback("dbname", database)?;
        }
        let hosts = parameters.hosts(part("hosts"))?;
        let servers = hosts.iter().map(|(host, port)| {
            let mut canonical = String::from("postgres:///?");
            let own = [("host", host.as_str()), ("port", port.as_str())];
            let shared = (parameters.connection.iter()).map(|(name, value)| (*name, &**value));
            for (name, value) in own
                .into_iter()
                .filter(|(_, it)| !it.is_empty())
                .chain(shared)
            {
                canonical.push_str(name);
                canonical.push('=');
                canonical.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
                canonical.push('&');
            }
            canonical.parse().map_err(|_error: sqlx::Error| {
                "a part of it is not UTF-8, or a port is not a number".to_owned()
            })
        });
        Ok(Self {
            servers: servers.collect::<Result<_, String>>()?,
            trusts_system: parameters.trusts_system(),
            settings: parameters.settings,
            declares_pooler: parameters.declares_pooler,
            ignored: parameters.ignored,
        })
    }
}

/// Returns the text after `postgres://`, `postgresql://`, or such a scheme with a driver's name, as in
/// `postgresql+asyncpg://`.
fn after_scheme(text: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = text.trim().split_once("://") else {
        return Err("it has no scheme, such as postgres://".to_owned());
    };
    let scheme = scheme.to_ascii_lowercase();
    let (base, driver) = scheme.split_once('+').unwrap_or((&scheme, "driver"));
    let is_driver = !driver.is_empty()
        && driver
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'_');
    if !matches!(base, "postgres" | "postgresql") || !is_driver {
        return Err("its scheme is not that of PostgreSQL".to_owned());
    }
    Ok(rest)
}

type Credentials<'a> = Option<(&'a str, Option<&'a str>)>;

/// Splits the credentials from the rest at the first `@` that a location follows.
fn split_credentials(rest: &str) -> Result<(Credentials<'_>, regex::Captures<'_>), String> {
    for (at, _) in rest.match_indices('@') {
        if let Some(location) = LOCATION.captures(&rest[at + 1..]) {
            let credentials = &rest[..at];
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            return Ok((Some((user, password)), location));
        }
    }
    match LOCATION.captures(rest) {
        Some(location) => Ok((None, location)),
        None => Err("its host, port, database name or parameters are not valid. \
             Percent-encode special characters of the user name and the password (@ is %40, / is %2F)"
            .to_owned()),
    }
}

/// Decodes percent-encoding. A `%` that is not followed by two hexadecimal digits stays unchanged.
fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_invalid| "a percent-encoded part of it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DatabaseUrl {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Returns the host, port, user, database and socket of the first server.
    fn parts(text: &str) -> (String, u16, String, String, String) {
        let options = &parse(text).servers[0];
        (
            options.get_host().to_owned(),
            options.get_port(),
            options.get_username().to_owned(),
            options.get_database().unwrap_or_default().to_owned(),
            options
                .get_socket()
                .map(|it| it.display().to_string())
                .unwrap_or_default(),
        )
    }

    /// sqlx has no getter for it.
    fn password(text: &str) -> String {
        let shown = format!("{:?}", parse(text).servers[0]);
        let (_, rest) = shown.split_once("password: Some(\"").expect(&shown);
        rest.split_once("\"), database").expect(&shown).0.to_owned()
    }

    #[test]
    fn drivers_of_other_languages_are_accepted() {
        for scheme in [
            "postgres",
            "postgresql",
            "PostgreSQL",
            "postgresql+asyncpg",
            "postgresql+psycopg2",
            "postgresql+psycopg",
            "postgres+pg8000",
        ] {
            let (host, port, user, database, _) =
                parts(&format!("{scheme}://ada:secret@db.example.com:6543/app"));
            assert_eq!(
                (&*host, port, &*user, &*database),
                ("db.example.com", 6543, "ada", "app")
            );
        }
        for text in [
            "db.example.com/app",
            "mysql://ada@db/app",
            "postgresql+://ada@db/app",
            "jdbc:postgresql://db/app",
        ] {
            assert!(text.parse::<DatabaseUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn special_characters_of_passwords_are_read_literally() {
        for raw in [
            "p@ss",
            "p/ss",
            "p#ss",
            "p?ss",
            "p%ss",
            "p:ss",
            "a@b/c#d?e",
            "p@db.example.com/x?y",
            "100%",
            "p?ss=1&x",
            "[x]",
            "é",
        ] {
            for rest in [
                "@db.example.com/app",
                "@db.example.com:5432/app?sslmode=disable",
                "@[::1]:5433/app",
            ] {
                assert_eq!(
                    password(&format!("postgres://ada:{raw}{rest}")),
                    raw,
                    "{rest}"
                );
            }
        }
        assert_eq!(password("postgres://ada:p%40ss@db/app"), "p@ss");
        assert_eq!(
            password("postgres://db/app?user=ada&password=p%26ss"),
            "p&ss"
        );
    }

    #[test]
    fn hosts_are_names_addresses_and_socket_folders() {
        assert_eq!(parts("postgres://u:p@[::1]:5433/d").0, "::1");
        assert_eq!(parts("postgres://u:p@[::1]:5433/d").1, 5433);
        assert_eq!(parts("postgres://u:p@127.0.0.1/d").1, DEFAULT_PORT);
        let cloud = "postgres://u:p@/d?host=/cloudsql/project:region:instance";
        assert_eq!(parts(cloud).4, "/cloudsql/project:region:instance");
        assert_eq!(parts("postgres://u@%2Fvar%2Frun/d").4, "/var/run");
        assert_eq!(
            parts("postgres://u@localhost/d?host=%2Fvar%2Frun&port=5433").4,
            "/var/run"
        );
        let several =
            parse("postgres://u:p@one:5433,two,[::1]:5434/d?target_session_attrs=read-write");
        let hosts: Vec<_> = several
            .servers
            .iter()
            .map(|it| (it.get_host(), it.get_port()))
            .collect();
        assert_eq!(hosts, [("one", 5433), ("two", DEFAULT_PORT), ("::1", 5434)]);
        let named = parse("postgres:///d?user=u&host=one,two&port=5433");
        let hosts: Vec<_> = named
            .servers
            .iter()
            .map(|it| (it.get_host(), it.get_port()))
            .collect();
        assert_eq!(hosts, [("one", 5433), ("two", 5433)]);
        assert!(
            "postgres:///d?host=one,two,three&port=1,2"
                .parse::<DatabaseUrl>()
                .is_err()
        );
        assert!("postgres://u@one:99999/d".parse::<DatabaseUrl>().is_err());
    }
}
