//! Compares a response with a recording, except for values that change between runs.

use std::fmt::Display;

use chrono::DateTime;
use reqwest::header::HeaderMap;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

/// The values in this run that replace the recorded ids, tokens and addresses.
#[derive(Default)]
pub(super) struct Substitutions(Vec<(String, String)>);

impl Substitutions {
    /// Replaces `recorded` by `actual` from now on. A later replacement takes precedence.
    pub(super) fn learn(&mut self, recorded: &str, actual: &str) {
        self.0.retain(|(known, _)| known != recorded);
        self.0.push((recorded.to_owned(), actual.to_owned()));
    }

    /// Returns the recorded text with all replacements.
    pub(super) fn apply(&self, recorded: &str) -> String {
        let replace = |text: String, (from, to): &(String, String)| text.replace(from, to);
        self.0.iter().fold(recorded.to_owned(), replace)
    }
}

/// Collects the differences of one exchange.
pub(super) struct Comparison<'a> {
    pub(super) substitutions: &'a mut Substitutions,
    pub(super) differences: Vec<String>,
}

/// Headers whose presence is part of the contract; `true` if their values are, too.
const HEADERS: [(&str, bool); 11] = [
    ("access-control-allow-headers", true),
    ("access-control-allow-methods", true),
    ("access-control-allow-origin", true),
    ("access-control-expose-headers", true),
    ("access-control-max-age", true),
    ("content-security-policy", true),
    ("content-type", true),
    ("retry-after", false),
    ("x-frame-options", true),
    ("x-ratelimit-limit", false),
    ("x-ratelimit-reset", false),
];

impl Comparison<'_> {
    fn differ(&mut self, at: &str, recorded: &dyn Display, actual: &dyn Display) {
        self.differences
            .push(format!("{at}: recorded {recorded}, answered {actual}"));
    }

    pub(super) fn equal(&mut self, at: &str, recorded: &str, actual: &str) {
        if recorded != actual {
            self.differ(at, &recorded, &actual);
        }
    }

    pub(super) fn status(&mut self, recorded: &Value, actual: u16) {
        if recorded.as_u64() != Some(actual.into()) {
            self.differ("status", recorded, &actual);
        }
    }

    pub(super) fn headers(&mut self, recorded: &Value, actual: &HeaderMap) {
        for (name, exact) in HEADERS {
            let was = recorded[name].as_str();
            let is = actual.get(name).map(|value| value.to_str().unwrap());
            if was.is_some() != is.is_some() || (exact && was != is) {
                self.differ(name, &was.unwrap_or("absent"), &is.unwrap_or("absent"));
            }
        }
        if let Some(was) = recorded["set-cookie"].as_str() {
            self.cookie(was, actual["set-cookie"].to_str().unwrap());
        }
        if let Some(was) = recorded["location"].as_str() {
            self.location(was, actual["location"].to_str().unwrap());
        }
    }

    fn cookie(&mut self, recorded: &str, actual: &str) {
        let attributes = |cookie: &str| -> Vec<String> {
            let parts = cookie
                .split("; ")
                .filter(|part| !part.starts_with("Expires="));
            parts.map(str::to_owned).collect()
        };
        let (was, is) = (attributes(recorded), attributes(actual));
        let state = |cookie: &str| {
            let name = cookie.strip_prefix("oauth2-").unwrap();
            name.strip_suffix("=1").unwrap().to_owned()
        };
        self.text("set-cookie", &state(&was[0]), &state(&is[0]));
        if was[1..] != is[1..] || !actual.contains("Expires=") {
            self.differ("set-cookie", &recorded, &actual);
        }
    }

    fn location(&mut self, recorded: &str, actual: &str) {
        let (was, is) = (
            self.substitutions.apply(recorded),
            Url::parse(actual).unwrap(),
        );
        let was = Url::parse(&was).unwrap();
        self.equal("location", &address(&was), &address(&is));
        let names = |url: &Url| {
            url.query_pairs()
                .map(|(name, _)| name.into_owned())
                .collect()
        };
        let (named, given): (Vec<String>, Vec<String>) = (names(&was), names(&is));
        self.equal("location's parameters", &named.join(" "), &given.join(" "));
        for ((name, was), (_, is)) in was.query_pairs().zip(is.query_pairs()) {
            match &*name {
                "code" => {}
                "code_challenge" => {
                    self.equal("length", &was.len().to_string(), &is.len().to_string());
                }
                name => self.text(name, &was, &is),
            }
        }
    }

    /// Compares two JSON values: keys, types, and stable texts.
    pub(super) fn json(&mut self, at: &str, recorded: &Value, actual: &Value) {
        match (recorded, actual) {
            (Value::Object(was), Value::Object(is)) => {
                for key in was.keys().filter(|key| !is.contains_key(*key)) {
                    self.differ(&format!("{at}.{key}"), &was[key], &"nothing");
                }
                for (key, value) in is {
                    match was.get(key) {
                        Some(recorded) => self.json(&format!("{at}.{key}"), recorded, value),
                        // The sandbox's provider returns the account; the recorded one did not.
                        None if key == "account" && at.ends_with("credentials.raw") => {}
                        None => self.differ(&format!("{at}.{key}"), &"nothing", value),
                    }
                }
            }
            (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
                for (index, (was, is)) in was.iter().zip(is).enumerate() {
                    self.json(&format!("{at}[{index}]"), was, is);
                }
            }
            (Value::String(was), Value::String(is)) => self.text(at, was, is),
            (Value::Number(_), Value::Number(_))
                if at.ends_with(".id") || at.ends_with(".expires_in") => {}
            (was, is) if was == is => {}
            (was, is) => self.differ(at, was, is),
        }
    }

    /// Compares two texts: equal, or of the same kind if the value changes between runs.
    fn text(&mut self, at: &str, recorded: &str, actual: &str) {
        if self.substitutions.apply(recorded) == actual {
            return;
        }
        let link = |text: &str| {
            text.split_once("session_token=")
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        };
        if let (Some((was, was_token)), Some((is, is_token))) = (link(recorded), link(actual)) {
            self.equal(at, &self.substitutions.apply(&was), &is);
            return self.text(at, &was_token, &is_token);
        }
        match (kind(recorded), kind(actual)) {
            (Some(Kind::Secret), Some(Kind::Secret)) => self.substitutions.learn(recorded, actual),
            (Some(was), Some(is)) if was == is => {}
            _ => self.differ(at, &recorded, &actual),
        }
    }

    /// Compares a page: its title, its text, its message to the opener, and when it closes.
    pub(super) fn page(&mut self, recorded: &Value, html: &str) {
        self.equal(
            "title",
            recorded["title"].as_str().unwrap(),
            between(html, "<title>", "</title>"),
        );
        let was: Vec<_> = recorded["visible_text"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        let was: Vec<_> = was.iter().map(|line| line.as_str().unwrap()).collect();
        self.equal(
            "visible text",
            &was.join("\n"),
            &visible_text(html).join("\n"),
        );
        let posted = &recorded["script_posts_to_window_opener_and_BroadcastChannel(\"nango-oauth-callback\")"];
        let message = between(html, "const message = ", ";\n");
        let message: Value = serde_json::from_str(message).unwrap();
        let expected = self.substitutions.apply(&posted.to_string());
        let expected: Value = serde_json::from_str(&expected).unwrap();
        self.json("message", &expected, &message);
        let error = &recorded["window.__nangoOAuthError"];
        self.json("window.__nangoOAuthError", error, &message["payload"]);
        if let Some(details) = recorded["error_details_text"].as_str() {
            let shown = between(html, "<pre id=\"error-details\">", "</pre>");
            let shown = shown
                .replace("&#34;", "\"")
                .replace("&#60;", "<")
                .replace("&#38;", "&");
            self.equal("error details", &self.substitutions.apply(details), &shown);
        }
        for needed in [
            "window.opener.postMessage(message, \"*\")",
            "new BroadcastChannel(\"nango-oauth-callback\")",
            "if (message.payload) window.__nangoOAuthError = message.payload",
            "=== \"nango_oauth_callback_ack\") window.close()",
            "if (message.type === \"nango_oauth_callback_success\") setTimeout(() => window.close(), 500)",
        ] {
            if !html.contains(needed) {
                self.differ("script", &needed, &"a script without it");
            }
        }
    }
}

