//! User ids identify the same user everywhere, and ids that HTTP or a client could change are rejected.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use reqwest::header::HeaderValue;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_app::{JWT_SECRET, TestApp, User};

const KEY: &str = "pbk_identity_0123456789abcdef0123456789abcdef";

/// Ids that differ little, or that are difficult for an encoding.
const IDS: [&str; 16] = [
    "ada",
    "Ada",
    "adèle",
    "adÃ¨le",
    "ade\u{300}le",
    "ad\u{430}",
    "auth0|65f0",
    "a/b",
    "a%2Fb",
    "a+b c",
    "ada, eve",
    "ada;eve=1",
    "\"ada\" \\ 100%",
    "日本語",
    "a\u{a0}b",
    "...",
];

/// Ids that are rejected everywhere.
const REFUSED: [&str; 14] = [
    " ada",
    "ada ",
    "\u{a0}ada",
    "ada\u{2003}",
    "ada\u{3000}",
    "\u{feff}ada",
    "ada\u{feff}",
    "\tada",
    "ad\u{0}a",
    "ad\u{7f}a",
    "ad\u{85}a",
    "ada\r\n",
    ".",
    "..",
];

async fn app() -> TestApp {
    let keys = format!("identity={KEY}");
    TestApp::with(&[("SERVICE_API_KEYS", &keys), ("AUTH_USER_CLAIM", "user")]).await
}

/// Encodes an id like `encodeURIComponent` and Python's `quote`, with digits of either case.
fn encoded(id: &str, upper: bool) -> String {
    let byte = |byte: u8| match byte {
        plain if plain.is_ascii_alphanumeric() => char::from(plain).to_string(),
        other if upper => format!("%{other:02X}"),
        other => format!("%{other:02x}"),
    };
    id.bytes().map(byte).collect()
}

/// Returns the caller with this `user` claim.
fn caller<'a>(app: &'a TestApp, claim: &Value) -> User<'a> {
    let exp = app.clock.now().timestamp() + 3600;
    let claims = json!({ "sub": "somebody", "user": claim, "exp": exp });
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    User::with_token(
        app,
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap(),
    )
}

/// Creates a request of a service, whose user is named by headers only.
fn service(app: &TestApp, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}/api/v1{path}", app.url);
    app.client.request(method, url).bearer_auth(KEY)
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap_or_default())
}

async fn users(app: &TestApp) -> Vec<String> {
    let query = "select user_id from user_connector_connection order by user_id collate \"C\", id";
    let mut sql = app.sql().await;
    sqlx::query_scalar(query).fetch_all(&mut sql).await.unwrap()
}

