//! Checks `CONNECT_BINDING`: whether browsers send the cookie that identifies them.

use url::{Host, Url};

use super::Report;
use crate::http::{ConnectBinding, HttpConfig};

/// The relation of a page's origin to `PUBLIC_URL`. Browsers send the cookie with requests from the same site only.
#[derive(Debug, PartialEq, Eq)]
enum Site {
    Same,
    /// The same site if the operator owns this domain. Different sites if it is a public suffix, such as a hosting
    /// provider's domain.
    Perhaps(String),
    Other,
}

pub(crate) fn check(report: &mut Report, http: &HttpConfig) {
    let (level, consequence) = match http.connect_binding {
        ConnectBinding::Off => return,
        ConnectBinding::Ask => (
            "ask",
            "users who connect there must confirm, and their grants are marked",
        ),
        ConnectBinding::Required => (
            "required",
            "attempts that are started there cannot be completed",
        ),
    };
    let own = &http.public_url;
    for origin in &http.allowed_origins {
        let Ok(page) = origin.parse() else { continue };
        match site(&page, own) {
            Site::Same => {}
            Site::Perhaps(domain) => report.warn(
                "binding",
                format!("{origin} and {own} are on the same site only if {domain} is a domain of your own"),
                format!(
                    "check it: below a public suffix such as onrender.com (https://publicsuffix.org/list), each name is a separate site, and {consequence}"
                ),
            ),
            Site::Other => {
                let found = format!("{origin} is on another site than {own}: {consequence}");
                let remediation = "serve the page and PUBLIC_URL below one domain of your own, both over https, or set CONNECT_BINDING=off";
                match http.connect_binding {
                    ConnectBinding::Required => report.fail("binding", found, remediation),
                    _ => report.warn("binding", found, remediation),
                }
            }
        }
    }
    report.ok(
        "binding",
        format!(
            "{level}: requires that Nango's callback URL is {}, and that the page's requests have credentials: \"include\". To check both, connect once: the attempt must have same_browser: true",
            crate::cli::doctor::url_below(own, crate::cli::doctor::CALLBACK_PATH)
        ),
    );
}

/// Returns whether two URLs are on the same site. Like `SameSite`, this compares scheme and domain, not ports.
fn site(page: &Url, own: &Url) -> Site {
    if page.scheme() != own.scheme() {
        return Site::Other;
    }
    let (page, own) = match (page.host(), own.host()) {
        (Some(Host::Domain(page)), Some(Host::Domain(own))) => (page, own),
        (page, own) if page == own => return Site::Same,
        _ => return Site::Other,
    };
    let labels = page.rsplit('.').zip(own.rsplit('.'));
    let shared: Vec<&str> = labels
        .take_while(|(page, own)| page == own)
        .map(|(label, _)| label)
        .collect();
    let domain = shared.iter().rev().copied().collect::<Vec<_>>().join(".");
    if page == own || (shared.len() > 1 && (domain == page || domain == own)) {
        Site::Same
    } else if shared.len() > 1 {
        Site::Perhaps(domain)
    } else {
        Site::Other
    }
}
