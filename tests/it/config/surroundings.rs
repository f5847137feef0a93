//! Traces of files and tools around values.

use secrecy::ExposeSecret;

use super::read;

/// A secret with each character that has a meaning to some parser.
const SECRET: &str = "p@ss w0rd $HOME ${PATH} #1 `id` \\n 'x' \"y\" %d &&;|*~=:?! 0123456789";

fn problem(name: &str, value: &str) -> String {
    let mut problems = read(&[(name, Some(value))]).expect_err(value);
    assert_eq!(problems.len(), 1, "{name}={value}: {problems:?}");
    problems.remove(0)
}

#[test]
fn values_are_read_without_their_surroundings() {
    for around in [
        "{}",
        " {}\t",
        "{}\n",
        "{}\r\n",
        "\u{feff}{}",
        "\"{}\"",
        "'{}'",
        " \"{}\" \r\n",
        "`{}`",
        "\u{201c}{}\u{201d}",
        "\" {} \"",
        "{}\u{200b}",
    ] {
        let with = |value: &str| around.replace("{}", value);
        let settings = [
            ("PUBLIC_URL", with("https://a.example.com/x/")),
            ("AUTH_JWT_SECRET", with("0123456789abcdef0123456789abcdef")),
            (
                "NANGO_SECRET_KEY",
                with("11111111-2222-4333-8444-555555555555"),
            ),
            ("DATABASE_URL", with("postgres://u:p@db.example.com/d")),
            ("CONSOLE", with("true")),
            ("PORT", with("9000")),
            ("HOST", with("::1")),
            ("LOG_FORMAT", with("pretty")),
            ("RUST_LOG", with("debug,sqlx=warn")),
            ("AUTH_AUDIENCE", with("web, ios")),
            (
                "SERVICE_API_KEYS",
                with("workflows=pbk_0123456789abcdef0123456789abcdef"),
            ),
            ("WEBHOOK_ALLOWED_NETWORKS", with("10.0.0.0/8,fd00::/8")),
        ];
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, Some(value.as_str())))
            .collect();
        let config = read(&settings).unwrap_or_else(|problems| panic!("{around:?}: {problems:?}"));
        assert_eq!(config.http.public_url.as_str(), "https://a.example.com/x");
        assert_eq!(config.log_filter, "debug,sqlx=warn".parse().unwrap());
        assert_eq!(
            config.auth.hmac_secrets[0].expose_secret(),
            "0123456789abcdef0123456789abcdef"
        );
        assert_eq!(
            config.nango.unwrap().client.secret_key.expose_secret(),
            "11111111-2222-4333-8444-555555555555"
        );
        assert_eq!(
            config.database.url.expose_secret(),
            "postgres://u:p@db.example.com/d"
        );
        assert_eq!(config.http.listen.to_string(), "[::1]:9000");
        assert!(config.http.console.is_some());
        assert_eq!(config.auth.audiences, ["web", "ios"]);
        assert_eq!(config.service_keys[0].name(), "workflows");
    }
}

#[test]
fn items_of_lists_may_be_quoted_each() {
    let config = read(&[
        ("AUTH_AUDIENCE", Some("\"web\",\"ios\"")),
        (
            "AUTH_ISSUER",
            Some("'https://a.example.com', 'https://b.example.com'"),
        ),
        (
            "NANGO_WEBHOOK_SIGNING_KEY",
            Some("\"the old signing key\",\"the new signing key\""),
        ),
        (
            "AUTH_JWT_SECRET",
            Some("\"0123456789abcdef0123456789abcdef\",\"fedcba9876543210fedcba9876543210\""),
        ),
    ])
    .unwrap();
    assert_eq!(config.auth.audiences, ["web", "ios"]);
    assert_eq!(
        config.auth.issuers,
        ["https://a.example.com", "https://b.example.com"]
    );
    assert!(
        config
            .nango
            .unwrap()
            .signing_keys
            .contains("the new signing key")
    );
    let secrets = config.auth.hmac_secrets.iter();
    let secrets: Vec<_> = secrets.map(ExposeSecret::expose_secret).collect();
    assert_eq!(
        secrets[..2],
        [
            "0123456789abcdef0123456789abcdef",
            "fedcba9876543210fedcba9876543210"
        ]
    );
}

