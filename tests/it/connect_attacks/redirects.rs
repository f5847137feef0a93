//! The redirect of a return goes to Nango for any query.

use reqwest::header::HeaderMap;
use url::Url;
use uuid::Uuid;

use crate::test_app::TestApp;

/// Queries of an attacker that could change the address, a header or a page.
const ODD_QUERIES: [&str; 24] = [
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example/",
    "https:evil.example",
    "@evil.example",
    ".evil.example",
    ":80@evil.example/",
    "#@evil.example/",
    "#/../../evil",
    "../../../evil",
    "/..//evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "%0d%0aLocation:%20https://evil.example",
    "%0d%0a%0d%0a<script>alert(1)</script>",
    "%00",
    "%ff%fe",
    "%E2%80%AE",
    "</script><script>alert(1)</script>",
    "\"><img/src=x>",
    "?state=2&redirect_uri=https://evil.example",
    "&state=2",
    ";state=2",
];

/// Sends a raw request head, which an HTTP client would correct or reject. Returns the status and headers.
async fn raw(app: &TestApp, target: &str, more: &str) -> (u16, HeaderMap) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = app.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head =
        format!("GET {target} HTTP/1.1\r\nhost: {address}\r\n{more}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (
            name.parse::<reqwest::header::HeaderName>().unwrap(),
            value.parse().unwrap(),
        )
    });
    (status, headers.collect())
}

#[tokio::test]
async fn callback_redirects_only_to_nango() {
    let app = TestApp::new().await;
    let nango = format!("http://{}", app.sandbox.address());
    let mut cases = 0;
    for odd in ODD_QUERIES {
        for query in [
            format!("state={odd}"),
            format!("state=1&code={odd}"),
            format!("{odd}&state=1"),
            format!("state=1&next={odd}&connection_id={odd}"),
        ] {
            let target = format!("/api/v1/connectors/callback?{query}");
            for more in [
                "",
                "x-forwarded-host: evil.example\r\n",
                "referer: https://evil.example/\r\n",
            ] {
                let (status, headers) = raw(&app, &target, more).await;
                cases += 1;
                if status == 400 {
                    // A request without a query.
                    assert!(headers.get("location").is_none(), "{query}");
                    continue;
                }
                assert_eq!(status, 308, "{query}");
                assert_eq!(headers.get_all("location").iter().count(), 1, "{query}");
                let location = headers["location"].to_str().unwrap();
                assert_eq!(
                    location.split(['?', '#']).next(),
                    Some(&*format!("{nango}/oauth/callback")),
                    "{query}"
                );
                let url: Url = location.parse().unwrap();
                assert_eq!(url.origin().ascii_serialization(), nango, "{query}");
                assert_eq!(url.path(), "/oauth/callback", "{query}");
                assert_eq!(headers["referrer-policy"], "no-referrer");
                assert_eq!(headers["cache-control"], "no-store");
            }
        }
    }
    println!("returns with odd queries: {cases} requests");
    assert!(cases >= ODD_QUERIES.len() * 12);
}

#[tokio::test]
async fn pages_have_no_open_redirect() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    let mut cases = 0;
    for odd in ODD_QUERIES {
        for target in [
            format!("/{odd}"),
            format!("//{odd}"),
            format!("/console/{odd}"),
            format!("/console{odd}"),
            format!("/docs/{odd}"),
            format!("/docs{odd}"),
            format!("/?next={odd}"),
            format!("/console?next={odd}"),
        ] {
            let (_, headers) = raw(
                &app,
                &target,
                "accept: text/html\r\nx-forwarded-host: evil.example\r\n",
            )
            .await;
            cases += 1;
            let Some(location) = headers.get("location") else {
                continue;
            };
            let location = location.to_str().unwrap();
            let base: Url = app.url.parse().unwrap();
            let led = base.join(location).unwrap();
            assert_eq!(led.origin(), base.origin(), "{target} leads to {location}");
        }
    }
    println!("odd addresses of pages: {cases} requests");
    assert!(cases >= ODD_QUERIES.len() * 8);
}

#[tokio::test]
async fn callback_page_ignores_origins_from_request() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    for id in [
        started["connection_id"].as_str().unwrap(),
        &Uuid::now_v7().to_string(),
    ] {
        for origin in ["https://evil.example", "null", "*"] {
            let url = format!(
                "{}/api/v1/connectors/callback?connection_id={id}&origin={origin}&origins={origin}&target={origin}",
                app.url
            );
            let request = app
                .client
                .get(url)
                .header("accept", "text/html")
                .header("origin", origin);
            let answer = request
                .header("referer", format!("{origin}/"))
                .send()
                .await
                .unwrap();
            let page = answer.text().await.unwrap();
            let data = page
                .split_once(r#"id="message">"#)
                .unwrap()
                .1
                .split_once("</script>")
                .unwrap()
                .0;
            let reported: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(
                reported["origins"],
                serde_json::json!([crate::test_app::ORIGIN])
            );
            assert!(!page.contains("evil"), "{page}");
        }
    }
}
