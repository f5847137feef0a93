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

/// What a page and an error say of [`Cookie::Repeated`].
const REPEATED: &str = "the browser sent Patchbay's cookie more than once: another page of this domain has set one, \
    as an attacker would. Delete the cookies of this site, then start again";

/// How long a browser keeps the cookie after it last began to connect, in seconds: as long as it may come back.
const MAX_AGE: u32 = 60 * 60;

/// How browsers are distinguished, if at all.
#[derive(Clone, Copy, Debug)]
pub struct BrowserBinding {
    binding: ConnectBinding,
    secure: bool,
}

/// What a browser's return from a provider is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnDecision {
    /// It goes on to Nango.
    Forward,
    /// Another browser started the attempt: the user has to confirm.
    Confirm,
    /// Another browser started the attempt: the return is rejected.
    Reject,
    /// It has our cookie more than once, and ends here.
    Attacked,
}

/// What the `Cookie` headers of a request say of its browser.
enum Cookie {
    /// Nothing that we have set.
    None,
    /// What we have set.
    Known(BrowserToken),
    /// Our cookie more than once. A browser sends two of the same name if another host of the site
    /// has set one for the whole domain: which one is ours does not show.
    Repeated,
}

impl BrowserBinding {
    /// Distinguishes browsers as configured, for a service at `public_url`.
    #[must_use]
    pub fn new(binding: ConnectBinding, public_url: &Url) -> Self {
        Self {
            binding,
            secure: public_url.scheme() == "https",
        }
    }

    /// Returns whether browsers are distinguished.
    pub(crate) fn is_enabled(self) -> bool {
        self.binding != ConnectBinding::Off
    }

    /// With the prefix, no other host of the site can put its own in the place of ours.
    fn cookie_name(self) -> &'static str {
        if self.secure {
            "__Host-patchbay-browser"
        } else {
            "patchbay-browser"
        }
    }

    /// Reads bytes, not text: what other pages of the site have set is of no concern, whatever is in it.
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

    /// Returns the header that gives a browser the cookie that it is known by.
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

    /// What the return of this browser from a provider is taken for.
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
            "a browser that has started no attempt returned from a provider"
        );
        Ok(elsewhere)
    }
}
