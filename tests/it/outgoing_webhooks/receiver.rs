//! The product's receiver, which verifies messages with a public library, and can be killed.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::test_app::free_port;

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) json: Value,
    /// The status of the response.
    pub(crate) status: StatusCode,
}

impl Received {
    pub(crate) fn message(&self) -> &str {
        self.json["type"].as_str().unwrap()
    }

    pub(crate) fn connection(&self) -> &str {
        self.json["data"]["id"].as_str().unwrap()
    }

    pub(crate) fn version(&self) -> i64 {
        self.json["data"]["version"].as_i64().unwrap()
    }

    pub(crate) fn signatures(&self) -> Vec<&str> {
        let header = self.headers["webhook-signature"].to_str().unwrap();
        header.split(' ').collect()
    }

    /// Returns the signature that the public library computes with this secret.
    pub(crate) fn signed_with(&self, secret: &str) -> String {
        let timestamp = self.headers["webhook-timestamp"].to_str().unwrap();
        let timestamp = timestamp.parse().unwrap();
        let library = Webhook::new(secret).unwrap();
        library
            .sign(&self.id, timestamp, self.body.as_bytes())
            .unwrap()
    }
}

type Answer = Box<dyn Fn(&Received) -> StatusCode + Send>;

struct Shared {
    received: Mutex<Vec<Received>>,
    secret: Mutex<Option<String>>,
    answer: Mutex<Answer>,
    /// The `Retry-After` of a 429 or 503.
    retry_after: Mutex<Option<String>>,
    /// The connections whose messages are in progress.
    busy: Mutex<HashSet<String>>,
    takes: Duration,
}

/// An endpoint of the product.
pub(crate) struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Receiver {
    /// Starts a receiver that accepts all messages.
    pub(crate) fn start() -> Self {
        Self::answering(Duration::ZERO)
    }

    /// Starts a receiver that takes this long for each message.
    pub(crate) fn answering(takes: Duration) -> Self {
        let shared = Shared {
            received: Mutex::default(),
            secret: Mutex::default(),
            answer: Mutex::new(Box::new(|_| StatusCode::NO_CONTENT)),
            retry_after: Mutex::default(),
            busy: Mutex::default(),
            takes,
        };
        let mut receiver = Self {
            port: free_port(),
            shared: Arc::new(shared),
            runtime: None,
        };
        receiver.restart();
        receiver
    }

    pub(crate) fn url(&self) -> Url {
        format!("http://127.0.0.1:{}/hook", self.port)
            .parse()
            .unwrap()
    }

    /// Listens again on the same port.
    pub(crate) fn restart(&mut self) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (shared, port) = (self.shared.clone(), self.port);
        let (listens, wait) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            listens.send(()).unwrap();
            let app = Router::new().route("/hook", post(take)).with_state(shared);
            axum::serve(listener, app).await.unwrap();
        });
        wait.recv().unwrap();
        self.runtime = Some(runtime);
    }

    /// Stops immediately, aborting requests in progress.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On another thread, because the shutdown blocks.
            let end = move || runtime.shutdown_timeout(Duration::from_secs(10));
            std::thread::spawn(end).join().unwrap();
        }
        self.shared.busy.lock().unwrap().clear();
    }

    /// Sets the secret that verifies signatures.
    pub(crate) fn verify_with(&self, secret: &SecretString) {
        *self.shared.secret.lock().unwrap() = Some(secret.expose_secret().to_owned());
    }

    /// Sets the response status of later messages.
    pub(crate) fn answers(&self, answer: impl Fn(&Received) -> StatusCode + Send + 'static) {
        *self.shared.answer.lock().unwrap() = Box::new(answer);
    }

    /// Sets the `Retry-After` of later 429 and 503 responses.
    pub(crate) fn postpones(&self, retry_after: &str) {
        *self.shared.retry_after.lock().unwrap() = Some(retry_after.to_owned());
    }

    /// Returns all received messages, in order.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Returns the messages that were answered with 2xx, by connection: the versions and types, in order.
    pub(crate) fn accepted(&self) -> BTreeMap<String, Vec<(i64, String)>> {
        let mut taken = BTreeMap::<_, Vec<_>>::new();
        for one in self.received() {
            if one.status.is_success() {
                let own = taken.entry(one.connection().to_owned()).or_default();
                own.push((one.version(), one.message().to_owned()));
            }
        }
        taken
    }

    /// Returns the number of accepted messages.
    pub(crate) fn count(&self) -> usize {
        self.accepted().values().map(Vec::len).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let mut received = Received {
        id: headers["webhook-id"].to_str().unwrap().to_owned(),
        json: serde_json::from_str(&body).unwrap(),
        headers,
        body,
        status: StatusCode::OK,
    };
    let secret = shared.secret.lock().unwrap().clone();
    let signed = secret.is_none_or(|secret| {
        let signature = received.signed_with(&secret);
        received.signatures().contains(&signature.as_str())
    });
    let connection = received.json["data"]["id"].to_string();
    let alone = shared.busy.lock().unwrap().insert(connection.clone());
    tokio::time::sleep(shared.takes).await;
    received.status = if !signed {
        StatusCode::UNAUTHORIZED
    } else if !alone {
        // Two concurrent messages of one connection.
        StatusCode::CONFLICT
    } else {
        (shared.answer.lock().unwrap())(&received)
    };
    let status = received.status;
    shared.received.lock().unwrap().push(received);
    shared.busy.lock().unwrap().remove(&connection);
    let location = [("location", "/elsewhere")];
    match status {
        StatusCode::FOUND => (status, location).into_response(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let pause = shared.retry_after.lock().unwrap().clone();
            (status, [("retry-after", pause.unwrap_or_default())]).into_response()
        }
        status => status.into_response(),
    }
}
