//! The page of `connect_link`: a simplified version of Nango's Connect UI.
//!
//! Like the real one, it reports nothing to its opener and stays open.

use askama::Template;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::accounts::add_token_response;
use crate::auth::live_session;
use crate::callback_page::{initial, render_page};
use crate::credentials::{Credentials, fields, is_oauth};
use crate::integrations::StoredIntegration;
use crate::query::Query;
use crate::requirements::Requirements;
use crate::state::{App, Session};

#[derive(Template)]
#[template(path = "connect.html")]
struct ConnectPage {
    outcome: Outcome,
    token: String,
    choices: Vec<Choice>,
}

/// The outcome at the top of the page.
enum Outcome {
    Open,
    Connected(String),
    Refused(String),
}

impl Outcome {
    fn is_success(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

/// An integration that the session allows.
struct Choice {
    key: String,
    name: String,
    oauth: bool,
    fields: &'static [(&'static str, &'static str)],
    /// The required parameters without a preset in the session.
    parameters: Vec<&'static str>,
}

impl Choice {
    fn new(integration: &StoredIntegration, session: &Session) -> Self {
        let config = session.config(&integration.unique_key, []);
        Self {
            parameters: Requirements::of(&integration.provider).missing(&config),
            key: integration.unique_key.clone(),
            name: integration.display_name.clone(),
            oauth: is_oauth(&integration.auth_mode),
            fields: fields(&integration.auth_mode),
        }
    }

    fn initial(&self) -> String {
        initial(&self.name)
    }
}

/// The submitted form: the session, the integration, and its credentials.
#[derive(Deserialize)]
pub(super) struct SubmittedForm {
    session_token: String,
    integration: String,
    #[serde(flatten)]
    fields: BTreeMap<String, String>,
}

/// `GET /connect-ui/?session_token=…`. Other parameters, such as `apiURL`, are ignored.
pub(super) async fn page(State(app): State<App>, query: Query) -> Response {
    let token = query.get("session_token").unwrap_or_default();
    render(&app, token, Outcome::Open, StatusCode::OK)
}

/// `POST /connect-ui/`: submits the credentials entered in the form.
pub(super) async fn submit(State(app): State<App>, Form(form): Form<SubmittedForm>) -> Response {
    match connect(&app, &form) {
        Ok(name) => render(
            &app,
            &form.session_token,
            Outcome::Connected(name),
            StatusCode::OK,
        ),
        Err(why) => {
            let status = StatusCode::BAD_REQUEST;
            render(&app, &form.session_token, Outcome::Refused(why), status)
        }
    }
}

fn render(app: &App, token: &str, outcome: Outcome, status: StatusCode) -> Response {
    if live_session(app, token).is_err() {
        let page = ConnectPage {
            outcome: Outcome::Refused("This link has expired. Please start again.".into()),
            token: String::new(),
            choices: Vec::new(),
        };
        return render_page(StatusCode::UNAUTHORIZED, &page);
    }
    let state = app.lock();
    let session = state.session(token, app.now());
    let choice = |it: &StoredIntegration| {
        let session = session.filter(|session| session.allows(&it.unique_key))?;
        Some(Choice::new(it, session))
    };
    let page = ConnectPage {
        outcome,
        token: token.to_owned(),
        choices: state.integrations.iter().filter_map(choice).collect(),
    };
    drop(state);
    render_page(status, &page)
}

/// Creates the connection. Returns the name of the integration, or an error message.
fn connect(app: &App, form: &SubmittedForm) -> Result<String, String> {
    let now = app.now();
    let mut state = app.lock();
    let session = state.session(&form.session_token, now).cloned();
    let session = session.ok_or("This link has expired. Please start again.")?;
    let integration = state.integration(&form.integration).cloned();
    let integration = integration
        .filter(|it| session.allows(&it.unique_key) && !is_oauth(&it.auth_mode))
        .ok_or("This integration cannot be connected here.")?;
    let mut credentials = Map::new();
    // Nango stores an empty object for a provider that needs no credentials.
    if integration.auth_mode != "NONE" {
        credentials.insert("type".into(), integration.auth_mode.as_str().into());
    }
    for (name, label) in fields(&integration.auth_mode) {
        let value = form.fields.get(*name);
        // Some providers have a name without a password, or a password without a name.
        let may_be_empty = integration.auth_mode == "BASIC";
        let value = value.filter(|value| may_be_empty || !value.is_empty());
        let value = value.ok_or_else(|| format!("{label} is missing."))?;
        credentials.insert((*name).to_owned(), Value::from(value.as_str()));
    }
    let given = form.fields.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("params[")?.strip_suffix(']')?;
        (!value.is_empty()).then(|| (name.to_owned(), value.clone()))
    });
    let config = session.config(&integration.unique_key, given);
    if let [name, ..] = Requirements::of(&integration.provider).missing(&config)[..] {
        return Err(format!("{name} is missing."));
    }
    add_token_response(&integration.provider, &mut credentials);
    let credentials = Credentials::Other(credentials);
    if integration.tests_credentials() && credentials.are_invalid() {
        return Err(format!(
            "{} did not accept these credentials.",
            integration.display_name
        ));
    }
    let reconnect = session.reconnect.clone();
    let connection_id = reconnect.unwrap_or_else(|| Uuid::new_v4().to_string());
    let granted = (config, credentials);
    let event = state.grant(&session, &connection_id, &integration, granted, now);
    drop(state);
    app.run_script(&connection_id, &integration);
    app.send_webhook(&event);
    Ok(integration.display_name)
}