#[test]
fn secrets_are_read_literally() {
    // A comment is indistinguishable from a value that contains ` #`, except in a quoted `.env` value.
    let secret = SECRET.replace(" #", "#");
    let config = read(&[("AUTH_JWT_SECRET", Some(&secret))]).unwrap();
    assert_eq!(config.auth.hmac_secrets[0].expose_secret(), secret);
    // This may be one secret with a comma, or two secrets.
    let (one, other) = (
        "a secret that has more than 32 bytes",
        "another that has more than 32 bytes",
    );
    let both = format!("{one},{other}");
    let config = read(&[("AUTH_JWT_SECRET", Some(&both))]).unwrap();
    let secrets = config.auth.hmac_secrets.iter();
    let secrets: Vec<_> = secrets.map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, [one, other, both.as_str()]);
}

#[test]
fn quoted_values_of_env_files_are_literal() {
    use patchbay::environment::{EnvFile, Variable};

    let text = r#"
PUBLIC_URL="https://connect.example.com"
DATABASE_URL=postgres://u:p@db.example.com/d
NANGO_ENABLED=false
AUTH_JWT_SECRET='it is "quoted" # and has $HOME and a quote at its end"'
"#;
    let file = EnvFile::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let config = patchbay::config::Config::read(&|name| {
        file.get(name).map(|one| Variable::File {
            text: one.text.clone(),
            line: one.line,
            is_quoted: one.is_quoted,
        })
    })
    .unwrap();
    assert_eq!(
        config.auth.hmac_secrets[0].expose_secret(),
        r#"it is "quoted" # and has $HOME and a quote at its end""#
    );
}

#[test]
fn flags_are_read_as_the_fastapi_service_read_them() {
    for (texts, expected) in [
        (["true", "True", "TRUE", "1", "yes", "on", "y", "t"], true),
        (
            ["false", "False", "FALSE", "0", "no", "off", "N", "f"],
            false,
        ),
    ] {
        for text in texts {
            let config = read(&[("CONSOLE", Some(text)), ("NANGO_ENABLED", Some(text))]).unwrap();
            assert_eq!(config.http.console.is_some(), expected, "{text}");
            assert_eq!(config.nango.is_some(), expected, "{text}");
        }
    }
}

/// Values with traces of the file or the tool that they were copied from, and what is reported.
const TRACES: [(&str, &str); 22] = [
    (
        "\"hunter2hunter2hunter2hunter2hunter2",
        "a quote that has no counterpart",
    ),
    (
        "hunter2hunter2hunter2hunter2hunter2'",
        "a quote that has no counterpart",
    ),
    (
        "\"hunter2hunter2hunter2hunter2hunter2'",
        "a quote that has no counterpart",
    ),
    (
        "hunter2hunter2hunter2hunter2 # the key",
        "ends with a comment",
    ),
    (
        "hunter2hunter2hunter2hunter2\t#the key",
        "ends with a comment",
    ),
    ("# hunter2", "ends with a comment"),
    ("hunter2hunter2hunter2\nhunter2hunter2", "has a line break"),
    ("hunter2\rhunter2", "has a line break"),
    (
        "hunter2\u{1b}[2J",
        "has a line break or another control character",
    ),
    (
        "hunter2\u{200b}hunter2hunter2hunter2hunter2",
        "has an invisible character",
    ),
    ("hunter2\u{fffd}hunter2hunter2hunter2", "is not UTF-8 text"),
    (
        "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----",
        "holds a PEM key",
    ),
    (
        "-----BEGIN RSA PRIVATE KEY-----\\nhunter2\\n-----END",
        "holds a PEM key",
    ),
    (
        "eyJhbGciOiJIUzI1NiJ9.eyJodW50ZXIyIjoxfQ.aHVudGVyMmh1bnRlcjI",
        "holds a token (a JWT)",
    ),
    ("{\"kty\":\"oct\",\"k\":\"hunter2\"}", "holds JSON or YAML"),
    ("[\"hunter2\",\"x\"]", "holds JSON or YAML"),
    ("${HUNTER2}", "a placeholder"),
    ("$HUNTER2", "a placeholder"),
    ("$(HUNTER2)", "a placeholder"),
    ("{{ hunter2 }}", "a placeholder"),
    ("<hunter2>", "a placeholder"),
    ("%HUNTER2%", "a placeholder"),
];

