//! A receiver of webhooks, which compares them with recordings.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::scenario::{SIGNING_KEY, Scenario};

/// A received webhook.
pub(crate) struct ReceivedWebhook {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Starts a server that accepts webhooks on any path. Returns its address and the received webhooks.
pub(crate) async fn receiver() -> (String, mpsc::UnboundedReceiver<ReceivedWebhook>) {
    let (sender, hooks) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(receive).with_state(sender);
    tokio::spawn(async { axum::serve(listener, router).await });
    (format!("http://localhost:{port}"), hooks)
}

async fn receive(
    State(sender): State<mpsc::UnboundedSender<ReceivedWebhook>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) {
    let hook = ReceivedWebhook {
        path: uri.path().to_owned(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    // A finished scenario reads no more webhooks.
    let _ = sender.send(hook);
}

impl Scenario {
    pub(crate) async fn next_hook(&mut self) -> ReceivedWebhook {
        let hook = timeout(Duration::from_secs(20), self.hooks.recv()).await;
        hook.expect("a webhook arrives within seconds").unwrap()
    }

    /// Asserts that the next webhook equals the recorded one, byte for byte except for ids.
    pub(crate) async fn replay_hook(&mut self, name: &str) {
        let recording = self.take(name);
        let hook = self.next_hook().await;
        self.compare_hook(name, &recording["webhooks"][0], &hook);
    }

    pub(crate) fn compare_hook(&mut self, name: &str, recorded: &Value, hook: &ReceivedWebhook) {
        assert_eq!(hook.path, recorded["path"].as_str().unwrap(), "{name}");
        let was: Value = serde_json::from_str(recorded["body_raw"].as_str().unwrap()).unwrap();
        let is: Value = serde_json::from_str(&hook.body).unwrap();
        if was["success"] == false && was["operation"] == "creation" {
            // A failed attempt has an id of its own, unless it was a reconnect.
            let id = was["connectionId"].as_str().unwrap();
            if self.substitutions.apply(id) == id {
                self.substitutions
                    .learn(id, is["connectionId"].as_str().unwrap());
            }
        }
        let expected = self
            .substitutions
            .apply(recorded["body_raw"].as_str().unwrap());
        assert_eq!(hook.body, expected, "{name}");
        for header in recorded["headers"].as_object().unwrap().keys() {
            // HTTP/1.1 keeps connections alive by default.
            assert!(
                header == "connection" || hook.headers.contains_key(header),
                "{name}: {header}"
            );
        }
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SIGNING_KEY.as_bytes());
        let hmac = hex::decode(&hook.headers["x-nango-hmac-sha256"]).unwrap();
        aws_lc_rs::hmac::verify(&key, hook.body.as_bytes(), &hmac).unwrap();
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            format!("{SIGNING_KEY}{}", hook.body).as_bytes(),
        );
        assert_eq!(
            hook.headers["x-nango-signature"],
            hex::encode(digest),
            "{name}"
        );
    }
}
