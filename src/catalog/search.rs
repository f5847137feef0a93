//! Search for connectors by name and by search terms.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::Connector;

/// The minimum length of a query that is compared with the starts of terms, in characters.
const MIN_PREFIX: usize = 2;

/// The category of a connector for which Nango names none.
const OTHER: &str = "Other";

#[derive(Deserialize)]
struct Terms {
    nango: Vec<(String, String)>,
    category: HashMap<String, Vec<String>>,
    connector: HashMap<String, Vec<String>>,
}

static TERMS: LazyLock<Terms> = LazyLock::new(|| {
    let mut terms: Terms =
        toml::from_str(include_str!("search.toml")).expect("a test reads the embedded terms");
    let all = terms
        .category
        .values_mut()
        .chain(terms.connector.values_mut());
    for term in all.flatten() {
        *term = simplified(term);
    }
    terms
});

/// Returns the catalog's category for Nango's categories, separated by spaces.
pub(crate) fn category_of(nango: &str) -> &'static str {
    let has = |name: &String| nango.split(' ').any(|own| own == name);
    let found = TERMS.nango.iter().find(|(name, _)| has(name));
    found.map_or(OTHER, |(_, category)| category)
}

/// A normalized search text.
pub(crate) struct SearchQuery {
    text: String,
    simplified: String,
}

impl SearchQuery {
    pub(crate) fn new(text: &str) -> Self {
        let text = text.trim().to_lowercase();
        Self {
            simplified: simplified(&text),
            text,
        }
    }

    /// Returns whether a connector's name, slug or category contains the text, or one of its terms starts with it.
    pub(crate) fn matches(&self, connector: &Connector) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(&self.text);
        contains(&connector.name)
            || contains(&connector.slug)
            || contains(&connector.category)
            || self.matches_term(connector)
    }

    fn matches_term(&self, connector: &Connector) -> bool {
        let query = self.simplified.as_str();
        if query.is_empty() {
            return false;
        }
        if simplified(&connector.name).contains(query) && query.chars().count() > MIN_PREFIX {
            return true;
        }
        let provider = connector.provider.as_deref().unwrap_or_default();
        let own = [connector.slug.as_str(), provider]
            .into_iter()
            .filter_map(|name| TERMS.connector.get(name))
            .chain(TERMS.category.get(&connector.category));
        own.flatten().any(|term| {
            term == query || (query.chars().count() >= MIN_PREFIX && term.starts_with(query))
        })
    }
}

/// Returns the letters and digits of a text, in lower case and without accents: "Google-Mail" and "google mail" become
/// equal.
fn simplified(text: &str) -> String {
    let letters = text.chars().flat_map(char::to_lowercase);
    letters
        .map(without_accent)
        .filter(|c| c.is_alphanumeric())
        .collect()
}

fn without_accent(c: char) -> char {
    match c {
        'à'..='å' => 'a',
        'ç' => 'c',
        'è'..='ë' => 'e',
        'ì'..='ï' => 'i',
        'ñ' => 'n',
        'ò'..='ö' | 'ø' => 'o',
        'ù'..='ü' => 'u',
        'ý' | 'ÿ' => 'y',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nango_categories_have_one_of_ours() {
        assert_eq!(category_of("productivity video"), "Communication");
        assert_eq!(category_of("erp accounting"), "Accounting & Finance");
        assert_eq!(category_of(""), "Other");
    }

    #[test]
    fn simplified_text_has_letters_and_digits_only() {
        assert_eq!(simplified("Café-Mail 24/7"), "cafemail247");
    }
}
