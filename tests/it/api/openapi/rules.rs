//! Rules for every operation and schema of the document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use patchbay::catalog::Catalog;
use serde_json::{Value, json};

use super::DOCUMENT;

/// Returns the operations of `paths` or `webhooks`, each with its method and path or name.
fn operations(section: &str) -> impl Iterator<Item = (String, &'static Value)> {
    let items = DOCUMENT[section].as_object().unwrap().iter();
    items.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

/// The operations whose response is the provider's.
const PROXY: &str = "/proxy/";

#[test]
fn operations_have_short_summary_description_and_camel_case_id() {
    let mut ids = BTreeSet::new();
    for (name, operation) in operations("paths").chain(operations("webhooks")) {
        let summary = operation["summary"].as_str().unwrap();
        assert!(
            summary.len() <= 60 && !summary.ends_with('.'),
            "{name}: {summary}"
        );
        // A verb in the imperative does not end in `s`.
        let verb = summary.split(' ').next().unwrap();
        assert!(
            !verb.ends_with('s') && verb.starts_with(char::is_uppercase),
            "{name}: {summary}"
        );
        let description = operation["description"].as_str().unwrap();
        assert!(description.ends_with('.'), "{name}: {description}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{name}: {id} is not unique");
        assert!(id.starts_with(char::is_lowercase), "{name}: {id}");
        assert!(id.chars().all(char::is_alphanumeric), "{name}: {id}");
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{name}");
        assert!(operation["security"].is_array(), "{name}");
    }
}

#[test]
fn responses_have_descriptions_and_errors_name_their_codes() {
    let codes = &DOCUMENT["components"]["schemas"]["KnownProblemCode"]["enum"];
    for (name, operation) in operations("paths") {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let description = response["description"].as_str().unwrap();
            assert!(description.ends_with('.'), "{name} {status}: {description}");
            if !status.starts_with(['4', '5']) {
                continue;
            }
            let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{name} {status}");
            for line in description.lines() {
                let (code, cause) = line.trim_start_matches("- `").split_once("`: ").unwrap();
                assert!(
                    codes.as_array().unwrap().contains(&json!(code)),
                    "{name}: {code}"
                );
                assert!(cause.ends_with('.'), "{name}: {cause}");
            }
        }
        let secured = operation["security"] != json!([]);
        let has_401 = operation["responses"].get("401").is_some();
        assert_eq!(has_401, secured || name.contains("webhooks"), "{name}");
    }
}

#[test]
fn operations_for_service_keys_have_user_header() {
    for (name, operation) in operations("paths") {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let mut headers = parameters.filter(|parameter| parameter["in"] == "header");
        let header = headers.find(|header| header["name"] == "Patchbay-User");
        let allows = |scheme: &str| {
            let schemes = operation["security"].as_array().unwrap();
            schemes.iter().any(|one| one.get(scheme).is_some())
        };
        let catalog = operation["tags"] == json!(["catalog"]);
        let for_user = allows("service") && !catalog && operation["operationId"] != "eraseUser";
        assert_eq!(header.is_some(), for_user, "{name}");
        if let Some(header) = header {
            assert_eq!(header["required"], !allows("user"), "{name}");
        }
    }
}

/// Calls `visit` for a schema and all schemas within, with their locations.
fn walk(place: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(place, schema);
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{place}.{field}"), inner, visit);
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        for inner in schema[key].as_array().into_iter().flatten() {
            walk(&format!("{place}.{key}"), inner, visit);
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{place}.{key}"), &schema[key], visit);
        }
    }
}

#[test]
fn objects_and_enums_have_names() {
    let check = |place: &str, schema: &Value| {
        let named = place.matches('.').count() == 1;
        let anonymous = schema["type"] == "object" || schema.get("enum").is_some();
        assert!(named || !anonymous, "{place} is inline: {schema}");
        assert!(schema.get("allOf").is_none(), "{place}: {schema}");
    };
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        walk(&format!("schemas.{name}"), schema, &mut check.clone());
        let known = name.starts_with("Known");
        assert!(
            known || schema["description"].is_string(),
            "{name} has no description"
        );
    }
    for (name, operation) in operations("paths") {
        let mut check = |place: &str, schema: &Value| check(&format!("{place}."), schema);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            walk(&format!("{name}."), &parameter["schema"], &mut check);
        }
        let bodies = operation["responses"].as_object().unwrap().values();
        for body in bodies.chain(operation.get("requestBody")) {
            for content in body["content"]
                .as_object()
                .into_iter()
                .flat_map(|it| it.values())
            {
                walk(&format!("{name}."), &content["schema"], &mut check);
            }
        }
    }
}

