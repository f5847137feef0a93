//! An OAuth 2 provider with a consent page, PKCE, and refresh token rotation.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::oauth::challenge_of;
use crate::state::State;

const CODE_LIFETIME: TimeDelta = TimeDelta::minutes(10);
const TOKEN_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// An account at the provider.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Account {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) email: &'static str,
}

/// The accounts to choose from.
pub(super) const ACCOUNTS: [Account; 4] = [
    Account {
        id: "ada-work",
        name: "Ada Lovelace (work)",
        email: "ada@analytical.example",
    },
    Account {
        id: "ada-private",
        name: "Ada Lovelace (private)",
        email: "ada@lovelace.example",
    },
    Account {
        id: "grace",
        name: "Grace Hopper",
        email: "grace@navy.example",
    },
    Account {
        id: "alan",
        name: "Alan Turing",
        email: "alan@bletchley.example",
    },
];

/// The codes and tokens that the provider has issued.
#[derive(Default)]
pub(super) struct Provider {
    codes: HashMap<String, Code>,
    grants: HashMap<Uuid, Grant>,
    access_tokens: HashMap<String, AccessToken>,
}

/// An authorization code, which can be exchanged once.
struct Code {
    request: AuthorizeRequest,
    account: Account,
    expires_at: DateTime<Utc>,
}

/// A user's grant to an application.
struct Grant {
    account: Account,
    client_id: String,
    scope: Option<String>,
    /// The only valid refresh token, which each use replaces.
    refresh_token: Option<String>,
}

struct AccessToken {
    grant: Uuid,
    expires_at: DateTime<Utc>,
}

/// The parameters of an authorization request that are needed after the consent page.
#[derive(Clone, Deserialize)]
pub(super) struct AuthorizeRequest {
    pub(super) response_type: String,
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) scope: Option<String>,
    pub(super) state: String,
    pub(super) code_challenge: String,
    pub(super) code_challenge_method: String,
    /// The id or email of the preselected account.
    pub(super) login_hint: Option<String>,
}

/// The form of the token endpoint.
#[derive(Deserialize)]
pub(super) struct TokenRequest {
    pub(super) grant_type: String,
    pub(super) code: Option<String>,
    pub(super) redirect_uri: Option<String>,
    pub(super) code_verifier: Option<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) client_id: String,
    pub(super) client_secret: String,
}

/// A successful token response. `raw` is the whole response.
pub(super) struct TokenAnswer {
    pub(super) access_token: String,
    pub(super) refresh_token: Option<String>,
    /// The lifetime in seconds.
    pub(super) expires_in: Option<i64>,
    pub(super) raw: Map<String, Value>,
}

/// An error response of the token endpoint (RFC 6749, 5.2).
#[derive(Debug, Serialize)]
pub(super) struct TokenError {
    error: &'static str,
    error_description: &'static str,
}

impl TokenError {
    pub(super) fn new(error: &'static str, error_description: &'static str) -> Self {
        Self {
            error,
            error_description,
        }
    }
}

impl AuthorizeRequest {
    /// Returns the requested scopes.
    pub(super) fn scopes(&self) -> Vec<&str> {
        let scope = self.scope.as_deref().unwrap_or_default();
        scope.split_whitespace().collect()
    }

    /// Removes the scopes that the user does not grant.
    pub(super) fn keep_scopes(&mut self, is_allowed: impl Fn(&str) -> bool) {
        if self.scope.is_some() {
            let mut scopes = self.scopes();
            scopes.retain(|scope| is_allowed(scope));
            self.scope = Some(scopes.join(" "));
        }
    }

    /// Returns the account in `login_hint`, or the first one.
    pub(super) fn hinted_account(&self) -> Account {
        let hint = self.login_hint.as_deref().unwrap_or_default();
        account(hint).unwrap_or(ACCOUNTS[0])
    }
}

/// Returns an account by its id or email.
pub(super) fn account(name: &str) -> Option<Account> {
    let mut accounts = ACCOUNTS.into_iter();
    accounts.find(|it| it.id == name || it.email == name)
}

impl Provider {
    /// Stores a grant. Returns its code.
    pub(super) fn allow(
        &mut self,
        request: AuthorizeRequest,
        account: Account,
        now: DateTime<Utc>,
    ) -> String {
        let code = secret("code");
        let waiting = Code {
            request,
            account,
            expires_at: now + CODE_LIFETIME,
        };
        self.codes.insert(code.clone(), waiting);
        code
    }

    /// Returns the account of a valid access token.
    pub(super) fn account_of(&self, access_token: &str, now: DateTime<Utc>) -> Option<Account> {
        let token = self.access_tokens.get(access_token)?;
        let grant = self.grants.get(&token.grant)?;
        (token.expires_at > now).then_some(grant.account)
    }