/// Returns a URL without its query.
fn address(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start} in {text}"));
    rest.split_once(end).unwrap().0
}

/// Returns the visible lines of a page, without head, scripts and folded details.
fn visible_text(html: &str) -> Vec<String> {
    let mut body = between(html, "<body>", "</body>").to_owned();
    for element in ["script", "details"] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        if body.contains(&open) {
            let inner = format!("{open}{}{close}", between(&body, &open, &close));
            body = body.replace(&inner, "");
        }
    }
    let texts = body.split('<').filter_map(|part| part.split_once('>'));
    let lines = texts.map(|(_, text)| text.trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The kind of a text that changes between runs.
#[derive(PartialEq)]
enum Kind {
    /// An id or token, which is replaced by the same value everywhere.
    Secret,
    JavascriptTime,
    PostgresTime,
    LogId,
}

fn kind(text: &str) -> Option<Kind> {
    let secret = [
        "nango_connect_session_",
        "mock_access_",
        "mock_refresh_",
        "sandbox_access_",
        "sandbox_refresh_",
    ];
    let is_log_id = text.split_once('_').is_some_and(|(time, random)| {
        time.len() == 13 && time.parse::<u64>().is_ok() && random.len() == 8
    });
    if Uuid::try_parse(text).is_ok() || secret.iter().any(|prefix| text.starts_with(prefix)) {
        Some(Kind::Secret)
    } else if is_log_id {
        Some(Kind::LogId)
    } else if DateTime::parse_from_rfc3339(text).is_err() {
        None
    } else if text.ends_with('Z') {
        Some(Kind::JavascriptTime)
    } else {
        Some(Kind::PostgresTime)
    }
}
