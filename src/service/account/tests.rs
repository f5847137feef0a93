use super::*;

#[test]
fn picture_is_an_encoded_https_url() {
    let picture = |url: &str| {
        let fields = AccountFields {
            id: Some("ada".to_owned()),
            avatar: Some(url.to_owned()),
            ..AccountFields::default()
        };
        account(fields)?.details.avatar_url
    };
    let encoded = picture(" https://a.example/\0\"<x>\n").expect("it is a URL");
    assert_eq!(encoded, "https://a.example/%00%22%3Cx%3E");
    assert_eq!(picture("http://a.example/"), None);
    assert_eq!(
        picture(&format!(
            "https://a.example/{}x",
            "\0".repeat(MAX_URL_LENGTH / 3)
        )),
        None
    );
}

#[test]
fn account_name_has_no_direction_of_its_own_and_ids_stay_apart() {
    let account = |id: &str, name: &str| {
        let fields = AccountFields {
            id: Some(id.to_owned()),
            name: Some(name.to_owned()),
            ..AccountFields::default()
        };
        account(fields).expect("the account is in the response")
    };
    let plain = account("ada", "Ada");
    let turned = account("a\u{202e}da", "\u{202e}Ada\u{2069}\n");
    assert_eq!(turned.name.as_deref(), Some("Ada "));
    assert_ne!(turned.id, plain.id);
    assert_eq!(turned.id, "a\\u{202e}da");
    assert_eq!(account("ada", "\u{202e}").name, None);
    assert_eq!(account(&"x".repeat(300), "n").id.len(), 255);
}

#[test]
fn picture_has_to_be_https() {
    let picture = |url: &str| {
        let fields = AccountFields {
            id: Some("1".to_owned()),
            avatar: Some(url.to_owned()),
            ..AccountFields::default()
        };
        account(fields).and_then(|account| account.details.avatar_url)
    };
    assert!(picture("https://img.example.com/a.png").is_some());
    for url in [
        "http://img.example.com/a.png",
        "javascript:alert(1)",
        "/a.png",
        "data:image/png;base64,AA",
    ] {
        assert_eq!(picture(url), None);
    }
}

#[test]
fn error_with_success_status_is_recognized() {
    for error in [
        json!({ "ok": false, "user": { "id": 1 } }),
        json!({ "success": false }),
        json!({ "id": "unauthorized", "error": "not allowed" }),
        json!({ "data": null, "errors": [{ "message": "rate limited" }] }),
        json!({ "status": "error", "code": "INVALID_TOKEN" }),
        json!({ "error": { "code": "access_token_invalid" } }),
    ] {
        assert!(is_error(&error), "{error}");
    }
    for answer in [
        json!({ "ok": true, "error": null, "errors": [] }),
        json!({ "data": {}, "error": { "code": "ok", "message": "" } }),
        json!({ "status": "active", "error": false }),
        json!([{ "id": 1 }]),
        json!("text"),
    ] {
        assert!(!is_error(&answer), "{answer}");
    }
}

#[test]
fn claims_of_broken_id_token_are_none() {
    for token in ["", "a.b", "a.!!.c", "a.e30", "e30"] {
        assert!(
            claims(token).is_none_or(|claims| claims == json!({})),
            "{token}"
        );
    }
}