/// Returns the ids in a list of connections, sorted.
fn ids(list: &Value) -> Vec<String> {
    let connections = list["connections"].as_array().unwrap();
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = connections.iter().map(id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn every_way_to_name_a_user_stores_the_same_id() {
    let app = app().await;
    for id in IDS {
        // By a token. Nango stores the grant with the user's tag.
        let user = caller(&app, &json!(id));
        user.connected("gmail").await;
        // By the header, for reads and writes.
        for (connector, upper) in [("github", true), ("notion", false)] {
            let request = service(
                &app,
                Method::POST,
                &format!("/connectors/{connector}/connect"),
            );
            let request = request.header("patchbay-user", encoded(id, upper));
            let (status, started) = answer(request).await;
            assert_eq!(status, StatusCode::OK, "{id:?}: {started}");
        }
        let request = service(&app, Method::GET, "/connectors/connections");
        let (_, list) = answer(request.header("patchbay-user", encoded(id, true))).await;
        let own = ids(&user.get("/connections").await);
        assert_eq!((own.len(), &ids(&list)), (3, &own), "{id:?}");
        // By the header, for a provider's token.
        let request = service(&app, Method::POST, "/connectors/gmail/token");
        let (status, token) = answer(request.header("patchbay-user", encoded(id, false))).await;
        assert_eq!(status, StatusCode::OK, "{id:?}: {token}");
    }
    let mut expected: Vec<&str> = IDS.iter().flat_map(|id| [*id; 3]).collect();
    expected.sort_unstable();
    assert_eq!(users(&app).await, expected);
    let (_, body) = app.nango(Method::GET, "/connections").await;
    let tag = |one: &Value| one["tags"]["end_user_id"].as_str().unwrap().to_owned();
    let mut tags: Vec<String> = body["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(tag)
        .collect();
    tags.sort();
    expected.dedup();
    assert_eq!(tags, expected);
    // By the path: erasing a user affects no other user, in Patchbay and at Nango.
    for (n, id) in IDS.iter().enumerate() {
        let path = format!("/users/{}/connections", encoded(id, n % 2 == 0));
        let (status, erased) = answer(service(&app, Method::DELETE, &path)).await;
        assert_eq!(
            (status, &erased["connections"]),
            (StatusCode::OK, &json!(3)),
            "{id:?}"
        );
        assert!(!users(&app).await.iter().any(|user| user == id));
        assert_eq!(users(&app).await.len(), 3 * (IDS.len() - n - 1), "{id:?}");
    }
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn numeric_claim_and_its_decimal_text_are_the_same_user() {
    let app = app().await;
    caller(&app, &json!(7)).connect("gmail").await;
    let list = caller(&app, &json!("7")).get("/connections").await;
    assert_eq!(list["total_count"], 1);
    assert_eq!(users(&app).await, ["7"]);
}

#[tokio::test]
async fn refused_ids_are_refused_in_every_way() {
    let app = app().await;
    let longer = "x".repeat(256);
    for id in REFUSED.into_iter().chain([longer.as_str(), ""]) {
        let user = caller(&app, &json!(id));
        let (status, problem) = user.call(Method::POST, "/gmail/connect", None).await;
        let reported = (status.as_u16(), &problem["code"]);
        assert_eq!(reported, (401, &json!("unauthenticated")), "{id:?}");
        for (method, path) in [
            (Method::POST, "/connectors/gmail/connect"),
            (Method::GET, "/connectors/connections"),
            (Method::GET, "/connectors/connections/events"),
            (Method::POST, "/connectors/gmail/token"),
        ] {
            let request = service(&app, method, path);
            let request = request.header("patchbay-user", encoded(id, true));
            let (status, problem) = answer(request).await;
            let reported = (status.as_u16(), &problem["code"]);
            assert_eq!(reported, (400, &json!("user_required")), "{id:?} {path}");
        }
        // Clients remove `.` and `..` from a path, and an empty segment names no user.
        if !matches!(id, "" | "." | "..") {
            let path = format!("/users/{}/connections", encoded(id, true));
            let (status, problem) = answer(service(&app, Method::DELETE, &path)).await;
            let reported = (status.as_u16(), &problem["code"]);
            assert_eq!(reported, (400, &json!("invalid_request")), "{id:?}");
        }
    }
    assert_eq!(users(&app).await, [""; 0]);
    assert!(app.nango_calls("POST", "/connect/sessions").await == 0);
}

/// Unencoded bytes are ambiguous and could name another user.
#[tokio::test]
async fn user_header_must_be_percent_encoded() {
    let app = app().await;
    caller(&app, &json!("adèle")).connect("gmail").await;
    let values: [&[u8]; 15] = [
        "adèle".as_bytes(),
        b"ad\xe8le",
        "adÃ¨le".as_bytes(),
        b"ada eve",
        b"ada\teve",
        b"ada, eve",
        b"ada,eve",
        b"%",
        b"ada%",
        b"ada%4",
        b"ada%zz",
        b"%c3",
        b"%E8",
        b"%ff%fe",
        b"ad%u00e8le",
    ];
    for value in values {
        let request = service(&app, Method::GET, "/connectors/connections");
        let request = request.header("patchbay-user", HeaderValue::from_bytes(value).unwrap());
        let (status, problem) = answer(request).await;
        let reported = (status.as_u16(), &problem["code"]);
        assert_eq!(
            reported,
            (400, &json!("user_required")),
            "{:?}",
            String::from_utf8_lossy(value)
        );
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("percent-encoded")
        );
    }
    for plain in [
        "auth0|7",
        "ada@example.com",
        "a:b/c;d=e\"f'(g)*!~+h\\<i>{j}[k]^`&?#$",
    ] {
        let request = service(&app, Method::GET, "/connectors/connections");
        let (status, list) = answer(request.header("patchbay-user", plain)).await;
        assert_eq!(
            (status, &list["total_count"]),
            (StatusCode::OK, &json!(0)),
            "{plain}"
        );
    }
    let request = service(&app, Method::GET, "/connectors/connections");
    let (_, list) = answer(request.header("patchbay-user", "ad%C3%a8le")).await;
    assert_eq!(list["total_count"], 1);
}

/// A header, two values, and the method and path of a request with both. A user's request has a token.
const REPEATED: [(&str, [&str; 2], &str, &str); 10] = [
    (
        "authorization",
        ["ada", "eve"],
        "POST",
        "/connectors/gmail/connect",
    ),
    (
        "authorization",
        ["ada", "ada"],
        "GET",
        "/connectors/connections",
    ),
    (
        "authorization",
        ["ada", "eve"],
        "GET",
        "/connectors/callback?state=x",
    ),
    ("authorization", ["ada", "eve"], "GET", "/../../metrics"),
    (
        "patchbay-user",
        ["ada", "eve"],
        "POST",
        "/connectors/gmail/connect",
    ),
    (
        "patchbay-user",
        ["ada", "ada"],
        "POST",
        "/connectors/gmail/token",
    ),
    (
        "idempotency-key",
        ["one", "two"],
        "POST",
        "/connectors/gmail/connect",
    ),
    (
        "last-event-id",
        ["1", "2"],
        "GET",
        "/connectors/connections/events",
    ),
    (
        "content-type",
        ["application/json", "text/plain"],
        "POST",
        "/connectors/gmail/connect",
    ),
    (
        "x-nango-hmac-sha256",
        ["00", "11"],
        "POST",
        "/webhooks/nango",
    ),
];

/// Of two headers, a proxy in front may have read the other one.
#[tokio::test]
async fn repeated_headers_are_refused() {
    let app = app().await;
    let before = app.nango_calls("POST", "").await;
    for (name, values, method, path) in REPEATED {
        let url = format!("{}/api/v1{path}", app.url);
        let mut request = app.client.request(method.parse().unwrap(), url);
        if name != "authorization" {
            request = request.bearer_auth(KEY);
        }
        for value in values {
            request = match name {
                "authorization" => request.bearer_auth(caller(&app, &json!(value)).token),
                _ => request.header(name, value),
            };
        }
        let (status, problem) = answer(request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name} {path}");
        assert_eq!(problem["code"], "invalid_request", "{name} {path}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(name), "{detail}");
    }
    assert_eq!(users(&app).await, [""; 0]);
    assert_eq!(app.nango_calls("POST", "").await, before);
}

/// Identity providers put a user's groups into tokens: 200 groups take 12 KB.
#[tokio::test]
async fn token_of_12_kb_is_accepted_over_http_1_and_2() {
    let app = app().await;
    let groups: Vec<String> = (0..230).map(|_| Uuid::new_v4().to_string()).collect();
    let claims =
        json!({ "user": "ada", "groups": groups, "exp": app.clock.now().timestamp() + 3600 });
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    assert!((12_000..14_000).contains(&token.len()), "{}", token.len());
    let http_2 = Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [&app.client, &http_2] {
        let list = client.get(format!("{}/api/v1/connectors/connections", app.url));
        let answer = list.bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let stream = client.get(format!("{}/api/v1/connectors/connections/events", app.url));
        let mut stream = stream.bearer_auth(&token).send().await.unwrap();
        let first = tokio::time::timeout(Duration::from_secs(15), stream.chunk()).await;
        let first = first.unwrap().unwrap().unwrap();
        assert!(
            first.windows(12).any(|text| text == b"event: ready"),
            "{first:?}"
        );
    }
}
