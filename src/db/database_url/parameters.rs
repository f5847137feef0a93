//! The parameters after the `?` of a `DATABASE_URL`.

use super::{DEFAULT_PORT, decode};

/// Parameters of other clients or libpq that are ignored: they change neither security nor which rows are visible.
const HARMLESS: &[&str] = &[
    "application_name",
    "async_fallback",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_pool_size",
    "pool",
    "pool_size",
    "pool_timeout",
    "poolmode",
    "prepared_statement_cache_size",
    "prepared_statements",
    "preparethreshold",
    "serverversion",
    "single_use_connections",
    "socket_timeout",
    "sslcompression",
    "sslsni",
    "statement-cache-capacity",
    "statement_cache_size",
    "supa",
    "tcp_user_timeout",
    "workaround",
];

/// The parsed parameters.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// The parameters that sqlx supports, decoded, under sqlx's names.
    pub(super) connection: Vec<(&'static str, String)>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) declares_pooler: bool,
    pub(super) ignored: Vec<String>,
    hosts: Option<String>,
    ports: Option<String>,
}

impl Parameters {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parameters = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.add(&decode(name)?, value)?;
        }
        parameters.check_tls()?;
        Ok(parameters)
    }

    /// Sets a parameter that is not set yet, from an encoded part of the URL before the `?`.
    pub(super) fn fallback(&mut self, name: &'static str, encoded: &str) -> Result<(), String> {
        if self.get(name).is_none() {
            self.connection.push((name, decode(encoded)?));
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.connection.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| &**value)
    }

    fn set(&mut self, name: &'static str, value: String) {
        self.connection.retain(|(known, _)| *known != name);
        self.connection.push((name, value));
    }

    fn add(&mut self, name: &str, encoded: &str) -> Result<(), String> {
        let value = decode(encoded)?;
        let lower = value.to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "user" => self.set("user", value),
            "password" => self.set("password", value),
            "dbname" | "database" => self.set("dbname", value),
            "host" | "hostaddr" => self.add_hosts(name, value)?,
            "port" => self.ports = Some(value),
            "sslmode" | "ssl-mode" | "ssl" => {
                self.set("sslmode", ssl_mode(name, &lower)?.to_owned());
            }
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => self.set("sslrootcert", value),
            "sslcert" | "ssl-cert" => self.set("sslcert", value),
            "sslkey" | "ssl-key" => self.set("sslkey", value),
            "target_session_attrs" | "targetservertype" => match lower.as_str() {
                "any" | "read-write" | "primary" => {}
                _ => {
                    return Err(format!(
                        "{name} has to be read-write: Patchbay writes to its database"
                    ));
                }
            },
            "channel_binding"
            | "gssencmode"
            | "ssl_min_protocol_version"
            | "sslnegotiation"
            | "sslaccept"
            | "client_encoding" => fixed(name, &lower)?,
            "schema" | "currentschema" | "search_path" => {
                let path = if lower.contains([',', '"', '$']) {
                    value
                } else {
                    format!("\"{value}\"")
                };
                self.settings.push(("search_path".to_owned(), path));
            }
            "options" => self
                .settings
                .extend(parse_options(&value.replace('+', " "))?),
            "pgbouncer" => self.declares_pooler = lower == "true",
            known if HARMLESS.contains(&known) => {}
            other => match other
                .strip_prefix("options[")
                .and_then(|rest| rest.strip_suffix(']'))
            {
                Some(setting) => self.settings.push((setting.to_owned(), value)),
                None if is_security(other) => {
                    return Err(format!("its parameter {name} is not supported: remove it"));
                }
                None => self.ignored.push(name.to_owned()),
            },
        }
        Ok(())
    }

    fn add_hosts(&mut self, name: &str, value: String) -> Result<(), String> {
        if self.hosts.replace(value).is_some() {
            return Err(format!(
                "{name}: host or hostaddr is given twice: give one of them"
            ));
        }
        Ok(())
    }

    /// Follows libpq: `sslrootcert=system` needs and implies `verify-full`, and `require` with a certificate file
    /// verifies against that file.
    fn check_tls(&mut self) -> Result<(), String> {
        let mode = self.get("sslmode").map(str::to_owned);
        match self.get("sslrootcert") {
            Some("system") => {
                if mode.is_some_and(|mode| mode != "verify-full") {
                    return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
                }
                self.connection.retain(|(name, _)| *name != "sslrootcert");
                self.set("sslmode", "verify-full".to_owned());
            }
            Some(_) if mode.as_deref() == Some("require") => {
                self.set("sslmode", "verify-ca".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn trusts_system(&self) -> bool {
        let is_verified = self
            .get("sslmode")
            .is_some_and(|mode| mode.starts_with("verify"));
        is_verified && self.get("sslrootcert").is_none()
    }

    /// Returns the hosts with their ports, decoded. The parameters `host` and `port` override those before the `?`.
    pub(super) fn hosts(&self, before: &str) -> Result<Vec<(String, String)>, String> {
        let mut hosts = Vec::new();
        for one in before.split(',') {
            let (host, port) = match one.rsplit_once(':') {
                Some((host, port)) if !one.ends_with(']') => (host, port),
                _ => (one, ""),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            hosts.push((decode(host)?, port.to_owned()));
        }
        if let Some(named) = &self.hosts {
            let own_port = std::mem::take(&mut hosts[0].1);
            let each = named
                .split(',')
                .map(|host| host.trim().trim_matches(['[', ']']).to_owned());
            hosts = each.map(|host| (host, own_port.clone())).collect();
        }
        if let Some(ports) = &self.ports {
            let ports: Vec<&str> = ports.split(',').map(str::trim).collect();
            if ports.len() != 1 && ports.len() != hosts.len() {
                return Err("it has to name one port, or as many ports as hosts".to_owned());
            }
            for (number, (_, port)) in hosts.iter_mut().enumerate() {
                *port = (*ports.get(number).unwrap_or(&ports[0])).to_owned();
            }
        }
        for (host, port) in &mut hosts {
            if port.is_empty() && !host.is_empty() {
                *port = DEFAULT_PORT.to_string();
            }
            if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
                return Err("a port is not a number from 1 to 65535".to_owned());
            }
        }
        Ok(hosts)
    }
}

/// Returns the `sslmode` of a value. `allow` becomes `prefer`, which encrypts more often.
fn ssl_mode(name: &str, value: &str) -> Result<&'static str, String> {
    Ok(match value {
        "disable" | "false" | "0" | "off" | "no" if name != "sslmode" || value == "disable" => {
            "disable"
        }
        "allow" | "prefer" => "prefer",
        "require" => "require",
        "verify-ca" => "verify-ca",
        "verify-full" => "verify-full",
        _ => {
            return Err(format!(
                "{name} has to be one of disable, allow, prefer, require, verify-ca and verify-full: \
                 require encrypts, verify-full also proves the server's identity"
            ));
        }
    })
}

/// Accepts a parameter only with a value that matches the program's fixed behaviour.
fn fixed(name: &str, value: &str) -> Result<(), String> {
    let (accepted, remedy): (&[&str], &str) = match name.to_ascii_lowercase().as_str() {
        "channel_binding" => (
            &["prefer", "disable"],
            "remove it, and set sslmode=verify-full, which proves the server's identity too",
        ),
        "gssencmode" => (&["prefer", "disable"], "remove it, and set sslmode"),
        "ssl_min_protocol_version" => (
            &["tlsv1", "tlsv1.1", "tlsv1.2"],
            "remove it: TLS 1.2 is the oldest version that is used",
        ),
        "sslnegotiation" => (&["postgres"], "remove it"),
        "sslaccept" => (
            &["accept_invalid_certs"],
            "remove it, and set sslmode=verify-full",
        ),
        _ => (
            &["auto", "utf8", "utf-8", "unicode"],
            "remove it: UTF8 is always used",
        ),
    };
    only(value, accepted, name, remedy)
}

/// Rejects a value of a parameter unless it is one of `known`, which need no action.
fn only(value: &str, known: &[&str], name: &str, remedy: &str) -> Result<(), String> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(format!(
        "this value of its parameter {name} is not supported: {remedy}"
    ))
}

/// Returns whether an unknown parameter may affect trust or encryption.
fn is_security(name: &str) -> bool {
    [
        "ssl", "tls", "gss", "krb", "require", "auth", "passfile", "service", "oauth", "role",
        "schema",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// Parses the settings of `options`: `-c name=value` and `--name=value`, in which a backslash escapes a space.
fn parse_options(text: &str) -> Result<Vec<(String, String)>, String> {
    let refused = || "options has to consist of -c name=value or --name=value".to_owned();
    let mut words = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ' ' if !escaped => words.push(String::new()),
            _ => words.last_mut().ok_or_else(refused)?.push(character),
        }
        escaped = false;
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (
            word.as_str(),
            word.strip_prefix("--"),
            word.strip_prefix("-c"),
        ) {
            ("-c", ..) => words.next().ok_or_else(refused)?,
            (_, Some(setting), _) | (_, None, Some(setting)) => setting.to_owned(),
            _ => return Err(refused()),
        };
        let (name, value) = setting.split_once('=').ok_or_else(refused)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(refused());
        }
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::DatabaseUrl;

    fn parse(query: &str) -> Result<DatabaseUrl, String> {
        format!("postgres://ada:s3cret@db/app?{query}").parse()
    }

    #[test]
    fn tls_modes_are_read_as_libpq_reads_them() {
        for (query, mode) in [
            ("", "Prefer"),
            ("sslmode=allow", "Prefer"),
            ("ssl=require", "Require"),
            ("sslmode=REQUIRE", "Require"),
            ("ssl=false", "Disable"),
            ("sslmode=require&sslrootcert=/ca.crt", "VerifyCa"),
            ("sslrootcert=system", "VerifyFull"),
            ("sslmode=verify-full&sslrootcert=system", "VerifyFull"),
        ] {
            let url = parse(query).unwrap();
            assert_eq!(
                format!("{:?}", url.servers[0].get_ssl_mode()),
                mode,
                "{query}"
            );
        }
    }

    #[test]
    fn unsupported_security_parameters_are_refused_by_name() {
        for (query, name) in [
            ("sslmode=strict", "sslmode"),
            ("sslmode=true", "sslmode"),
            ("ssl=true", "ssl"),
            ("sslmode=require&sslrootcert=system", "sslrootcert"),
            ("channel_binding=require", "channel_binding"),
            ("gssencmode=require", "gssencmode"),
            (
                "ssl_min_protocol_version=TLSv1.3",
                "ssl_min_protocol_version",
            ),
            ("sslcrl=/hidden", "sslcrl"),
            ("sslpassword=hidden", "sslpassword"),
            ("require_auth=scram-sha-256", "require_auth"),
            ("requirepeer=hidden", "requirepeer"),
            ("passfile=/hidden", "passfile"),
            ("service=hidden", "service"),
            ("sslidentity=/hidden", "sslidentity"),
            ("target_session_attrs=standby", "target_session_attrs"),
            ("client_encoding=latin1", "client_encoding"),
            ("options=hidden", "options"),
        ] {
            let error = parse(query).err().expect(query);
            assert!(error.contains(name), "{query}: {error}");
            for secret in ["hidden", "s3cret", "strict", "latin1"] {
                assert!(!error.contains(secret), "{query}: {error}");
            }
        }
    }

    #[test]
    fn schema_and_options_become_session_settings() {
        for (query, settings) in [
            ("schema=app", &[("search_path", "\"app\"")][..]),
            ("currentSchema=app,public", &[("search_path", "app,public")]),
            (
                "options=-c%20search_path%3Dapp%20--statement-timeout%3D5s",
                &[("search_path", "app"), ("statement_timeout", "5s")],
            ),
            ("options=-csearch_path=a%5C%20b", &[("search_path", "a b")]),
            ("options[role]=app", &[("role", "app")]),
        ] {
            let found = parse(query).unwrap().settings;
            let found: Vec<_> = found
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            assert_eq!(found, settings, "{query}");
        }
    }

    #[test]
    fn parameters_of_other_clients_have_no_effect() {
        let url = parse("connect_timeout=10&pgbouncer=true&connection_limit=1&application_name=x&prepareThreshold=0").unwrap();
        assert!(url.declares_pooler && url.ignored.is_empty());
        assert_eq!(parse("frobnicate=hidden").unwrap().ignored, ["frobnicate"]);
    }
}
