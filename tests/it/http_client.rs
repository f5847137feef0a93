//! Outgoing HTTP calls: untrusted certificates are rejected, and redirects are not followed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::serve::Listener;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patchbay::auth::{Authenticator, Config, Error};
use patchbay::clock::Clock;
use patchbay::encryption::Encryption;
use patchbay::nango::{self, Nango};
use patchbay::webhooks::{PostError, Webhooks};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use url::Url;

use crate::test_database;
use crate::test_server::serve;

/// A self-signed certificate for localhost and 127.0.0.1, and its key.
const SELF_SIGNED: &[u8] = include_bytes!("../data/self-signed.pem");

/// A server that accepts TLS connections.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that rejects the certificate fails the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Starts a server with that certificate. Returns its URL and the number of requests.
async fn self_signed() -> (Url, Arc<AtomicUsize>) {
    let certificate = CertificateDer::from_pem_slice(SELF_SIGNED).unwrap();
    let key = PrivateKeyDer::from_pem_slice(SELF_SIGNED).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let tls = Tls {
        listener,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let (router, count) = counting_server(StatusCode::OK, None);
    tokio::spawn(async move { axum::serve(tls, router).await });
    (url.parse().unwrap(), count)
}

/// Returns a server that always sends the same response, and the number of requests.
fn counting_server(status: StatusCode, location: Option<String>) -> (Router, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let router = Router::new().fallback(move || async move {
        counting.fetch_add(1, Ordering::SeqCst);
        let location = location.map(|to| [(LOCATION, to)]);
        (status, location, r#"{"keys":[],"data":[]}"#)
    });
    (router, count)
}

/// Fetches users' keys, fetches Nango's integrations, and sends a webhook to this URL. Returns the results.
async fn request_count(url: &Url) -> (Error, nango::Error, Result<u16, PostError>) {
    let auth = Config {
        jwks_url: Some(url.clone()),
        ..Config::default()
    };
    let auth = Authenticator::new(auth, Clock::System).unwrap();
    let key = EncodingKey::from_secret(b"not looked at");
    let header = Header::new(Algorithm::HS256);
    let token = jsonwebtoken::encode(&header, &serde_json::json!({}), &key).unwrap();
    let (_, rest) = token.split_once('.').unwrap();
    // {"alg":"ES256"}: a token whose verification fetches the keys.
    let token = format!("eyJhbGciOiJFUzI1NiJ9.{rest}");
    let keys = auth.authenticate(&token).await.unwrap_err();

    let nango = Nango::new(nango::Config {
        base_url: url.clone(),
        public_url: url.clone(),
        secret_key: "0d5f4d0e-4f9c-4b2a-8f0e-2f6d5c1b7a90".into(),
        timeout: Duration::from_secs(10),
    });
    let integrations = nango.unwrap().integrations().await.unwrap_err();

    let database = test_database::database().await;
    let pool = test_database::pool(database.url(), 1).await.unwrap();
    pool.migrate().await.unwrap();
    let networks = "127.0.0.0/8".parse().unwrap();
    let webhooks = Webhooks::new(pool, Clock::System, &networks, Encryption::default()).unwrap();
    let (endpoint, _) = webhooks.add(url, &[], false).await.unwrap();
    let sent = webhooks.test(&endpoint).await.unwrap();
    (keys, integrations, sent)
}

#[tokio::test]
async fn self_signed_certificate_is_rejected() {
    let (url, count) = self_signed().await;
    let (keys, integrations, sent) = request_count(&url).await;
    assert_eq!(keys, Error::KeysUnavailable);
    for reported in [integrations.to_string(), sent.unwrap_err().to_string()] {
        assert!(reported.contains("certificate"), "{reported}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // A client without the checks gets a response.
    let careless = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let answer = careless.get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn https_url_of_http_server_is_explained() {
    let (router, _) = counting_server(StatusCode::OK, None);
    let mut url = serve(router).await;
    url.set_scheme("https").unwrap();
    let (keys, integrations, sent) = request_count(&url).await;
    assert_eq!(keys, Error::KeysUnavailable);
    for reported in [integrations.to_string(), sent.unwrap_err().to_string()] {
        assert!(reported.contains("does not speak TLS"), "{reported}");
        assert!(reported.contains("try http://"), "{reported}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(status).unwrap();
        let (elsewhere, followed) = counting_server(StatusCode::OK, None);
        let elsewhere = serve(elsewhere).await;
        let (redirecting, count) = counting_server(status, Some(elsewhere.to_string()));
        let (keys, integrations, sent) = request_count(&serve(redirecting).await).await;
        assert_eq!(keys, Error::KeysUnavailable);
        assert!(
            matches!(integrations, nango::Error::Unexpected { .. }),
            "{integrations}"
        );
        // The webhook counts as failed.
        assert_eq!(sent, Ok(status.as_u16()));
        assert_eq!(count.load(Ordering::SeqCst), 3);
        assert_eq!(followed.load(Ordering::SeqCst), 0);
    }
}
