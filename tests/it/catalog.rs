use std::collections::BTreeSet;
use std::path::Path;

use insta::assert_snapshot;
use patchbay::catalog::{
    AccountRule, AuthMode, Availability, Catalog, CatalogError, ConfiguredIntegration, Connector,
};

/// The expected connectors, from the original system and Nango's list of providers.
const EXPECTED: &str = include_str!("../data/catalog/connectors.csv");

#[test]
fn builtin_catalog_matches_original_connectors() {
    let catalog = Catalog::builtin();
    let mut slugs = BTreeSet::new();
    for row in EXPECTED.lines().skip(1) {
        let columns: Vec<&str> = row.split(',').collect();
        let [slug, name, _, _, provider, auth_mode, _] = columns[..] else {
            panic!("seven columns: {row}");
        };
        slugs.insert(slug);
        let found = catalog.get(slug).unwrap();
        let found_mode = found.auth_mode.map(|mode| mode.to_string());
        assert_eq!(
            (&*found.slug, &*found.name, &*found.integration_key),
            (slug, name, slug)
        );
        assert_eq!(
            found.provider.as_deref().unwrap_or_default(),
            provider,
            "{slug}"
        );
        assert_eq!(found_mode.unwrap_or_default(), auth_mode, "{slug}");
        match found.availability() {
            Availability::Available => assert!(!provider.is_empty(), "{slug}"),
            Availability::Disabled => panic!("{slug} is disabled"),
            Availability::Unavailable(reason) => {
                assert!(provider.is_empty(), "{slug}");
                assert_eq!(reason, "Not available yet");
                let note = format!("Nango has no provider for {name} (August 2026)");
                assert_eq!(found.note, Some(note));
            }
        }
    }
    let listed: BTreeSet<&str> = catalog.iter().map(|found| &*found.slug).collect();
    assert_eq!(listed, slugs);
    let unavailable = catalog.iter().filter(|found| found.unavailable.is_some());
    assert_eq!((catalog.iter().len(), unavailable.count()), (99, 15));
}