    /// Returns the scopes of an access token.
    pub(super) fn scope_of(&self, access_token: &str) -> Option<String> {
        let token = self.access_tokens.get(access_token)?;
        self.grants.get(&token.grant)?.scope.clone()
    }

    /// Expires an access token.
    pub(super) fn expire(&mut self, access_token: &str, now: DateTime<Utc>) {
        if let Some(token) = self.access_tokens.get_mut(access_token) {
            token.expires_at = now;
        }
    }

    /// Revokes a grant, like a user in the provider's settings.
    pub(super) fn revoke(&mut self, access_token: &str) {
        if let Some(token) = self.access_tokens.get(access_token) {
            self.grants.remove(&token.grant);
        }
    }

    fn issue(
        &mut self,
        id: Uuid,
        mut grant: Grant,
        lasting: bool,
        now: DateTime<Utc>,
    ) -> TokenAnswer {
        let access_token = secret("access");
        let refresh_token = (!lasting).then(|| secret("refresh"));
        let expires_in = (!lasting).then_some(TOKEN_LIFETIME.num_seconds());
        let mut raw = Map::new();
        raw.insert("access_token".into(), access_token.as_str().into());
        raw.insert("token_type".into(), "Bearer".into());
        raw.insert(
            "scope".into(),
            grant.scope.clone().unwrap_or_default().into(),
        );
        raw.insert("account".into(), json!(grant.account));
        if let (Some(refresh_token), Some(expires_in)) = (&refresh_token, expires_in) {
            raw.insert("refresh_token".into(), refresh_token.as_str().into());
            raw.insert("expires_in".into(), expires_in.into());
        }
        let expires_at = if lasting {
            DateTime::<Utc>::MAX_UTC
        } else {
            now + TOKEN_LIFETIME
        };
        let token = AccessToken {
            grant: id,
            expires_at,
        };
        self.access_tokens.insert(access_token.clone(), token);
        grant.refresh_token.clone_from(&refresh_token);
        self.grants.insert(id, grant);
        TokenAnswer {
            access_token,
            refresh_token,
            expires_in,
            raw,
        }
    }
}

impl State {
    /// Handles a request to the token endpoint.
    pub(super) fn provider_token(
        &mut self,
        request: &TokenRequest,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, TokenError> {
        let known = self.integrations.iter().any(|it| {
            it.credentials.client_id == request.client_id
                && it.credentials.client_secret == request.client_secret
        });
        if !known {
            return Err(TokenError::new(
                "invalid_client",
                "Unknown client or wrong secret",
            ));
        }
        match request.grant_type.as_str() {
            "authorization_code" => self.exchange_code(request, now),
            "refresh_token" => self.refresh_grant(request, now),
            _ => Err(TokenError::new(
                "unsupported_grant_type",
                "Use authorization_code or refresh_token",
            )),
        }
    }

    fn exchange_code(
        &mut self,
        request: &TokenRequest,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, TokenError> {
        const INVALID: TokenError = TokenError {
            error: "invalid_grant",
            error_description: "The code is invalid",
        };
        let code = request.code.as_deref().unwrap_or_default();
        let code = self.provider.codes.remove(code).ok_or(INVALID)?;
        let verifier = request.code_verifier.as_deref().unwrap_or_default();
        let matches = code.expires_at > now
            && code.request.client_id == request.client_id
            && Some(&code.request.redirect_uri) == request.redirect_uri.as_ref()
            && code.request.code_challenge == challenge_of(verifier);
        if self.faults.refuse_code || !matches {
            return Err(INVALID);
        }
        let grant = Grant {
            account: code.account,
            client_id: code.request.client_id,
            scope: code.request.scope,
            refresh_token: None,
        };
        let lasting = self.faults.no_refresh_token;
        let fields = self.account_fields(&grant.client_id, &grant.account, grant.scope.as_deref());
        let mut answer = self.provider.issue(Uuid::new_v4(), grant, lasting, now);
        // A refresh returns none, as at most providers.
        answer.raw.extend(fields);
        Ok(answer)
    }

    fn refresh_grant(
        &mut self,
        request: &TokenRequest,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, TokenError> {
        const INVALID: TokenError = TokenError {
            error: "invalid_grant",
            error_description: "The refresh token is invalid",
        };
        if self.faults.refuse_refresh || request.refresh_token.is_none() {
            return Err(INVALID);
        }
        let id = self
            .provider
            .grants
            .iter()
            .find(|(_, grant)| {
                grant.client_id == request.client_id && grant.refresh_token == request.refresh_token
            })
            .map(|(id, _)| *id)
            .ok_or(INVALID)?;
        let grant = self.provider.grants.remove(&id).ok_or(INVALID)?;
        Ok(self.provider.issue(id, grant, false, now))
    }
}

fn secret(kind: &str) -> String {
    format!("sandbox_{kind}_{}", Uuid::new_v4().simple())
}