#[test]
fn what_belongs_to_a_file_is_refused_in_any_value() {
    let names = patchbay::config::Config::variables();
    for (value, reported) in TRACES {
        for name in &names {
            let problem = problem(name, value);
            assert!(
                problem.starts_with(name) && problem.contains(reported),
                "{value:?}: {problem}"
            );
            assert!(!problem.to_lowercase().contains("hunter2"), "{problem}");
        }
    }
    for name in names {
        for form in [
            "=hunter2hunter2",
            " = hunter2",
            ": hunter2",
            "\": \"hunter2",
        ] {
            for before in ["", "export "] {
                let problem = problem(name, &format!("{before}{name}{form}"));
                assert!(problem.contains("begins with its own name"), "{problem}");
            }
        }
    }
}

#[test]
fn structure_and_placeholders_are_refused_in_plain_values() {
    for value in ["[web, ios]", "{web: true}", "- web"] {
        let problem = problem("AUTH_AUDIENCE", value);
        assert!(problem.contains("JSON or YAML"), "{problem}");
    }
    for value in [
        "https://${HOST}/",
        "https://<tenant>.example.com",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        "https://$(HOST)",
        "https://{{ host }}/",
    ] {
        for name in [
            "PUBLIC_URL",
            "AUTH_ISSUER",
            "AUTH_JWKS_URL",
            "CORS_ALLOWED_ORIGINS",
        ] {
            assert!(
                problem(name, value).contains("a placeholder"),
                "{name}={value}"
            );
        }
    }
}

#[test]
fn addresses_that_cannot_be_right_are_refused() {
    for name in [
        "PUBLIC_URL",
        "NANGO_BASE_URL",
        "NANGO_PUBLIC_URL",
        "AUTH_JWKS_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        for (value, reported) in [
            (
                "patchbay.up.railway.app",
                "must begin with https:// or http://",
            ),
            (
                "patchbay.up.railway.app:443",
                "must begin with https:// or http://",
            ),
            ("localhost:8000", "must begin with https:// or http://"),
            (
                "//connect.example.com",
                "must begin with https:// or http://",
            ),
            (
                "https:connect.example.com",
                "must begin with https:// or http://",
            ),
            (
                "https://https://connect.example.com",
                "has http:// or https:// twice",
            ),
            (
                "https://a.example.com,https://b.example.com",
                "must be one address",
            ),
            (
                "https://a.example.com https://b.example.com",
                "must be one address",
            ),
            ("https://a.example.com;", "must be one address"),
            ("https://*.example.com", "must be one address"),
            ("https://", "is not an address"),
            ("https://connect.example.com:port", "is not an address"),
        ] {
            let problem = problem(name, value);
            assert!(
                problem.starts_with(name) && problem.contains(reported),
                "{value}: {problem}"
            );
        }
    }
    let discovery = "https://id.example.com/.well-known/openid-configuration";
    assert!(problem("AUTH_JWKS_URL", discovery).contains("write the jwks_uri"));
    let jwks = "https://id.example.com/.well-known/jwks.json";
    assert!(problem("AUTH_JWT_SECRET", jwks).contains("set AUTH_JWKS_URL to it"));
}

#[test]
fn origins_that_no_browser_sends_are_refused() {
    for (value, reported) in [
        (
            "https://a.example.com;https://b.example.com",
            "separate several by commas",
        ),
        (
            "https://a.example.com https://b.example.com",
            "separate origins by commas",
        ),
        ("https://a.example.com/app", "write https://a.example.com"),
        ("https://a.example.com?x", "write https://a.example.com"),
        ("https://a.example.com/#x", "write https://a.example.com"),
        ("https://*.example.com", "without a *"),
        ("*", "without a *"),
        ("null", "has no scheme"),
        ("a.example.com", "has no scheme"),
        ("localhost:5173", "has no scheme"),
        ("wss://a.example.com", "is not an origin"),
        ("file:///index.html", "is not an origin"),
        (
            "https://ada:hunter2@a.example.com",
            "has an entry with an @",
        ),
    ] {
        let problem = problem("CORS_ALLOWED_ORIGINS", value);
        assert!(problem.contains(reported), "{value}: {problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    for name in ["AUTH_AUDIENCE", "AUTH_ISSUER"] {
        assert!(problem(name, "web;ios").contains("separate several by commas"));
    }
}
