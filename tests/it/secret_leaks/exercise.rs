//! Exercises the service and stores all of its output that must not contain a secret.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::Connection;
use url::Url;

use super::CapturedBodies;
use super::search::{Canaries, Location};
use crate::eventually::eventually_value;
use crate::process::{Process, new_folder};
use crate::test_app::{TestApp, User};

/// The service under test and its output so far.
pub(super) struct Exerciser<'a> {
    pub(super) app: &'a TestApp,
    pub(super) url: String,
    pub(super) kept_key: String,
    pub(super) given_key: String,
    pub(super) metrics: String,
    pub(super) canaries: Canaries,
    pub(super) places: Vec<Location>,
}

impl Exerciser<'_> {
    /// Sends a request whose response must not contain a secret, and stores the response.
    async fn send(&mut self, what: &str, request: RequestBuilder) -> (StatusCode, Value) {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
        let text = answer.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or_default();
        self.places
            .push(Location::new(what, format!("{status} {headers} {text}")));
        (status, json)
    }

    /// Sends a request that must succeed. Returns the body, which may contain a secret.
    async fn expect_ok(&self, request: RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.json().await.unwrap_or(Value::Null);
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    fn service(&self, key: &str, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/connectors{path}", self.url);
        self.app
            .client
            .post(url)
            .bearer_auth(key)
            .header("patchbay-user", "ada")
    }

    async fn command(&mut self, arguments: &[&str], settings: &[(&str, &str)]) -> String {
        let mut process = Process::start(arguments, settings);
        process.ended().await;
        process.output()
    }

    /// Adds an endpoint of the product. Its secret appears only in this output.
    pub(super) async fn add_endpoint(&mut self, settings: &[(&str, &str)], product: &Url) {
        let hook = product.join("/hook").unwrap();
        let output = self
            .command(&["webhooks", "add", hook.as_str()], settings)
            .await;
        let secret = output
            .lines()
            .find_map(|line| line.trim().strip_prefix("whsec_"));
        self.canaries.add(
            "an endpoint's secret",
            secret.unwrap_or_else(|| panic!("{output}")),
        );
    }

    /// Connects two accounts, requests a token, follows the events and disconnects.
    pub(super) async fn exercise(&mut self) {
        let app = self.app;
        app.faults(json!({ "consent": "allow" })).await;
        let ada = app.user("ada").await.at_url(&self.url);
        self.canaries.add("a user's token", &ada.token);
        self.canaries.add(
            "a user's token's signature",
            ada.token.rsplit('.').next().unwrap(),
        );
        let gmail = self.connect(&ada, "gmail", None, "a session's token").await;
        let key = Some("a key to ask again with");
        let github = self
            .connect(
                &ada,
                "github",
                key,
                "a session's token, asked for with a key",
            )
            .await;
        for id in [&gmail, &github] {
            self.provider_tokens(&ada, id).await;
        }
        for key in [self.kept_key.clone(), self.given_key.clone()] {
            let token = self
                .expect_ok(self.service(&key, &format!("/connections/{gmail}/token")))
                .await;
            self.canaries.add(
                "an issued access token",
                token["access_token"].as_str().unwrap(),
            );
            let refused = json!({ "token_id": token["token_id"] });
            let refused = self
                .service(&key, &format!("/connections/{gmail}/token/invalid"))
                .json(&refused);
            self.send("a refused token", refused).await;
        }
        self.provider_tokens(&ada, &gmail).await;
        self.connect_with_api_key(&ada).await;
        self.read(&ada, &gmail).await;
        let path = format!("/gmail/disconnect?connection_id={gmail}");
        self.send("disconnect", ada.request(Method::DELETE, &path))
            .await;
        self.send(
            "events",
            ada.request(Method::GET, &format!("/connections/{gmail}/history")),
        )
        .await;
    }

    async fn connect(
        &mut self,
        ada: &User<'_>,
        connector: &str,
        key: Option<&str>,
        what: &'static str,
    ) -> String {
        let mut request = ada.request(Method::POST, &format!("/{connector}/connect"));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let started = self.expect_ok(request).await;
        let link: Url = started["oauth_url"].as_str().unwrap().parse().unwrap();
        let session = link
            .query_pairs()
            .find(|(name, _)| name.ends_with("session_token"));
        self.canaries.add(what, &session.unwrap().1);
        self.app.popup(link.as_str()).await;
        let id = started["connection_id"].as_str().unwrap().to_owned();
        ada.wait_until(&id, "connected").await;
        id
    }

    /// Reads Nango's credentials of a connection.
    async fn provider_tokens(&mut self, ada: &User<'_>, id: &str) {
        let connection = ada.connection(id).await;
        let (nango_id, connector) = (
            &connection["nango_connection_id"],
            &connection["connector_slug"],
        );
        let path = format!(
            "/connections/{}?provider_config_key={}",
            nango_id.as_str().unwrap(),
            connector.as_str().unwrap()
        );
        let (status, stored) = self.app.nango(Method::GET, &path).await;
        assert_eq!(status, StatusCode::OK, "{stored}");
        let credentials = &stored["credentials"];
        self.canaries.add(
            "an access token",
            credentials["access_token"].as_str().unwrap(),
        );
        if let Some(token) = credentials["refresh_token"].as_str() {
            self.canaries.add("a refresh token", token);
        }
    }

    /// Enters an API key on Nango's page.
    async fn connect_with_api_key(&mut self, ada: &User<'_>) {
        let started = self
            .expect_ok(ada.request(Method::POST, "/openai/connect"))
            .await;
        let link: Url = started["oauth_url"].as_str().unwrap().parse().unwrap();
        let session = link
            .query_pairs()
            .find(|(name, _)| name == "session_token")
            .unwrap()
            .1
            .into_owned();
        self.canaries.add("a session's token for a key", &session);
        let typed = super::canary("typed");
        self.canaries.add("an API key", &typed);
        let form = [
            ("session_token", &*session),
            ("integration", "openai"),
            ("apiKey", &typed),
        ];
        let page = link.join("/connect-ui/").unwrap();
        let posted = self.app.client.post(page).form(&form).send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::OK);
        let id = started["connection_id"].as_str().unwrap();
        ada.wait_until(id, "connected").await;
        let token = self
            .expect_ok(self.service(&self.kept_key, &format!("/connections/{id}/token")))
            .await;
        assert_eq!(token["api_key"], typed);
    }

    /// Reads everything that can be read.
    async fn read(&mut self, ada: &User<'_>, id: &str) {
        for path in ["", "/gmail", "/connections"] {
            self.send("an answer", ada.request(Method::GET, path)).await;
        }
        for part in ["", "/accesses", "/history"] {
            self.send(
                "an answer",
                ada.request(Method::GET, &format!("/connections/{id}{part}")),
            )
            .await;
        }
        self.send(
            "a check",
            ada.request(Method::POST, &format!("/connections/{id}/check")),
        )
        .await;
        let page = ada.request(Method::GET, &format!("/callback?connection_id={id}"));
        self.send("the callback's page", page.header("accept", "text/html"))
            .await;
        let mut stream = ada
            .request(Method::GET, "/connections/events")
            .header("last-event-id", crate::reliability::event_streams::FIRST);
        stream = stream.timeout(Duration::from_secs(60));
        let mut stream = stream.send().await.unwrap();
        let mut events = String::new();
        while events.matches("event: connection").count() < 4 {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            events.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.places.push(Location::new("events", events));
        let url = format!("{}/metrics", self.url);
        self.send(
            "/metrics",
            self.app.client.get(&url).bearer_auth(&self.metrics),
        )
        .await;
        self.send(
            "an answer",
            self.app.client.get(url).bearer_auth("not the token"),
        )
        .await;
    }

    /// Causes all kinds of errors.
    pub(super) async fn trigger_errors(&mut self, settings: &[(&str, &str)]) {
        let app = self.app;
        let ada = app.user("ada").await.at_url(&self.url);
        let bad = [
            ("a forged token", format!("{}x", ada.token)),
            ("another key", format!("{}x", self.kept_key)),
        ];
        for (what, bad) in bad {
            let url = format!("{}/api/v1/connectors", self.url);
            let (status, _) = self.send(what, app.client.get(url).bearer_auth(bad)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
        let (code, state) = (super::canary("code"), super::canary("state"));
        self.canaries.add("a provider's code", &code);
        self.canaries.add("a provider's state", &state);
        let path = format!("/callback?state={state}&code={code}");
        let sent_on = ada.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(sent_on.status(), StatusCode::PERMANENT_REDIRECT);
        let path = format!("/callback?connection_id={code}&error_description={state}");
        self.send("a callback of nothing", ada.request(Method::GET, &path))
            .await;
        self.webhooks().await;
        let id = ada.get("/connections?connector_id=github").await["connections"][0]["id"].clone();
        let id = id.as_str().unwrap().to_owned();
        for faults in [
            json!({ "status": 401 }),
            json!({ "status": 429 }),
            json!({ "status": 500 }),
            json!({ "html": true }),
            json!({ "hang_up": true }),
            json!({ "lose_answer": true }),
            json!({ "latency_ms": 4000 }),
            json!({ "refuse_refresh": true }),
            json!({ "refuse_delete": true }),
        ] {
            app.faults(faults).await;
            self.send(
                "a reconnect that fails",
                ada.request(Method::POST, &format!("/connections/{id}/reconnect")),
            )
            .await;
            self.send(
                "a check that fails",
                ada.request(Method::POST, &format!("/connections/{id}/check")),
            )
            .await;
            let token = self.service(&self.kept_key, &format!("/connections/{id}/token"));
            if token.try_clone().unwrap().send().await.unwrap().status() != StatusCode::OK {
                self.send("a token that fails", token).await;
            }
        }
        app.faults(json!({})).await;
        self.break_the_database(&ada, settings).await;
    }

    /// Sends forged webhooks, and signed but invalid ones.
    async fn webhooks(&mut self) {
        let url = format!("{}/api/v1/webhooks/nango", self.url);
        let forged = super::canary("forged");
        self.canaries.add("a forged signature", &forged);
        let body = format!("{{\"type\":\"auth\",\"token\":\"{forged}\"}}");
        let hook = self
            .app
            .client
            .post(&url)
            .header("x-nango-hmac-sha256", &forged)
            .body(body.clone());
        self.send("a forged webhook", hook).await;
        let key =
            patchbay::nango::webhook::SigningKeys::new(&[self.app.signing_key.as_str().into()])
                .unwrap();
        for body in [body, format!("{{\"type\":{forged:?}"), "[]".to_owned()] {
            let hook = self
                .app
                .client
                .post(&url)
                .header("x-nango-hmac-sha256", key.sign(body.as_bytes()));
            let (status, _) = self.send("a webhook of nothing", hook.body(body)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
        }
    }

    /// Lets the database fail during requests, and at a start.
    async fn break_the_database(&mut self, ada: &User<'_>, settings: &[(&str, &str)]) {
        let mut sql = self.app.sql().await;
        let hide = "alter table user_connector_connection rename column label to hidden";
        sqlx::raw_sql(hide).execute(&mut sql).await.unwrap();
        let (status, _) = self
            .send(
                "a list that fails",
                ada.request(Method::GET, "/connections"),
            )
            .await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        let back = "alter table user_connector_connection rename column hidden to label";
        sqlx::raw_sql(back).execute(&mut sql).await.unwrap();
        sql.close().await.unwrap();
        let database = settings
            .iter()
            .rfind(|(name, _)| *name == "DATABASE_URL")
            .unwrap()
            .1;
        let wrong_settings = super::canary("password");
        self.canaries.add("a wrong password", &wrong_settings);
        let mut refused: Url = database.parse().unwrap();
        refused.set_password(Some(&wrong_settings)).unwrap();
        for (name, value) in [
            ("DATABASE_URL", refused.as_str()),
            ("DATABASE_URL", &database.replace("postgres://", "mysql://")),
            (
                "DATABASE_URL",
                &database.replace("127.0.0.1:", "127.0.0.1:x"),
            ),
            ("AUTH_JWT_SECRET", "short-secret-of-the-canaries"),
        ] {
            let changed: Vec<(&str, &str)> =
                settings.iter().copied().chain([(name, value)]).collect();
            for command in ["serve", "doctor"] {
                let output = self.command(&[command], &changed).await;
                self.places.push(Location::new(
                    format!("what {command} says of a wrong {name}"),
                    output,
                ));
            }
        }
        self.canaries
            .add("a secret that is too short", "short-secret-of-the-canaries");
    }

    /// Stores the output of the commands.
    pub(super) async fn commands(&mut self, settings: &[(&str, &str)]) {
        let token = self.app.user("ada").await.token;
        self.canaries.add("a token that is explained", &token);
        for arguments in [
            &["doctor"][..],
            &["doctor", "--json"],
            &["doctor", "--token", &token],
            &["keys", "list"],
            &["webhooks", "list"],
            &["webhooks", "deliveries"],
            &["migrate"],
        ] {
            let output = self.command(arguments, settings).await;
            assert!(!output.contains("cannot"), "{arguments:?}: {output}");
            self.places.push(Location::new(
                arguments[..arguments.len().min(2)].join(" "),
                output,
            ));
        }
        let wrong_settings: Vec<(&str, &str)> = settings
            .iter()
            .copied()
            .chain([
                ("NANGO_SECRET_KEY", "canary-of-a-wrong-key-of-nango"),
                ("AUTH_ISSUER", "https://nobody.example"),
            ])
            .collect();
        self.canaries
            .add("a wrong key of Nango's", "canary-of-a-wrong-key-of-nango");
        let output = self
            .command(&["doctor", "--token", &token], &wrong_settings)
            .await;
        self.places
            .push(Location::new("a check that fails", output));
        self.broken_file(settings).await;
    }

    /// Starts with a `.env` that has an unclosed quote.
    async fn broken_file(&mut self, settings: &[(&str, &str)]) {
        let secret = super::canary("file");
        self.canaries.add("a secret of a broken .env", &secret);
        let folder = new_folder();
        let line = format!("HOST=127.0.0.1\nAUTH_JWT_SECRET='{secret}\n");
        std::fs::write(folder.join(".env"), line).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
        let mut process = Process::start_in(&folder, program, &["doctor"], settings).unwrap();
        assert!(!process.ended().await.success());
        let text = process.output();
        assert!(text.contains("AUTH_JWT_SECRET"), "{text}");
        self.places
            .push(Location::new("what is said of a broken .env", text));
    }

    /// Waits until the product has received its webhooks.
    pub(super) async fn wait_for_deliveries(&self, messages: &CapturedBodies) {
        let received = async || messages.lock().unwrap().clone();
        eventually_value(received, |received| {
            let mut texts = received.iter();
            texts.any(|message| message.contains("connection.disconnected"))
        })
        .await;
    }
}
