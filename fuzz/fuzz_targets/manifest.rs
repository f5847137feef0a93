//! An operator's catalog file.
#![no_main]

use std::collections::HashSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use patchbay::catalog::{Availability, Catalog, CatalogError};

fuzz_target!(|text: &str| {
    match Catalog::parse(Path::new("catalog.toml"), text) {
        Ok(catalog) => {
            let mut keys = HashSet::new();
            for connector in catalog.iter() {
                let slug = &connector.slug;
                assert!((1..=63).contains(&slug.len()), "{slug:?}");
                assert!(
                    slug.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                );
                assert!(!connector.name.is_empty() && !connector.category.is_empty());
                assert!(
                    keys.insert(&connector.integration_key),
                    "{slug} shares its key"
                );
                assert_eq!(catalog.get(slug), Some(connector));
                if connector.availability() == Availability::Available {
                    assert!(connector.provider.is_some() && connector.auth_mode.is_some());
                }
                // The database stores it as JSON and text, neither of which can contain a NUL.
                assert!(
                    !connector.manifest().to_string().contains("\\u0000"),
                    "{connector:?}"
                );
            }
        }
        Err(CatalogError::Invalid(problems)) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!((1..=text.matches('\n').count() + 1).contains(&problem.line));
                assert!(problem.column >= 1 && !problem.message.is_empty());
                assert!(
                    !problem.message.chars().any(char::is_control),
                    "{problem:?}"
                );
            }
        }
        Err(error) => panic!("no file was read: {error}"),
    }
});
