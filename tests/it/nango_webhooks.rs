//! Each recorded webhook is verified and parsed correctly.

use patchbay::nango::webhook::{self, AuthEvent, Event, Operation, SignatureError, SigningKeys};
use serde_json::Value;

use crate::nango_recordings::{recordings, strings};

/// Returns every recorded webhook with its signing key.
fn webhooks() -> Vec<(String, Value, String)> {
    let mut found = Vec::new();
    for (name, recording) in recordings() {
        for list in ["webhooks", "after_retry"] {
            for webhook in recording[list].as_array().into_iter().flatten() {
                let keys = [
                    &recording["signing_key"],
                    &webhook["signature_check"]["signing_key"],
                ];
                let key = keys.iter().find_map(|key| key.as_str()).unwrap();
                found.push((name.clone(), webhook.clone(), key.to_owned()));
            }
        }
    }
    assert!(found.len() >= 13, "only {} webhooks found", found.len());
    found
}

#[test]
fn recorded_webhooks_verify_unless_modified() {
    for (name, webhook, key) in webhooks() {
        let keys = SigningKeys::new(&["the one before it was rotated".into(), key.into()]).unwrap();
        let mut body = webhook["body_raw"].as_str().unwrap().as_bytes().to_vec();
        let signature = webhook["headers"][webhook::SIGNATURE_HEADER].as_str();
        assert_eq!(keys.verify(&body, signature), Ok(()), "{name}");

        let deprecated = webhook["headers"]["x-nango-signature"].as_str();
        let refused = Err(SignatureError::Mismatch);
        assert_eq!(keys.verify(&body, deprecated), refused, "{name}");
        let others = SigningKeys::new(&["another key".into()]).unwrap();
        assert_eq!(others.verify(&body, signature), refused, "{name}");
        let none = SigningKeys::new(&[]).unwrap();
        assert_eq!(none.verify(&body, signature), refused, "{name}");
        body[10] ^= 1;
        assert_eq!(keys.verify(&body, signature), refused, "{name}");
    }
}

#[test]
fn malformed_signature_is_rejected() {
    let keys = SigningKeys::new(&["a key".into()]).unwrap();
    assert_eq!(keys.verify(b"{}", None), Err(SignatureError::Missing));
    let odd = [
        "",
        "abc",
        "zz",
        &"0".repeat(62),
        &"0".repeat(66),
        &"g".repeat(64),
    ];
    for signature in odd {
        let refused = Err(SignatureError::Malformed);
        assert_eq!(keys.verify(b"{}", Some(signature)), refused, "{signature}");
    }
    assert!(SigningKeys::new(&[" ".into()]).is_err());
}

#[test]
fn recorded_webhooks_are_parsed() {
    for (name, webhook, _) in webhooks() {
        let raw = webhook["body_raw"].as_str().unwrap();
        let body: Value = serde_json::from_str(raw).unwrap();
        let Event::Auth(event) = webhook::parse(raw.as_bytes()).unwrap() else {
            panic!("{name} is an auth event");
        };
        let AuthEvent {
            operation,
            success,
            connection_id,
            provider_config_key,
            tags,
            error,
        } = event;
        let expected = match body["operation"].as_str().unwrap() {
            "creation" => Operation::Creation,
            "override" => Operation::Override,
            "refresh" => Operation::Refresh,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(operation, expected, "{name}");
        assert_eq!(success, body["success"], "{name}");
        assert_eq!(connection_id, body["connectionId"], "{name}");
        assert_eq!(provider_config_key, body["providerConfigKey"], "{name}");
        assert_eq!(tags, strings(&body["tags"]), "{name}");
        assert_eq!(error.is_none(), success, "{name}");
        if let Some(error) = error {
            assert_eq!(error.kind, body["error"]["type"], "{name}");
            assert_eq!(error.description, body["error"]["description"], "{name}");
        }
    }
}

#[test]
fn unknown_webhook_types_and_fields_are_tolerated() {
    let sync = webhook::parse(br#"{"type":"sync","model":"Contact"}"#).unwrap();
    assert_eq!(sync, Event::Other("sync".to_owned()));
    let rename = br#"{"type":"auth","operation":"rename","success":true,"connectionId":"c",
        "providerConfigKey":"github","novelty":{"a":1}}"#;
    let Event::Auth(event) = webhook::parse(rename).unwrap() else {
        panic!("an auth event");
    };
    assert_eq!(event.operation, Operation::Other("rename".to_owned()));
    let deletion = br#"{"type":"auth","operation":"deletion","success":true,"connectionId":"c",
        "providerConfigKey":"github","tags":{"end_user_id":"ada","count":1}}"#;
    let Event::Auth(event) = webhook::parse(deletion).unwrap() else {
        panic!("an auth event");
    };
    assert_eq!(event.operation, Operation::Deletion);
    assert_eq!(
        event.tags,
        [("end_user_id".to_owned(), "ada".to_owned())].into()
    );
    for broken in ["", "[]", "{}", r#"{"type":"auth"}"#, r#"{"type":1}"#] {
        assert!(webhook::parse(broken.as_bytes()).is_err(), "{broken}");
    }
}
