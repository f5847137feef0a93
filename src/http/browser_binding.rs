//! Identifies the browser that starts an attempt, and that returns from a provider.
//!
//! A user who follows another user's authorization link would grant access to the sender. So a browser that starts an
//! attempt gets a cookie that identifies it on its return. The cookie grants no access.

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::ConnectBinding;
use super::problem::Problem;
use crate::auth::BrowserToken;
use crate::service::ConnectFlow;

/// The warning and error for [`Cookie::Repeated`].
const REPEATED: &str = "the browser sent Patchbay's cookie more than once: another page of this domain has set one, \
    as an attacker would. Delete the cookies of this site, then start again";

/// The lifetime of a browser's cookie after the last started attempt, in seconds: at least that of an authorization
/// link.
const MAX_AGE: u32 = 60 * 60;

/// The configured way to distinguish browsers.
#[derive(Clone, Copy, Debug)]
pub struct BrowserBinding {
    binding: ConnectBinding,
    secure: bool,
}

/// The decision on a browser that returns from a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnDecision {
    /// The browser is redirected to Nango.
    Forward,
    /// Another browser started the attempt: the user has to confirm.
    Confirm,
    /// Another browser started the attempt: the return is rejected.
    Reject,
    /// The request has our cookie more than once and is rejected.
    Attacked,
}

/// The result of reading a request's `Cookie` headers.
enum Cookie {
    /// No cookie that this service has set.
    None,
    /// The token in this service's cookie.
    Known(BrowserToken),
    /// Our cookie more than once. This happens if another host of the site sets a cookie of the same name for the whole
    /// domain. The request does not show which one is ours.
    Repeated,
}

impl BrowserBinding {
    /// Creates the binding of a service at `public_url`.
    pub fn new(binding: ConnectBinding, public_url: &Url) -> Self {
        Self {
            binding,
            secure: public_url.scheme() == "https",
        }
    }

    /// Returns `true` if browsers are distinguished.
    pub(crate) fn is_enabled(self) -> bool {
        self.binding != ConnectBinding::Off
    }

    /// Returns the cookie's name. The prefix `__Host-` keeps other hosts of the site from replacing the cookie.
    fn cookie_name(self) -> &'static str {
        if self.secure {
            "__Host-patchbay-browser"
        } else {
            "patchbay-browser"
        }
    }

    /// Reads this service's cookie. Other cookies may have any bytes, so the headers are read as bytes, not as text.
    fn cookie(self, headers: &HeaderMap) -> Cookie {
        let own_name = self.cookie_name().as_bytes();
        let all = headers.get_all(COOKIE).iter();
        let pairs = all.flat_map(|cookies| cookies.as_bytes().split(|byte| *byte == b';'));
        let mut own = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let end = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..end].trim_ascii_end() == own_name).then(|| pair[end + 1..].trim_ascii_start())
        });
        match (own.next(), own.next()) {
            (_, Some(_)) => Cookie::Repeated,
            (Some(value), None) => {
                let known = std::str::from_utf8(value)
                    .ok()
                    .and_then(BrowserToken::parse);
                known.map_or(Cookie::None, Cookie::Known)
            }
            (None, None) => Cookie::None,
        }
    }

    /// Returns the browser that starts an attempt, or a new one; `None` if browsers are not distinguished.
    ///
    /// # Errors
    /// If the request has our cookie more than once.
    pub(crate) fn starting(self, headers: &HeaderMap) -> Result<Option<BrowserToken>, Problem> {
        if !self.is_enabled() {
            return Ok(None);
        }
        match self.cookie(headers) {
            Cookie::Known(token) => Ok(Some(token)),
            Cookie::None => BrowserToken::new()
                .map(Some)
                .map_err(|_no_randomness| Problem::internal("no randomness")),
            Cookie::Repeated => {
                tracing::warn!("{REPEATED}");
                Err(Problem::invalid(REPEATED))
            }
        }
    }

    /// Returns the `Set-Cookie` header with the browser token.
    pub(crate) fn cookie_header(
        self,
        token: &BrowserToken,
    ) -> Result<(HeaderName, HeaderValue), Problem> {
        let cookie = format!(
            "{}={}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{}",
            self.cookie_name(),
            token.secret(),
            if self.secure { "; Secure" } else { "" }
        );
        let mut cookie = HeaderValue::from_str(&cookie).map_err(Problem::internal)?;
        cookie.set_sensitive(true);
        Ok((SET_COOKIE, cookie))
    }

    /// Returns the decision on a browser that returns from a provider.
    pub(crate) async fn on_provider_return(
        self,
        connect: &ConnectFlow,
        headers: &HeaderMap,
    ) -> Result<ReturnDecision, Problem> {
        let elsewhere = match self.binding {
            ConnectBinding::Off => return Ok(ReturnDecision::Forward),
            ConnectBinding::Ask => ReturnDecision::Confirm,
            ConnectBinding::Required => ReturnDecision::Reject,
        };
        let started = match self.cookie(headers) {
            Cookie::Known(token) => connect.on_provider_return(&token).await?,
            Cookie::None => false,
            Cookie::Repeated => {
                tracing::warn!("{REPEATED}");
                return Ok(ReturnDecision::Attacked);
            }
        };
        if started {
            return Ok(ReturnDecision::Forward);
        }
        tracing::warn!(
            ?elsewhere,
            "a browser without an attempt returned from a provider"
        );
        Ok(elsewhere)
    }
}
