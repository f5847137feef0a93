use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::{code, configured};
use crate::nango_contract::scenario::{Scenario, location};

const VERIFIER: &str = "a-verifier-that-only-the-client-knows-and-tells-at-the-end";

/// An OAuth client of the sandbox's provider.
struct Client {
    world: Scenario,
    id: String,
    secret: String,
}

impl Client {
    async fn new() -> Self {
        let scenario = configured(|_| {}).await;
        scenario.faults(json!({ "consent": "allow" })).await;
        let path = "/integrations/github?include=credentials";
        let shown = scenario.call(Method::GET, path, None).await;
        let field = |name: &str| {
            shown["data"]["credentials"][name]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (id, secret) = (field("client_id"), field("client_secret"));
        Self {
            world: scenario,
            id,
            secret,
        }
    }

    fn redirect_uri(&self) -> String {
        format!("{}/oauth/callback", self.world.sandbox.url())
    }

    fn request<'a>(&'a self, redirect_uri: &'a str, challenge: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("response_type", "code"),
            ("client_id", &self.id),
            ("redirect_uri", redirect_uri),
            ("state", "as-you-were"),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256"),
        ]
    }

    async fn code(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
        let challenge = URL_SAFE_NO_PAD.encode(digest);
        let url = format!("{}/provider/authorize", self.world.sandbox.url());
        let redirect_uri = self.redirect_uri();
        let request = self.world.http.get(url);
        let request = request.query(&self.request(&redirect_uri, &challenge));
        let back = location(&request.send().await.unwrap());
        let back = url::Url::parse(&back).unwrap();
        let answer = |name: &str| {
            back.query_pairs()
                .find(|(key, _)| key == name)
                .unwrap()
                .1
                .into_owned()
        };
        assert_eq!(answer("state"), "as-you-were");
        answer("code")
    }

    async fn token(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let redirect_uri = self.redirect_uri();
        let mut whole = vec![
            ("client_id", self.id.as_str()),
            ("client_secret", &self.secret),
            ("redirect_uri", &redirect_uri),
        ];
        whole.extend(form);
        let url = format!("{}/provider/token", self.world.sandbox.url());
        let response = self.world.http.post(url).form(&whole).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn exchange(&self, code: &str, verifier: &str) -> (u16, Value) {
        let grant = ("grant_type", "authorization_code");
        self.token(&[grant, ("code", code), ("code_verifier", verifier)])
            .await
    }

    async fn refresh(&self, refresh_token: &Value) -> (u16, Value) {
        let refresh_token = refresh_token.as_str().unwrap();
        self.token(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ])
        .await
    }

    async fn userinfo(&self, access_token: &Value) -> (u16, Value) {
        let url = format!("{}/provider/userinfo", self.world.sandbox.url());
        let request = self
            .world
            .http
            .get(url)
            .bearer_auth(access_token.as_str().unwrap());
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

#[tokio::test]
async fn authorization_code_is_single_use_and_bound_to_verifier() {
    let client = Client::new().await;
    let refused = (400, "invalid_grant");
    let outcome = |(status, body): &(u16, Value)| {
        (
            *status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let stolen = client.code().await;
    let attempt = client.exchange(&stolen, "another-verifier").await;
    assert_eq!(
        outcome(&attempt),
        (refused.0, refused.1.to_owned()),
        "a wrong verifier"
    );

    let code = client.code().await;
    let granted = client.exchange(&code, VERIFIER).await;
    assert_eq!(granted.0, 200, "{granted:?}");
    assert_eq!(granted.1["account"]["name"], "Ada Lovelace (work)");
    let attempt = client.exchange(&code, VERIFIER).await;
    assert_eq!(
        outcome(&attempt),
        (refused.0, refused.1.to_owned()),
        "a second exchange"
    );

    let late = client.code().await;
    client.world.advance(TimeDelta::minutes(10));
    let attempt = client.exchange(&late, VERIFIER).await;
    assert_eq!(
        outcome(&attempt),
        (refused.0, refused.1.to_owned()),
        "an old code"
    );
}

#[tokio::test]
async fn refresh_tokens_rotate_and_access_tokens_expire() {
    let client = Client::new().await;
    let code = client.code().await;
    let (_, first) = client.exchange(&code, VERIFIER).await;
    let (status, second) = client.refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200);
    assert_ne!(second["access_token"], first["access_token"]);
    let (status, again) = client.refresh(&first["refresh_token"]).await;
    assert_eq!(
        (status, again["error"].as_str()),
        (400, Some("invalid_grant"))
    );
    assert_eq!(client.refresh(&second["refresh_token"]).await.0, 200);

    let (status, account) = client.userinfo(&second["access_token"]).await;
    assert_eq!((status, account["id"].as_str()), (200, Some("ada-work")));
    client.world.advance(TimeDelta::hours(1));
    assert_eq!(client.userinfo(&second["access_token"]).await.0, 401);
}

#[tokio::test]
async fn unregistered_redirect_uri_is_rejected() {
    let client = Client::new().await;
    let url = format!("{}/provider/authorize", client.world.sandbox.url());
    let foreign = client.request("https://evil.example/", "challenge");
    let response = client
        .world
        .http
        .get(&url)
        .query(&foreign)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert!(!response.headers().contains_key("location"));
    let redirect_uri = client.redirect_uri();
    let mut plain = client.request(&redirect_uri, VERIFIER);
    plain[5].1 = "plain";
    let response = client
        .world
        .http
        .get(&url)
        .query(&plain)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn revoked_grant_stops_refreshing_until_reauthorized() {
    let mut scenario = configured(|_| {}).await;
    let body = json!({ "tags": { "end_user_id": "ada" } });
    let id = scenario.connect("github", "first", body).await;
    let named = json!({ "connection_id": id });
    scenario
        .call(Method::POST, "/sandbox/revoke", Some(named))
        .await;
    let path = format!(
        "{}/connections/{id}?provider_config_key=github",
        scenario.sandbox.url()
    );
    let forced = format!("{path}&force_refresh=true");
    let response = scenario.get(&forced).await;
    assert_eq!(response.status(), 400);
    assert_eq!(code(&response.json().await.unwrap()), "invalid_credentials");
    assert_eq!(scenario.get(&path).await.status(), 424);

    let body = json!({ "connection_id": id, "integration_id": "github" });
    let answer = scenario
        .call(Method::POST, "/connect/sessions/reconnect", Some(body))
        .await;
    let query = scenario
        .authorize(answer["data"]["token"].as_str().unwrap(), "github")
        .await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    assert_eq!(scenario.get(&forced).await.status(), 200);
}

#[tokio::test]
async fn concurrent_requests_share_one_token_refresh() {
    let mut scenario = configured(|_| {}).await;
    let body = json!({ "tags": { "end_user_id": "ada" } });
    let id = scenario.connect("github", "first", body).await;
    let named = json!({ "connection_id": id });
    scenario
        .call(Method::POST, "/sandbox/expire", Some(named))
        .await;
    let url = format!(
        "{}/connections/{id}?provider_config_key=github",
        scenario.sandbox.url()
    );
    let answers = futures::future::join_all((0..8).map(|_| async {
        let answer: Value = scenario.get(&url).await.json().await.unwrap();
        answer["credentials"]["access_token"].clone()
    }))
    .await;
    assert!(answers[0].is_string());
    assert!(
        answers.iter().all(|token| *token == answers[0]),
        "{answers:?}"
    );
}

#[tokio::test]
async fn session_presets_scopes_and_parameters() {
    let scenario = configured(|_| {}).await;
    scenario.faults(json!({ "consent": "allow" })).await;
    let preset = json!({
        "authorization_params": { "login_hint": "grace" },
        "connection_config": { "oauth_scopes_override": "repo,user" },
    });
    let token = scenario
        .session(json!({
            "tags": { "end_user_id": "ada" },
            "integrations_config_defaults": { "github": preset },
        }))
        .await;
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    let list = scenario.call(Method::GET, "/connections", None).await;
    let id = list["connections"][0]["connection_id"].as_str().unwrap();
    let path = format!("/connections/{id}?provider_config_key=github");
    let connection = scenario.call(Method::GET, &path, None).await;
    let raw = &connection["credentials"]["raw"];
    assert_eq!(raw["account"]["name"], "Grace Hopper");
    assert_eq!(raw["scope"], "repo,user");
}
