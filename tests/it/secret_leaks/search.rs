//! The secrets to search for, and the places to search.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sqlx::AssertSqlSafe;

use crate::test_app::TestApp;

/// A readable output of the service.
pub(super) struct Location {
    pub(super) name: String,
    pub(super) text: String,
}

impl Location {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

/// Secrets and tokens: their names, and all encodings of each.
#[derive(Default)]
pub(super) struct Canaries(Vec<(&'static str, Vec<String>)>);

impl Canaries {
    pub(super) fn add(&mut self, what: &'static str, secret: &str) {
        assert!(secret.len() >= 16, "{what} could be there by chance");
        let escaped = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let mut forms = vec![
            secret.to_owned(),
            escaped,
            hex::encode(secret),
            secret.replace('-', ""),
            format!("{:?}", secret.as_bytes())
                .trim_matches(['[', ']'])
                .to_owned(),
        ];
        // In base64 of a longer text, the secret can start at any of three offsets.
        for skipped in 0..3 {
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let text = engine.encode(&secret.as_bytes()[skipped..]);
                forms.push(text[..text.len() / 4 * 4 - 4].to_owned());
            }
        }
        forms.sort();
        forms.dedup();
        self.0.push((what, forms));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn pairs<'a>(
        &'a self,
        places: &'a [Location],
    ) -> impl Iterator<Item = (&'static str, &'a Location, usize)> {
        let of_place = |place: &'a Location| {
            self.0.iter().filter_map(move |(what, forms)| {
                let at = forms
                    .iter()
                    .find_map(|form| place.text.find(form.as_str()))?;
                Some((*what, place, at))
            })
        };
        places.iter().flat_map(of_place)
    }

    /// Returns the secrets that were found, with their locations.
    pub(super) fn found_in(&self, places: &[Location]) -> Vec<String> {
        let failures = self.pairs(places);
        let reported = |(what, place, at): (&str, &Location, usize)| {
            let before: String = place.text[..at].chars().rev().take(160).collect();
            let before: String = before.chars().rev().collect();
            format!("{what} is in {}, after {before:?}", place.name)
        };
        failures.map(reported).collect()
    }
}

/// Returns each table with its rows as text.
pub(super) async fn tables(app: &TestApp) -> Vec<Location> {
    let mut sql = app.sql().await;
    let names: Vec<String> = sqlx::query_scalar(
        "select tablename::text from pg_tables where schemaname = 'public' order by 1",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let mut places = Vec::new();
    for name in names {
        let rows = format!("select coalesce(string_agg(t::text, E'\\n'), '') from {name} t");
        let text: String = sqlx::query_scalar(AssertSqlSafe(rows))
            .fetch_one(&mut sql)
            .await
            .unwrap();
        places.push(Location::new(format!("table {name}"), text));
    }
    places
}

#[test]
fn secret_search_finds_encoded_forms() {
    let secret = "canary-planted-0123456789abcdef";
    let mut canaries = Canaries::default();
    canaries.add("a planted one", secret);
    let in_header = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("nango:{secret}"))
    );
    for planted in [
        format!("password={secret}&"),
        in_header,
        hex::encode(secret),
        format!("{:?}", secret.as_bytes()),
    ] {
        let places = [Location::new("a log", format!("line\n{planted}\nline"))];
        assert_eq!(canaries.found_in(&places).len(), 1, "{planted}");
    }
    let elsewhere = [Location::new("a log", "canary-planted-other")];
    assert!(canaries.found_in(&elsewhere).is_empty());
}