#[test]
fn growing_sets_of_values_are_open() {
    let schemas = &DOCUMENT["components"]["schemas"];
    let mut fields = BTreeMap::new();
    for (name, schema) in schemas.as_object().unwrap() {
        for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
            let reference = inner["$ref"].as_str().or_else(|| {
                let options = inner["oneOf"].as_array()?;
                options.iter().find_map(|option| option["$ref"].as_str())
            });
            if let Some(target) = reference.and_then(|it| it.rsplit('/').next()) {
                let target = &schemas[target];
                if target.get("enum").is_some() {
                    fields.insert(format!("{name}.{field}"), "closed");
                } else if target["anyOf"][1] == json!({ "type": "string" }) {
                    fields.insert(format!("{name}.{field}"), "open");
                }
            }
        }
    }
    for (field, kind) in &fields {
        let (_, name) = field.split_once('.').unwrap();
        assert_eq!(*kind == "closed", name == "status", "{field} is {kind}");
    }
    for open in [
        "Attempt.error_code",
        "Connection.status_reason",
        "ConnectionEvent.kind",
        "Problem.code",
        "WebhookConnection.change",
    ] {
        assert_eq!(fields.get(open), Some(&"open"), "{open}");
    }
}

#[test]
fn credentials_are_named_variants_with_discriminator() {
    let schemas = &DOCUMENT["components"]["schemas"];
    let token = &schemas["Token"];
    assert_eq!(token["discriminator"]["propertyName"], "type");
    let mapping = token["discriminator"]["mapping"].as_object().unwrap();
    let names = mapping.iter().map(|(tag, reference)| {
        let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
        assert_eq!(schemas[name]["properties"]["type"]["const"], *tag);
        let required = schemas[name]["required"].as_array().unwrap();
        for field in ["connection_id", "connector_slug", "token_id", "type"] {
            assert!(required.contains(&json!(field)), "{name} {field}");
        }
        name
    });
    let names: BTreeSet<&str> = names.collect();
    let expected = ["ApiKey", "Basic", "OAuth1", "OAuth2", "Other"];
    assert_eq!(
        names,
        expected
            .map(|name| format!("{name}Credentials"))
            .iter()
            .map(String::as_str)
            .collect()
    );
}

#[test]
fn operations_and_objects_have_examples() {
    for (name, operation) in operations("paths").chain(operations("webhooks")) {
        if name.contains(PROXY) {
            continue;
        }
        let body = operation.get("requestBody");
        let responses = operation["responses"].as_object().unwrap().iter();
        let successes = responses.filter(|(status, _)| status.starts_with('2'));
        for body in body
            .into_iter()
            .chain(successes.map(|(_, response)| response))
        {
            for (kind, content) in body["content"].as_object().into_iter().flatten() {
                let has_example = content.get("example").is_some();
                assert!(
                    has_example || kind == "text/html",
                    "{name} {kind} has no example"
                );
            }
        }
    }
    // The sandbox has no connector with other kinds of credentials, and gmail has no parameters.
    let without = [
        "ApiKeyCredentials",
        "BasicCredentials",
        "OAuth1Credentials",
        "OtherCredentials",
        "ParameterValues",
        "RawCredentials",
        "StreamReady",
    ];
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        let is_object = schema["type"] == "object";
        let exempt = without.contains(&name.as_str());
        assert_eq!(
            is_object && !exempt,
            schema["examples"].is_array() && is_object,
            "{name}"
        );
    }
}

/// A connector with such a slug would make a path ambiguous.
#[test]
fn words_of_paths_are_reserved_as_slugs() {
    let paths = DOCUMENT["paths"].as_object().unwrap().keys();
    let words = paths.flat_map(|path| path.split('/'));
    let words: BTreeSet<&str> = words
        .filter(|word| !word.is_empty() && !word.starts_with('{'))
        .collect();
    assert!(words.len() >= 20, "{words:?}");
    for word in words.into_iter().chain(["list"]) {
        let text = format!("[[connector]]\nslug = {word:?}\n");
        let error = Catalog::parse(Path::new("my.toml"), &text).unwrap_err();
        let expected =
            format!("my.toml:2:8: slug {word:?} is reserved, the API has a path of that name");
        assert_eq!(error.to_string(), expected);
    }
}
