//! Nango's proxy: a call to a provider's API, to which Nango adds the credentials.

mod headers;
mod refusal;
mod target;

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use reqwest::{Body, Method, StatusCode};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::priority::Scope;
use super::{Error, Nango};
use crate::net::http_client;
use crate::net::http_client::BodyError;

pub use target::{ProxyTarget, UnsafePath};

/// How long a call may take as a whole, its answer's body included.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long the provider has to start its answer, in units of `NANGO_TIMEOUT_SECONDS`. Shorter than a request may take.
const ANSWER_TIMEOUTS: u32 = 4;

/// The type of a body that Nango passes on byte for byte. Nango parses and rewrites JSON and forms.
const OPAQUE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The type of the body at the provider.
const PROVIDER_CONTENT_TYPE: HeaderName = HeaderName::from_static("nango-proxy-content-type");

/// The host of a call that is not for the provider's own address.
const BASE_URL_OVERRIDE: HeaderName = HeaderName::from_static("base-url-override");

/// The longest JSON answer that is read here, in bytes.
const MAX_JSON_BYTES: usize = 512 * 1024;

/// A call to a provider's API.
#[derive(Debug)]
pub struct ProxyCall {
    method: Method,
    target: ProxyTarget,
    headers: HeaderMap,
    body: Option<Body>,
}

/// An answer to a proxied call.
#[derive(Debug)]
pub struct ProxyAnswer {
    /// The provider's status; Nango turns most successes into 200.
    pub status: StatusCode,
    /// The provider's headers, as far as they may pass.
    pub headers: HeaderMap,
    /// The provider's body, as it arrives.
    pub body: Body,
}

/// Why a call cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCall {
    /// The path may lead elsewhere than to the provider.
    #[error(transparent)]
    Path(#[from] UnsafePath),
    /// Nango builds a new body for a multipart type without a boundary, out of the bytes of this one.
    #[error("the content type multipart/form-data needs the parameter `boundary`")]
    MultipartWithoutBoundary,
}

impl ProxyCall {
    /// A call of this method without a body to a provider's path and query, both encoded as the caller sent them, with the
    /// caller's headers.
    ///
    /// # Errors
    /// For a path or a type of body that must not reach Nango.
    pub fn new(
        method: Method,
        (path, query): (&str, Option<&str>),
        headers: &HeaderMap,
    ) -> Result<Self, InvalidCall> {
        let target = ProxyTarget::new(path, query)?;
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type.is_some_and(|kind| {
            kind.trim_ascii()
                .eq_ignore_ascii_case(b"multipart/form-data")
        }) {
            return Err(InvalidCall::MultipartWithoutBoundary);
        }
        Ok(Self {
            method,
            target,
            headers: headers::request_headers(headers),
            body: None,
        })
    }

    /// Whether Nango passes on a body with the call's method.
    #[must_use]
    pub fn may_have_body(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// The same call to another host of the provider's; `None` if the address cannot be sent.
    #[must_use]
    pub fn with_base_url(mut self, base_url: &str) -> Option<Self> {
        let value = HeaderValue::from_str(base_url).ok()?;
        self.headers.insert(BASE_URL_OVERRIDE, value);
        Some(self)
    }

    /// The same call with this body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        // Without a type, Nango's HTTP client would call it a form.
        self.headers.entry(PROVIDER_CONTENT_TYPE).or_insert(OPAQUE);
        self.body = Some(body);
        self
    }
}

impl Nango {
    /// Passes a call on, and returns the provider's answer. Nothing is retried.
    ///
    /// # Errors
    /// If Nango cannot be reached, the answer does not start in time, or Nango itself refuses the call:
    /// [`Error::NotFound`] and [`Error::InvalidCredentials`] say why it has no credentials.
    pub async fn proxy(
        &self,
        connection_id: &str,
        integration: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer, Error> {
        let slot = self.0.budget.admit(&Scope::current()).await?;
        let timer = self.0.calls.begin("proxy");
        let answer = self.proxied(connection_id, integration, call).await;
        timer.end(answer.as_ref().err());
        if let Err(Error::RateLimited { retry_after }) = &answer {
            self.0.budget.note_refusal(*retry_after);
        }
        // The headers may be the provider's: the call is counted here.
        drop(slot);
        answer
    }

    /// Passes a call on, and reads the provider's answer as JSON; `None` if it is not JSON, or too large.
    ///
    /// # Errors
    /// As [`Nango::proxy`], and if the answer breaks off.
    pub async fn proxy_json(
        &self,
        connection_id: &str,
        integration: &str,
        call: ProxyCall,
    ) -> Result<(StatusCode, Option<Value>), Error> {
        let answer = self.proxy(connection_id, integration, call).await?;
        let status = answer.status;
        let response = axum::http::Response::new(answer.body).into();
        match http_client::read_body(response, MAX_JSON_BYTES).await {
            Ok(body) => Ok((status, serde_json::from_slice(&body).ok())),
            Err(BodyError::TooLong { .. }) => Ok((status, None)),
            Err(error) => Err(Error::from_body(status, error)),
        }
    }

    /// Where Nango takes a call to this path and query of a provider.
    ///
    /// # Panics
    /// Never: a target consists of characters that every URL may have.
    #[must_use]
    pub fn proxy_url(&self, target: &ProxyTarget) -> Url {
        let url = format!("{}/{}", self.url(&["proxy"]), target.as_str());
        Url::parse(&url).expect("encoded segments below a URL are a URL")
    }

    async fn proxied(
        &self,
        connection_id: &str,
        integration: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer, Error> {
        let id = HeaderValue::from_str(connection_id).map_err(|_not_an_id| Error::NotFound)?;
        let key =
            HeaderValue::from_str(integration).map_err(|_not_a_key| Error::UnknownIntegration)?;
        let mut request = self
            .0
            .client
            .request(call.method, self.proxy_url(&call.target))
            .timeout(TIMEOUT)
            .headers(call.headers)
            .header(AUTHORIZATION, &self.0.authorization)
            // Nango decompresses what the provider sends; its own answers are to be read here.
            .header(ACCEPT_ENCODING, "identity")
            .header("connection-id", id)
            .header("provider-config-key", key);
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, OPAQUE).body(body);
        }
        let limit = ANSWER_TIMEOUTS * self.0.timeout;
        let answer = timeout(limit, request.send()).await;
        let answer = answer.map_err(|_elapsed| Error::Timeout)??;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = if refusal::may_be_nangos(status, &headers) {
            let body = http_client::read_body(answer, refusal::MAX_BODY)
                .await
                .map_err(|error| Error::from_body(status, error))?;
            if let Some(error) = refusal::read(status, &headers, &body) {
                return Err(error);
            }
            Body::from(body)
        } else {
            Body::from(answer)
        };
        Ok(ProxyAnswer {
            status,
            headers: headers::from_provider(&headers),
            body,
        })
    }
}
