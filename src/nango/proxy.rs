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
use crate::net::http_client::{self, BodyError};

pub use target::{ProxyTarget, UnsafePath};

/// The timeout of a call as a whole, including the response's body.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The timeout until the provider's response starts, in units of `NANGO_TIMEOUT_SECONDS`. Shorter than the timeout of a
/// request.
const ANSWER_TIMEOUTS: u32 = 4;

/// The type of a body that Nango forwards byte for byte. Nango parses and rewrites JSON and forms.
const OPAQUE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The header with the type of the body at the provider.
const PROVIDER_CONTENT_TYPE: HeaderName = HeaderName::from_static("nango-proxy-content-type");

/// The header with the host of a call to another address than the provider's.
const BASE_URL_OVERRIDE: HeaderName = HeaderName::from_static("base-url-override");

/// The maximum size of a JSON response that is read here, in bytes.
const MAX_JSON_BYTES: usize = 512 * 1024;

/// A call to a provider's API.
#[derive(Debug)]
pub struct ProxyCall {
    method: Method,
    target: ProxyTarget,
    headers: HeaderMap,
    body: Option<Body>,
}

/// A response to a proxied call.
#[derive(Debug)]
pub struct ProxyAnswer {
    /// The provider's status; Nango turns most successes into 200.
    pub status: StatusCode,
    /// The headers of the provider that may be forwarded.
    pub headers: HeaderMap,
    /// The body of the provider, streamed.
    pub body: Body,
}

/// The reason for which a call cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCall {
    /// The path may lead elsewhere than to the provider.
    #[error(transparent)]
    Path(#[from] UnsafePath),
    /// Nango would build a new body from the bytes of a multipart body without a boundary.
    #[error("the content type multipart/form-data needs the parameter `boundary`")]
    MultipartWithoutBoundary,
}

impl ProxyCall {
    /// Creates a call without a body to a provider's path and query, both encoded as the caller sent them, with the
    /// caller's headers.
    ///
    /// # Errors
    /// If the path or the type of the body must not reach Nango.
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

    /// Returns whether Nango forwards a body with the call's method.
    pub fn may_have_body(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Returns the same call to another host of the provider; `None` if the address cannot be sent.
    #[must_use]
    pub fn with_base_url(mut self, base_url: &str) -> Option<Self> {
        let value = HeaderValue::from_str(base_url).ok()?;
        self.headers.insert(BASE_URL_OVERRIDE, value);
        Some(self)
    }

    /// Returns the same call with this body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        // Without a type, Nango's HTTP client would declare a form.
        self.headers.entry(PROVIDER_CONTENT_TYPE).or_insert(OPAQUE);
        self.body = Some(body);
        self
    }
}

impl Nango {
    /// Forwards a call, and returns the provider's response. Nothing is retried.
    ///
    /// # Errors
    /// If Nango cannot be reached, the response does not start in time, or Nango itself rejects the call:
    /// [`Error::NotFound`] and [`Error::InvalidCredentials`] mean that it has no credentials.
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
        // The rate limit headers may be the provider's, so the slot counts the call itself.
        drop(slot);
        answer
    }

    /// Forwards a call, and reads the provider's response as JSON; `None` if it is not JSON, or too large.
    ///
    /// # Errors
    /// As [`Nango::proxy`], and if the response is incomplete.
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

    /// Returns the URL of Nango's proxy for this path and query of a provider.
    ///
    /// # Panics
    /// Never: a target consists of characters that are valid in every URL.
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
            // Nango decompresses the provider's responses, and its own are parsed here.
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
