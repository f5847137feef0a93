//! Invalid values of variables.

const SHORT_SIGNING_KEY: &str = "NANGO_WEBHOOK_SIGNING_KEY must have at least 16 characters, because a shorter key can be guessed: copy it from Nango's environment settings; a comma stands between two keys";

const INTERNAL_NANGO: &str = "NANGO_PUBLIC_URL is missing: the address at which browsers reach Nango; NANGO_BASE_URL is in a private network, and is not shown to browsers";

const WRONG_NAME: &str = "SERVICE_API_KEYS: an entry is not <name>=<key> or <name>=<key>;<scope> <scope>: a key's name has 1 to 64 letters, digits and characters of . _ : / @ + - (ASCII), and no pbk_ in it";

const WRONG_CHARACTERS: &str =
    "SERVICE_API_KEYS: the key of workflows must have only letters, digits, _ and - (ASCII)";

/// A variable, an invalid value, and the error message.
pub(super) const INVALID: &[(&str, &str, &str)] = &[
    (
        "HOST",
        "localhost",
        "HOST must be an IP address to listen on, without a port: 0.0.0.0 or :: for all, 127.0.0.1 for this machine only",
    ),
    (
        "PORT",
        "80000",
        "PORT is too large: write a smaller number, such as 8000",
    ),
    (
        "PUBLIC_URL",
        "connect.example.com",
        "PUBLIC_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    (
        "PUBLIC_URL",
        "ftp://connect.example.com",
        "PUBLIC_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    (
        "CORS_ALLOWED_ORIGINS",
        "https://a.example.com, nonsense",
        "CORS_ALLOWED_ORIGINS has the entry \"nonsense\", which has no scheme: write an origin such as https://app.example.com",
    ),
    (
        "CORS_ALLOWED_ORIGINS",
        "data:text",
        "CORS_ALLOWED_ORIGINS has the entry \"data:text\", which has no scheme: write an origin such as https://app.example.com",
    ),
    (
        "DATABASE_URL",
        "db.example.com/patchbay",
        "DATABASE_URL cannot be read: it has no scheme, such as postgres://; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_URL",
        "mysql://user:hunter2@db.example.com/patchbay",
        "DATABASE_URL cannot be read: its scheme is not that of PostgreSQL; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_URL",
        "postgres://user:hunter2@db.example.com/patchbay?sslmode=strict",
        "DATABASE_URL cannot be read: sslmode has to be one of disable, allow, prefer, require, verify-ca and verify-full: require encrypts, verify-full also proves the server's identity; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_POOL_SIZE",
        "0",
        "DATABASE_POOL_SIZE must be at least 1",
    ),
    (
        "DATABASE_POOL_SIZE",
        "-1",
        "DATABASE_POOL_SIZE is not a whole number: write digits only, without a unit, such as 10",
    ),
    (
        "DATABASE_STARTUP_TIMEOUT_SECONDS",
        "99999999999",
        "DATABASE_STARTUP_TIMEOUT_SECONDS is too large: write a smaller number, such as 60",
    ),
    (
        "NANGO_ENABLED",
        "perhaps",
        "NANGO_ENABLED must be true or false, without anything else",
    ),
    (
        "NANGO_BASE_URL",
        "file:///nango",
        "NANGO_BASE_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    (
        "NANGO_TIMEOUT_SECONDS",
        "0",
        "NANGO_TIMEOUT_SECONDS must be at least 1",
    ),
    (
        "NANGO_TIMEOUT_SECONDS",
        "15",
        "NANGO_TIMEOUT_SECONDS must be at most 14: a request may need four calls, and is given 60 seconds",
    ),
    (
        "NANGO_WEBHOOK_SIGNING_KEY",
        "change-me",
        "NANGO_WEBHOOK_SIGNING_KEY is still the value of the example file, which is public: replace it",
    ),
    ("NANGO_WEBHOOK_SIGNING_KEY", ",", SHORT_SIGNING_KEY),
    ("NANGO_WEBHOOK_SIGNING_KEY", "k", SHORT_SIGNING_KEY),
    (
        "NANGO_WEBHOOK_SIGNING_KEY",
        "a signing key of Nango's,k",
        SHORT_SIGNING_KEY,
    ),
    (
        "NANGO_SECRET_KEY",
        "00000000-0000-4000-8000-000000000000",
        "NANGO_SECRET_KEY is still the value of the example file, which is public: replace it",
    ),
    (
        "NANGO_SECRET_KEY",
        "change-me",
        "NANGO_SECRET_KEY is still the value of the example file, which is public: replace it",
    ),
    (
        "NANGO_SECRET_KEY",
        "Bearer 5b0c1f6e-3c47-4d0e-9a51-7f2f0f6f1c3d",
        "NANGO_SECRET_KEY has white space or another character that no key has: copy it again",
    ),
    (
        "AUTH_ISSUER",
        ",",
        "AUTH_ISSUER has no entry beside its commas: write one, or unset it",
    ),
    (
        "AUTH_AUDIENCE",
        ", ,",
        "AUTH_AUDIENCE has no entry beside its commas: write one, or unset it",
    ),
    (
        "CORS_ALLOWED_ORIGINS",
        ",",
        "CORS_ALLOWED_ORIGINS has no entry beside its commas: write one, or unset it",
    ),
    (
        "NANGO_PUBLIC_URL",
        "nango.example.com",
        "NANGO_PUBLIC_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    (
        "NANGO_PUBLIC_URL",
        "https://ada:hunter2@nango.example.com",
        "NANGO_PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "NANGO_WEBHOOK_BASE_URL",
        "patchbay:8000",
        "NANGO_WEBHOOK_BASE_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    ("NANGO_BASE_URL", "http://nango:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://10.0.0.7", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://[fd00::7]:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://127.0.0.1:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://nango.default.svc", INTERNAL_NANGO),
    (
        "NANGO_BASE_URL",
        "http://nango.railway.internal:3003",
        INTERNAL_NANGO,
    ),
    (
        "NANGO_BASE_URL",
        "https://ada:hunter2@nango.example.com",
        "NANGO_BASE_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://ada:hunter2@connect.example.com",
        "PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://ada@connect.example.com",
        "PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://connect.example.com/?token=hunter2",
        "PUBLIC_URL must not have a query or a fragment: paths are added to it",
    ),
    (
        "PUBLIC_URL",
        "https://connect.example.com/#a",
        "PUBLIC_URL must not have a query or a fragment: paths are added to it",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "https://ada:hunter2@collector.example.com",
        "OTEL_EXPORTER_OTLP_ENDPOINT must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "AUTH_JWT_SECRET",
        "change-me-to-at-least-32-random-bytes",
        "AUTH_JWT_SECRET is still the value of the example file, which is public: replace it",
    ),
    (
        "AUTH_JWT_SECRET",
        "a secret that has more than 32 bytes,change-me-to-at-least-32-random-bytes",
        "AUTH_JWT_SECRET is still the value of the example file, which is public: replace it",
    ),
    (
        "AUTH_JWT_SECRET",
        "too short",
        "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets",
    ),
    (
        "AUTH_JWT_SECRET",
        "a secret that has more than 32 bytes,and a comma",
        "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets",
    ),
    (
        "METRICS_TOKEN",
        "a token that cannot be guessed,",
        "METRICS_TOKEN must have at least 16 characters; a comma stands between two tokens",
    ),
    (
        "AUTH_JWKS_URL",
        "/keys",
        "AUTH_JWKS_URL must begin with https:// or http://, such as https://host.example.com",
    ),
    (
        "AUTH_JWKS_URL",
        "http://id.example.com/keys",
        "AUTH_JWKS_URL: it must be an https address without a user or password in it; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http",
    ),
    (
        "AUTH_JWKS_URL",
        "https://10.0.0.1/keys",
        "AUTH_JWKS_URL: 10.0.0.1 leads to 10.0.0.1, which is in no public network; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http",
    ),
    (
        "AUTH_JWKS_ALLOWED_NETWORKS",
        "private",
        "AUTH_JWKS_ALLOWED_NETWORKS must list networks such as 10.0.0.0/8, separated by commas, and \"private\" is not one",
    ),
    (
        "KEEP_ALIVE_SECONDS",
        "soon",
        "KEEP_ALIVE_SECONDS is not a whole number: write digits only, without a unit, such as 75",
    ),
    (
        "SWEEP_INTERVAL_SECONDS",
        "0",
        "SWEEP_INTERVAL_SECONDS must be at least 1",
    ),
    (
        "TOKEN_CACHE_TTL_SECONDS",
        "-1",
        "TOKEN_CACHE_TTL_SECONDS is not a whole number: write digits only, without a unit, such as 60",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_short",
        "SERVICE_API_KEYS: the key of workflows must begin with pbk_ and have at least 36 characters",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=sk_0123456789abcdef0123456789abcdef",
        "SERVICE_API_KEYS: the key of workflows must begin with pbk_ and have at least 36 characters",
    ),
    (
        "SERVICE_API_KEYS",
        "work\u{1b}[2Jflows=pbk_short",
        "SERVICE_API_KEYS has a line break or another control character in it: write it on one line, and lists with commas",
    ),
    (
        "SERVICE_API_KEYS",
        "work\u{202e}flows=pbk_short",
        "SERVICE_API_KEYS has an invisible character in it: type it again instead of pasting it",
    ),
    (
        "SERVICE_API_KEYS",
        "=pbk_hunter2hunter2hunter2hunter2hunter2",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "pbk_hunter2=pbk_0123456789abcdef0123456789abcdef",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=\"pbk_0123456789abcdef0123456789abcdef\"",
        "SERVICE_API_KEYS begins or ends with a quote that has no counterpart: write it without quotes",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdef0123456789abcdef\"",
        "SERVICE_API_KEYS begins or ends with a quote that has no counterpart: write it without quotes",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdef 0123456789abcdef",
        WRONG_CHARACTERS,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdéf0123456789abcdef",
        WRONG_CHARACTERS,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_hunter2hunter2hunter2hunter2hunter2",
        "SERVICE_API_KEYS: the key of workflows can be guessed: it has fewer than 8 different characters. Make one: pbk_ and the output of `openssl rand -hex 32`",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_sandbox_0123456789abcdef0123456789abcdef",
        "SERVICE_API_KEYS: the key of workflows is the one of `patchbay sandbox`, which the README shows: make your own with `patchbay keys create`",
    ),
    (
        "SERVICE_API_KEYS",
        "a=pbk_0123456789abcdef0123456789abcdef,b=pbk_0123456789abcdef0123456789abcdef;tokens:read",
        "SERVICE_API_KEYS: a and b have the same key: give each service its own",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows:pbk_hunter2hunter2hunter2hunter2hunter2=",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "pbk_hunter2hunter2hunter2hunter2hunter2",
        "SERVICE_API_KEYS: an entry is not <name>=<key> or <name>=<key>;<scope> <scope>",
    ),
    (
        "MAX_CLIENT_CONNECTIONS",
        "0",
        "MAX_CLIENT_CONNECTIONS must be at least 1",
    ),
    (
        "CLIENT_READ_TIMEOUT_SECONDS",
        "0",
        "CLIENT_READ_TIMEOUT_SECONDS must be at least 1",
    ),
    (
        "KEEP_ALIVE_SECONDS",
        "0",
        "KEEP_ALIVE_SECONDS must be at least 1",
    ),
    (
        "TRUSTED_PROXY_HOPS",
        "all",
        "TRUSTED_PROXY_HOPS is not a whole number: write digits only, without a unit, such as 0",
    ),
    (
        "RATE_LIMIT_USER_PER_MINUTE",
        "-1",
        "RATE_LIMIT_USER_PER_MINUTE is not a whole number: write digits only, without a unit, such as 1200",
    ),
    (
        "METRICS_TOKEN",
        "guess me",
        "METRICS_TOKEN must have at least 16 characters; a comma stands between two tokens",
    ),
    ("RETENTION_DAYS", "0", "RETENTION_DAYS must be at least 1"),
    (
        "CATALOG",
        "foo",
        "CATALOG must be listed, configured or all",
    ),
    (
        "CATALOG_FILE",
        "/nonexistent/connectors.toml",
        "CATALOG_FILE names /nonexistent/connectors.toml, which cannot be read: No such file or directory (os error 2). Correct the path, or unset the variable",
    ),
    ("LOG_FORMAT", "xml", "LOG_FORMAT must be json or pretty"),
    (
        "RUST_LOG",
        "verbose",
        "RUST_LOG hides all lines of the service: write levels such as debug or info,sqlx=warn, or off",
    ),
    (
        "RUST_LOG",
        "sqlx=debug=trace",
        "RUST_LOG is not a log filter (invalid filter directive: too many '=' in filter directive, expected 0 or 1): write levels such as debug or info,sqlx=warn",
    ),
    (
        "ENCRYPTION_KEY",
        "hunter2",
        "ENCRYPTION_KEY must be 32 bytes in base64 or hexadecimal digits, as `openssl rand -base64 32` prints them; a comma stands between two",
    ),
    (
        "ENCRYPTION_KEY",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,",
        "ENCRYPTION_KEY must be 32 bytes in base64 or hexadecimal digits, as `openssl rand -base64 32` prints them; a comma stands between two",
    ),
    (
        "ENCRYPTION_KEY",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "ENCRYPTION_KEY may hold 2 keys at the most: the first encrypts, both decrypt",
    ),
];