#[test]
fn connector_ids_are_stable() {
    let catalog = Catalog::builtin();
    let ids = ["gmail", "zoom", "asana"].map(|slug| format!("{slug} {}", Connector::id_of(slug)));
    assert_snapshot!(ids.join("\n"), @r#"
    gmail 2ca8a1b8-0995-578b-b87c-dc39f677e722
    zoom b6dd9039-f02f-5cc6-97bf-cfe59218f039
    asana 405ea753-db05-5cf7-864f-805794b23076
    "#);
    let gmail = catalog.get("gmail").unwrap();
    assert_eq!(gmail.id, Connector::id_of("gmail"));
    assert_eq!(catalog.get(&gmail.id.to_string()), Some(gmail));
    assert_eq!(catalog.get(&Connector::id_of("slack").to_string()), None);
    assert_eq!(catalog.get("Gmail"), None);
}

#[test]
fn connectors_are_sorted_by_name_ignoring_case() {
    let catalog = Catalog::builtin();
    let names: Vec<String> = catalog
        .iter()
        .map(|found| found.name.to_lowercase())
        .collect();
    assert!(names.is_sorted());
}

#[test]
fn search_matches_name_slug_and_category_ignoring_case() {
    let catalog = Catalog::builtin();
    let search = |query, category| {
        let found: Vec<&str> = catalog
            .search(query, category)
            .map(|found| &*found.slug)
            .collect();
        found.join(" ")
    };
    assert_eq!(
        search("  Google-C", None),
        "google-calendar google-cloud-storage"
    );
    assert_eq!(search("/ x", None), "twitter");
    assert_eq!(
        search("calendar", Some("calendar & SCHEDULING")),
        "apple-calendar calendly doodle google-calendar outlook-calendar when2meet"
    );
    assert_eq!(search("nothing of that name", None), "");
    assert_eq!(catalog.search("", None).count(), 99);
}

#[test]
fn search_finds_synonyms() {
    let catalog = Catalog::builtin();
    let finds = |query: &str, slug: &str| {
        let mut found = catalog.search(query, None);
        assert!(found.any(|connector| connector.slug == slug), "{query}");
    };
    for (query, slug) in [
        ("google mail", "gmail"),
        ("Google-Mail", "gmail"),
        ("ms teams", "microsoft-teams"),
        ("msteams", "microsoft-teams"),
        ("crm", "hubspot"),
        ("help desk", "zendesk"),
        ("x.com", "twitter"),
        ("payments", "stripe"),
        ("accounting", "xero"),
        ("gcal", "google-calendar"),
    ] {
        finds(query, slug);
    }
    assert_eq!(catalog.search("zzz", None).count(), 0);
}

#[test]
fn categories_do_not_overlap() {
    let catalog = Catalog::builtin();
    let categories: BTreeSet<&str> = catalog.iter().map(|found| &*found.category).collect();
    let categories: Vec<&str> = categories.into_iter().collect();
    assert_snapshot!(categories.join("\n"), @r#"
    AI
    Accounting & Finance
    Analytics & Data
    CRM & Sales
    Calendar & Scheduling
    Commerce & Payments
    Communication
    Customer Support
    Developer Tools
    File Storage
    Marketing
    Productivity
    Social Media
    "#);
}

fn integration(key: &str, provider: &str, display_name: &str) -> ConfiguredIntegration {
    ConfiguredIntegration {
        key: key.to_owned(),
        provider: provider.to_owned(),
        display_name: display_name.to_owned(),
    }
}

#[test]
fn configured_integrations_become_connectors() {
    let catalog = Catalog::builtin().with_integrations(&[
        integration("gmail", "google-mail", "Gmail"),
        integration("slack", "slack", "Slack"),
        integration("slack-support", "slack", "Slack"),
        integration("Acme_CRM.v2", "salesforce", "Acme CRM"),
        integration("future", "a-provider-of-tomorrow", ""),
        integration("users", "zendesk", ""),
        integration("..", "zendesk", ""),
        integration("cohere", "cohere-ai", "Cohere"),
    ]);
    let shown = |slug: &str| {
        let found = catalog
            .get(slug)
            .unwrap_or_else(|| panic!("{slug} is missing"));
        let mode = found
            .auth_mode
            .map(|mode| mode.to_string())
            .unwrap_or_default();
        format!(
            "{} | {} | {} | {mode}",
            found.slug, found.name, found.category
        )
    };
    let slugs = [
        "gmail",
        "slack",
        "slack-support",
        "Acme_CRM.v2",
        "future",
        "users-integration",
        "cohere",
    ];
    assert_snapshot!(slugs.map(shown).join("\n"), @r#"
    gmail | Gmail | Communication | OAUTH2
    slack | Slack (slack) | Productivity | OAUTH2
    slack-support | Slack (slack-support) | Productivity | OAUTH2
    Acme_CRM.v2 | Acme CRM | CRM & Sales | OAUTH2
    future | future | Other | 
    users-integration | Zendesk | Customer Support | OAUTH2
    cohere | Cohere | AI | 
    "#);
    assert_eq!(catalog.iter().len(), 99 + 5);
    assert!(catalog.get("slack").unwrap().account_rule().is_some());
    assert_eq!(
        catalog.get("cohere").unwrap().availability(),
        Availability::Available
    );
    let zendesk = catalog.get("users-integration").unwrap();
    assert_eq!(zendesk.integration_key, "users");
    assert_eq!(zendesk.parameters[0].name, "subdomain");
    assert_eq!(
        catalog.get(&zendesk.id.to_string()).unwrap().slug,
        "users-integration"
    );
}

#[test]
fn manifest_omits_empty_fields() {
    let catalog = Catalog::builtin();
    let manifest = |slug| catalog.get(slug).unwrap().manifest().to_string();
    assert_snapshot!(manifest("gmail"), @r#"{"auth_mode":"OAUTH2","category":"Communication","enabled":true,"integration_key":"gmail","name":"Gmail","provider":"google-mail","slug":"gmail"}"#);
    assert_snapshot!(manifest("cohere"), @r#"{"category":"AI","enabled":true,"integration_key":"cohere","name":"Cohere","note":"Nango has no provider for Cohere (August 2026)","slug":"cohere","unavailable":"Not available yet"}"#);
}

/// Loads an operator's file with this text. Paths in messages are shortened to the file's name.
fn load(text: &str) -> Result<Catalog, String> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("connectors-{}.toml", uuid::Uuid::new_v4()));
    std::fs::write(&path, text).unwrap();
    let loaded = Catalog::load(Some(&path));
    std::fs::remove_file(&path).unwrap();
    loaded.map_err(|error| {
        assert!(matches!(error, CatalogError::Invalid(_)));
        error
            .to_string()
            .replace(&path.display().to_string(), "my.toml")
    })
}

#[test]
fn override_changes_only_named_fields() {
    let catalog = load(
        r#"
        [[connector]]
        slug = "gmail"
        integration_key = "google-mail-prod"
        account = { id = "/raw/sub", name = "/raw/email" }

        [[connector]]
        slug = "zoom"
        enabled = false

        [[connector]]
        slug = "github"
        unavailable = "Ask the platform team first"
        "#,
    )
    .unwrap();
    let gmail = catalog.get("gmail").unwrap();
    let builtin = Catalog::builtin();
    let mut expected = builtin.get("gmail").unwrap().clone();
    expected.integration_key = "google-mail-prod".to_owned();
    expected.account.clone_from(&gmail.account);
    assert_eq!(*gmail, expected);
    assert!(
        gmail
            .account_rule()
            .is_some_and(AccountRule::identifies_account)
    );
    assert_eq!(
        catalog.get("zoom").unwrap().availability(),
        Availability::Disabled
    );
    assert_eq!(
        catalog.get("github").unwrap().availability(),
        Availability::Unavailable("Ask the platform team first")
    );
    assert_eq!(catalog.get("asana"), builtin.get("asana"));
}

#[test]
fn catalog_file_adds_connectors_and_providers() {
    let catalog = load(
        r#"
        [[connector]]
        slug = "acme"
        name = "Acme"
        category = "In house"
        provider = "unauthenticated"
        auth_mode = "NONE"

        [[connector]]
        slug = "cohere"
        provider = "cohere-custom"
        auth_mode = "API_KEY"
        "#,
    )
    .unwrap();
    let acme = catalog.get("acme").unwrap();
    assert_eq!(
        (acme.id, &*acme.integration_key),
        (Connector::id_of("acme"), "acme")
    );
    assert_eq!(acme.auth_mode, Some(AuthMode::None));
    let cohere = catalog.get("cohere").unwrap();
    assert_eq!(cohere.availability(), Availability::Available);
    assert_eq!(catalog.iter().len(), 100);
    assert_eq!(catalog.iter().next().unwrap().slug, "acme");
}

#[test]
fn overrides_may_swap_integration_keys() {
    let swapped = load(
        r#"
        [[connector]]
        slug = "gmail"
        integration_key = "zoom"
        [[connector]]
        slug = "zoom"
        integration_key = "gmail"
        "#,
    );
    assert!(swapped.is_ok());
}

#[test]
fn catalog_errors_are_all_reported_with_position() {
    let text = r#"connectors = []

[[connector]]
slug = "Gmail"
nmae = "Gmail"

[[connector]]
slug = "callback"

[[connector]]
name = " "
enabled = "yes"

[[connector]]
slug = "zoom"
auth_mode = "OAUTH3"

[[connector]]
slug = "acme"
provider = "acme"

[[connector]]
slug = "acme"

[[connector]]
slug = "jira"
integration_key = "gmail"

[[connector]]
slug = "notion"
account = { id = "/team/id" }

[[connector]]
slug = "asana"
account = { name = "/raw/name" }

[[connector]]
slug = "cohere"
provider = "cohere"
"#;
    assert_snapshot!(load(text).unwrap_err(), @r#"
    my.toml:1:1: unknown field "connectors", expected connector
    my.toml:4:8: slug "Gmail" must be 1 to 63 of a-z, 0-9 and '-', the first not '-'
    my.toml:5:1: unknown field "nmae", expected slug, name, category, provider, integration_key, auth_mode, enabled, unavailable, note, account, parameters
    my.toml:8:8: slug "callback" is reserved, the API has a path of that name
    my.toml:10:1: the connector has no slug
    my.toml:11:8: name must be a text that is not empty
    my.toml:12:11: enabled must be true or false
    my.toml:16:13: auth_mode: unknown variant `OAUTH3`, expected one of `API_KEY`, `APP`, `AWS_SIGV4`, `BASIC`, `BILL`, `CUSTOM`, `INSTALL_PLUGIN`, `JWT`, `MCP_OAUTH2`, `MCP_OAUTH2_GENERIC`, `NONE`, `OAUTH1`, `OAUTH2`, `OAUTH2_CC`, `SIGNATURE`, `TBA`, `TWO_STEP`
    my.toml:19:8: the new connector "acme" lacks name, category, auth_mode
    my.toml:23:8: slug "acme" is in this file twice
    my.toml:27:19: integration_key "gmail" is already that of gmail
    my.toml:31:18: account: "/team/id" must be a JSON pointer that starts with /raw, /id_token, /connection_config, /metadata, /credentials, /response
    my.toml:35:11: account has no id
    my.toml:38:8: connector "cohere" lacks auth_mode
    "#);
}

#[test]
fn mistakes_in_parameters_are_named_with_their_place() {
    let text = r#"
[[connector]]
slug = "zendesk"
parameters = ["subdomain"]

[[connector]]
slug = "shopify"
parameters = "subdomain"

[[connector]]
slug = "jira"
parameters = [
    { name = "site" },
    { name = "a", title = "A", pattern = "(", kind = "text" },
    { name = "b", title = "B", pattern = "^[a-z]+$", example = "7", required = "no" },
]
"#;
    assert_snapshot!(load(text).unwrap_err(), @r#"
    my.toml:4:15: a parameter must be a table
    my.toml:8:14: parameters must be a list of tables
    my.toml:13:5: the parameter has no title
    my.toml:14:42: pattern must be a regular expression
    my.toml:14:47: unknown field "kind", expected name, title, description, pattern, example, required, prefix, suffix
    my.toml:15:5: the example of the parameter does not match its pattern
    my.toml:15:80: required must be true or false
    "#);
}

#[test]
fn override_replaces_parameters_and_another_provider_drops_them() {
    let catalog = load(
        r#"
        [[connector]]
        slug = "zendesk"
        integration_key = "zendesk-prod"

        [[connector]]
        slug = "shopify"
        provider = "shopify-cc"

        [[connector]]
        slug = "snowflake"
        parameters = [{ name = "snowflake_account_url", title = "Account", required = false }]
        "#,
    )
    .unwrap();
    let builtin = Catalog::builtin();
    let parameters = |catalog: &Catalog, slug| catalog.get(slug).unwrap().parameters.clone();
    assert_eq!(
        parameters(&catalog, "zendesk"),
        parameters(&builtin, "zendesk")
    );
    assert!(parameters(&catalog, "shopify").is_empty());
    let [account] = &parameters(&catalog, "snowflake")[..] else {
        panic!("one parameter");
    };
    assert_eq!((&*account.title, account.required), ("Account", false));
    assert_eq!(account.pattern, None);
}

#[test]
fn slug_format_is_enforced() {
    for slug in ["", "-a", "a_b", "é", "a/b", &"a".repeat(64)] {
        let error = load(&format!("[[connector]]\nslug = {slug:?}\n")).unwrap_err();
        assert!(error.starts_with("my.toml:2:8: slug"), "{error}");
    }
    let longest = "a".repeat(63);
    let rest = "name = \"A\"\ncategory = \"B\"\nunavailable = \"not yet\"";
    let catalog = load(&format!("[[connector]]\nslug = {longest:?}\n{rest}")).unwrap();
    assert!(catalog.get(&longest).is_some());
}

#[test]
fn error_columns_count_characters_and_syntax_errors_come_alone() {
    let broken = "[[connector]]\nslug = \"gmail\" name = 'é'\n[[connector]\n";
    assert_snapshot!(load(broken).unwrap_err(), @r#"
    my.toml:2:16: unexpected key or value, expected newline, `#`
    my.toml:3:13: unclosed array table, expected `]`
    "#);
    let inline = "connector = [{ slug = 'zoom', name = 'Zööm' }, { slug = 'zoom' }, 7]";
    assert_snapshot!(load(inline).unwrap_err(), @r#"
    my.toml:1:57: slug "zoom" is in this file twice
    my.toml:1:67: a connector must be a table
    "#);
    assert_snapshot!(load("connector = 1").unwrap_err(), @"my.toml:1:13: connector must be a list of tables");
}

#[test]
fn missing_catalog_file_is_named_in_error() {
    let error = Catalog::load(Some(Path::new("/nowhere/connectors.toml"))).unwrap_err();
    assert_snapshot!(error, @"CATALOG_FILE names /nowhere/connectors.toml, which cannot be read: No such file or directory (os error 2). Correct the path, or unset the variable");
}
