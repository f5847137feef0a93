//! Which browser it is that begins to connect, and that comes back from a provider.
//!
//! Whoever is sent somebody else's link and grants access would grant it to the sender. So a browser
//! that begins is given a cookie, by which it is known when it comes back. The cookie opens nothing.

use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;
use uuid::Uuid;

use super::error::Problem;
use crate::auth::UserId;
use crate::config::ConnectBinding;
use crate::connections::Browser;
use crate::connections::service::Connections;

/// How long a browser keeps the cookie after it last began to connect, in seconds: as long as it may come back.
const MAX_AGE: u32 = 60 * 60;

/// How browsers are told apart, if they are.
#[derive(Clone, Copy, Debug)]
pub struct Browsers {
    binding: ConnectBinding,
    secure: bool,
}

/// What a browser's return from a provider is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// It goes on to Nango.
    GoesOn,
    /// It was not begun here: whoever sits there is asked.
    Asks,
    /// It was not begun here, and ends here.
    Ends,
}

impl Browsers {
    /// Tells them apart as configured, for browsers that reach this service at `public_url`.
    #[must_use]
    pub fn new(binding: ConnectBinding, public_url: &Url) -> Self {
        Self {
            binding,
            secure: public_url.scheme() == "https",
        }
    }

    /// Whether they are told apart.
    pub(super) fn tells_apart(self) -> bool {
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

    fn known(self, headers: &HeaderMap) -> Option<Browser> {
        let cookies = headers.get_all(COOKIE).iter();
        let mut pairs = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.find_map(|(name, value)| {
            let own = (name == self.cookie_name()).then_some(value)?;
            Browser::known_by(own)
        })
    }

    /// Binds an attempt to the browser that asked for it; answers the cookie that it is known by.
    pub(super) async fn begins(
        self,
        connections: &Connections,
        user: &UserId,
        (connection, attempt): (Uuid, Uuid),
        headers: &HeaderMap,
    ) -> Result<(HeaderName, HeaderValue), Problem> {
        let browser = match self.known(headers) {
            Some(browser) => browser,
            None => Browser::new().map_err(|_no_randomness| Problem::internal("no randomness"))?,
        };
        connections
            .begun_in(user, connection, attempt, &browser)
            .await?;
        let cookie = format!(
            "{}={}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{}",
            self.cookie_name(),
            browser.secret(),
            if self.secure { "; Secure" } else { "" }
        );
        let mut cookie = HeaderValue::from_str(&cookie).map_err(Problem::internal)?;
        cookie.set_sensitive(true);
        Ok((SET_COOKIE, cookie))
    }

    /// What the return of this browser from a provider is taken for.
    pub(super) async fn comes_back(
        self,
        connections: &Connections,
        headers: &HeaderMap,
    ) -> Result<Return, Problem> {
        let elsewhere = match self.binding {
            ConnectBinding::Off => return Ok(Return::GoesOn),
            ConnectBinding::Ask => Return::Asks,
            ConnectBinding::Required => Return::Ends,
        };
        let begun = match self.known(headers) {
            Some(browser) => connections.comes_back(&browser).await?,
            None => false,
        };
        if begun {
            return Ok(Return::GoesOn);
        }
        tracing::warn!(
            ?elsewhere,
            "a browser came back from a provider in which nothing was begun"
        );
        Ok(elsewhere)
    }
}
