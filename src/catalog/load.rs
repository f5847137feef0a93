//! Builds the catalog from layered manifest files, and checks the constraints between entries.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::parse::{self, Entry, ManifestError, ManifestErrors};
use super::{Catalog, Connector};

const BUILTIN: &str = include_str!("connectors.toml");

/// The reason for which an operator's manifest file is rejected.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file cannot be read.
    #[error(
        "CATALOG_FILE names {}, which cannot be read: {source}. Correct the path, or unset the variable",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file has errors; the message has one per line.
    #[error("{}", format_errors(.0))]
    Invalid(Vec<ManifestError>),
}

fn format_errors(problems: &[ManifestError]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

pub(crate) fn builtin() -> Catalog {
    let mut builder = CatalogBuilder::default();
    builder
        .add(Path::new("connectors.toml"), BUILTIN)
        .expect("a test loads the embedded file");
    builder.into_catalog()
}

pub(crate) fn with_overrides(path: &Path) -> Result<Catalog, CatalogError> {
    with_text(path, &read(path)?)
}

/// Reads an operator's manifest file, without parsing it.
pub(crate) fn read(path: &Path) -> Result<String, CatalogError> {
    fs::read_to_string(path).map_err(|source| CatalogError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn with_text(path: &Path, text: &str) -> Result<Catalog, CatalogError> {
    let mut builder = CatalogBuilder {
        connectors: by_slug(builtin()),
    };
    builder.add(path, text).map_err(CatalogError::Invalid)?;
    Ok(builder.into_catalog())
}

fn by_slug(catalog: Catalog) -> BTreeMap<String, Connector> {
    let connectors = catalog.connectors.into_iter();
    connectors.map(|c| (c.slug.clone(), c)).collect()
}

/// The connectors by slug, as defined by the files read so far.
#[derive(Default)]
struct CatalogBuilder {
    connectors: BTreeMap<String, Connector>,
}

impl CatalogBuilder {
    fn add(&mut self, path: &Path, text: &str) -> Result<(), Vec<ManifestError>> {
        let mut problems = ManifestErrors::new(path, text);
        let mut slugs = HashMap::new();
        let mut keys = HashMap::new();
        for entry in parse::entries(text, &mut problems) {
            let slug = entry.slug.get_ref().clone();
            let at = entry.slug.span();
            if slugs.insert(slug.clone(), at.clone()).is_some() {
                problems.add(&at, format!("slug {slug:?} is in this file twice"));
                continue;
            }
            if entry.flawed {
                continue;
            }
            let key = entry.integration_key.as_ref();
            keys.insert(slug, key.map_or(at, toml::Spanned::span));
            self.apply(entry, &mut problems);
        }
        self.check_integration_keys(&keys, &mut problems);
        match problems.into_sorted() {
            found if found.is_empty() => Ok(()),
            found => Err(found),
        }
    }

    /// Changes the fields that the entry names, or adds a connector.
    fn apply(&mut self, entry: Entry, problems: &mut ManifestErrors<'_>) {
        let at = entry.slug.span();
        let slug = entry.slug.into_inner();
        let known = self.connectors.contains_key(&slug);
        let connector = self
            .connectors
            .entry(slug.clone())
            .or_insert_with(|| Connector {
                id: Connector::id_of(&slug),
                integration_key: slug.clone(),
                slug: slug.clone(),
                name: String::new(),
                category: String::new(),
                provider: None,
                auth_mode: None,
                enabled: true,
                unavailable: None,
                note: None,
                is_listed: true,
                account: None,
                parameters: Vec::new(),
            });
        // An entry that names a provider makes the connector available, so the built-in reason no longer applies.
        if entry.provider.is_some() {
            connector.unavailable = None;
            connector.note = None;
        }
        // The parameters belong to the previous provider.
        if entry.provider.is_some() && entry.provider != connector.provider {
            connector.parameters.clear();
        }
        set_if_some(&mut connector.parameters, entry.parameters);
        set_if_some(&mut connector.name, entry.name);
        set_if_some(&mut connector.category, entry.category);
        set_if_some(
            &mut connector.integration_key,
            entry.integration_key.map(toml::Spanned::into_inner),
        );
        set_if_some(&mut connector.enabled, entry.enabled);
        connector.provider = entry.provider.or(connector.provider.take());
        connector.auth_mode = entry.auth_mode.or(connector.auth_mode);
        connector.unavailable = entry.unavailable.or(connector.unavailable.take());
        connector.note = entry.note.or(connector.note.take());
        connector.account = entry.account.or(connector.account.take());

        let usable = connector.unavailable.is_none();
        let missing: Vec<&str> = [
            ("name", connector.name.is_empty()),
            ("category", connector.category.is_empty()),
            ("provider", usable && connector.provider.is_none()),
            ("auth_mode", usable && connector.auth_mode.is_none()),
        ]
        .into_iter()
        .filter_map(|(field, is_missing)| is_missing.then_some(field))
        .collect();
        if !missing.is_empty() {
            let kind = if known {
                "connector"
            } else {
                "the new connector"
            };
            let missing = missing.join(", ");
            problems.add(&at, format!("{kind} {slug:?} lacks {missing}"));
        }
    }

    /// Checks that no two connectors share an integration: each would see the other's connections. Reports the error at
    /// the last entry of the current file that shares the key.
    fn check_integration_keys(
        &self,
        places: &HashMap<String, Range<usize>>,
        problems: &mut ManifestErrors<'_>,
    ) {
        let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for connector in self.connectors.values() {
            let users = users.entry(&connector.integration_key).or_default();
            users.push(&connector.slug);
        }
        for (key, slugs) in users.into_iter().filter(|(_, slugs)| slugs.len() > 1) {
            let placed = slugs
                .iter()
                .filter_map(|slug| Some((places.get(*slug)?, *slug)));
            if let Some((at, last)) = placed.max_by_key(|(at, _)| at.start) {
                let others: Vec<&str> =
                    slugs.iter().copied().filter(|slug| *slug != last).collect();
                let others = others.join(", ");
                problems.add(
                    at,
                    format!("integration_key {key:?} is already that of {others}"),
                );
            }
        }
    }

    fn into_catalog(self) -> Catalog {
        let mut connectors: Vec<Connector> = self.connectors.into_values().collect();
        connectors.sort_by_cached_key(|connector| connector.name.to_lowercase());
        Catalog { connectors }
    }
}

fn set_if_some<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
