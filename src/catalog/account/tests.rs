use serde_json::json;

use super::*;

fn value(text: &str) -> Result<AccountValue, String> {
    AccountValue::try_from(Alternatives::One(text.to_owned()))
}

#[test]
fn value_takes_first_alternative_with_text() {
    let document = json!({ "raw": { "a": "", "b": 7, "c": "x", "d": null } });
    let alternatives = |all: &[&str]| {
        let all = all.iter().map(|&one| one.to_owned()).collect();
        let value = AccountValue::try_from(Alternatives::Several(all));
        value.expect("valid").evaluate(&document, false)
    };
    assert_eq!(alternatives(&["/raw/a", "/raw/b"]).as_deref(), Some("7"));
    assert_eq!(
        alternatives(&["{/raw/c}:{/raw/d}", "/raw/c"]).as_deref(),
        Some("x")
    );
    assert_eq!(alternatives(&["/raw/d", "/raw/none"]), None);
    let large = "{\"raw\": {\"id\": 123456789012345678901234}}";
    let large: Value = serde_json::from_str(large).expect("JSON");
    assert_eq!(text_at(&large, "/raw/id"), None);
}

#[test]
fn name_needs_one_part_of_template() {
    let document = json!({ "raw": { "first": "Ada" } });
    let name = value("{/raw/first} {/raw/last}").expect("valid");
    assert_eq!(name.evaluate(&document, true).as_deref(), Some("Ada"));
    assert_eq!(name.evaluate(&document, false), None);
}

#[test]
fn id_ignores_case_and_slash_of_typed_host() {
    let id = value("{/connection_config/host}:{/raw/id}").expect("valid");
    let of = |host: &str| {
        id.evaluate_id(&json!({ "connection_config": { "host": host }, "raw": { "id": "Ab" } }))
    };
    assert_eq!(of("Acme.example/").as_deref(), Some("acme.example:Ab"));
    assert_eq!(of("acme.example"), of(" ACME.example"));
}

#[test]
fn value_rejects_unknown_roots_and_secrets() {
    for wrong in [
        "",
        "text",
        "/unknown/id",
        "/raw",
        "/credentials/password",
        "/raw/a~2",
        "{/secret/x}",
    ] {
        assert!(value(wrong).is_err(), "{wrong}");
    }
    assert!(value("/credentials/username").is_ok());
}

#[test]
fn request_encodes_path_parts() {
    let rule = AccountRule {
        path: "/x/{/connection_config/id}/me?a=b".to_owned(),
        ..AccountRule::default()
    };
    let document = json!({ "connection_config": { "id": "a/../b c" } });
    let request = rule.request(&document).expect("filled");
    assert_eq!(request.path, "x/a%2F..%2Fb%20c/me");
    assert_eq!(request.query.as_deref(), Some("a=b"));
    assert_eq!(
        rule.request(&json!({})),
        Err("/connection_config/id".to_owned())
    );
}
