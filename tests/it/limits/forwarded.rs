//! The entry of `X-Forwarded-For` that identifies a client.

use super::*;

#[tokio::test]
async fn forwarded_address_ignores_odd_bytes_before_it() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "1"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let first_of = async |values: &[&[u8]]| {
        let url = format!("{}/api/v1/connectors/callback", app.url);
        let request = values.iter().fold(app.client.get(url), |request, value| {
            request.header("x-forwarded-for", *value)
        });
        Answer::to(request).await.status == 400
    };
    // The address of the connection, which all clients of the proxy share, is used up.
    assert!(first_of(&[]).await);
    assert!(!first_of(&[]).await);
    assert!(first_of(&[b"\xff, 192.0.2.1"]).await);
    assert!(!first_of(&[b"caf\xe9", b"192.0.2.1"]).await);
    assert!(first_of(&[b"\xed\xa0\x80", b"10.0.0.1, 192.0.2.2"]).await);
    // The trusted entry itself is no address.
    assert!(!first_of(&[b"192.0.2.3, \xff"]).await);
}
