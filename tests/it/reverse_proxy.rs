//! The service behind nginx, which removes a path prefix, buffers and compresses, as in many installations.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use patchbay::cli::doctor::Level;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::connect_attacks::test_browser::TestBrowser;
use crate::doctor::run_doctor;
use crate::eventually::eventually_value;
use crate::process::new_folder;
use crate::reliability::event_streams::StreamReader;
use crate::test_app::{PROMPT_TIMEOUT, TestApp, free_port};

/// Where nginx serves Patchbay.
const PREFIX: &str = "/connect";

/// An nginx with its usual settings. Dropping it stops it.
struct Nginx {
    process: Child,
    folder: PathBuf,
}

impl Nginx {
    /// Starts an nginx on this port in front of the service at `upstream`; `None` if it is not installed.
    async fn start(port: u16, upstream: &str) -> Option<Self> {
        let folder = new_folder();
        let temporary = |name: &str| format!("{name}_temp_path {}/{name};", folder.display());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(temporary);
        let config = format!(
            "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; {1} gzip on; gzip_proxied any; gzip_min_length 1; gzip_types *;\n\
               server {{ listen 127.0.0.1:{port}; location {PREFIX}/ {{ proxy_pass {upstream}/; }} }} }}\n",
            folder.display(),
            temporary.concat(),
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let process = Command::new("nginx")
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stderr(Stdio::null())
            .spawn();
        let process = match process {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: nginx is not installed; scripts/check installs it");
                fs::remove_dir_all(folder).unwrap();
                return None;
            }
            spawned => spawned.unwrap(),
        };
        let nginx = Self { process, folder };
        let connection = async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.map_err(|error| (error, fs::read_to_string(nginx.folder.join("log"))))
        };
        eventually_value(connection, Result::is_ok).await.unwrap();
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM also ends its worker.
        let id = self.process.id().to_string();
        let _ = Command::new("kill").arg(id).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Starts a service behind nginx. Returns them with the public URL; `None` if nginx is not installed.
async fn behind_nginx() -> Option<(TestApp, Nginx, String)> {
    let port = free_port();
    let public_url = format!("http://127.0.0.1:{port}{PREFIX}");
    let settings = [
        ("PUBLIC_URL", format!("{public_url}/")),
        ("CONNECT_BINDING", "required".to_owned()),
        ("CONSOLE", "true".to_owned()),
    ];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let callback_url = format!("{public_url}/api/v1/connectors/callback");
    let app = TestApp::build(&settings, |nango| {
        nango.clock = patchbay::clock::Clock::manual(patchbay::clock::Clock::System.now());
        nango.callback_url = Some(callback_url);
    })
    .await;
    let nginx = Nginx::start(port, &app.url).await?;
    Some((app, nginx, public_url))
}

#[tokio::test]
async fn events_pass_through_nginx_at_once() {
    let Some((app, _nginx, public_url)) = behind_nginx().await else {
        return;
    };
    let ada = app.user("ada").await.at_url(&public_url);
    let request = ada.request(Method::GET, "/connections/events");
    // A proxy that buffers would pass nothing on before its buffer is full or the stream ends.
    let stream = StreamReader::of(request.header("accept-encoding", "gzip, br"));
    let mut stream = timeout(PROMPT_TIMEOUT, stream).await.unwrap();
    let headers = stream.response.headers();
    assert_eq!(headers["cache-control"], "no-cache, no-transform");
    assert!(!headers.contains_key("content-encoding"), "{headers:?}");
    ada.connect("gmail").await;
    let event = timeout(PROMPT_TIMEOUT, stream.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event["kind"], "attempt_started");

    let direct = app.user("ada").await;
    let direct = StreamReader::open(&direct, None).await;
    assert_eq!(direct.response.headers()["x-accel-buffering"], "no");
}

#[tokio::test]
async fn account_is_connected_below_a_path() {
    let Some((app, _nginx, public_url)) = behind_nginx().await else {
        return;
    };
    let ada = app.user("ada").await.at_url(&public_url);
    let mut browser = TestBrowser::new();
    let started = browser.connect(&ada, "gmail").await;
    assert!(browser.cookie("patchbay-browser").is_some());
    let page = browser.open(started["oauth_url"].as_str().unwrap()).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let id = started["connection_id"].as_str().unwrap();
    let connected = ada.wait_until(id, "connected").await;
    assert_eq!(connected["attempt"]["same_browser"], true, "{connected:#}");
    let hooks = app.control("webhooks", Method::GET, Value::Null).await;
    let hook = &hooks[0];
    let url = hook["url"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("{public_url}/api/v1/webhooks/nango/")),
        "{hook:#}"
    );
    // The product's page after the popup.
    let page = format!("{public_url}/api/v1/connectors/callback?connection_id={id}");
    let page = browser.open(&page).await;
    assert!(
        page.text.contains("The account is connected"),
        "{}",
        page.text
    );

    let report = run_doctor(&app, &[], Some(&ada.token)).await;
    let level = |check: &str| {
        let found = report.findings.iter().find(|one| one.check == check);
        found.unwrap().level
    };
    for check in ["reachable", "webhooks", "callback", "webhook events"] {
        assert_eq!(level(check), Level::Ok, "{report}");
    }
}

#[tokio::test]
async fn pages_work_below_a_path() {
    let Some((app, _nginx, public_url)) = behind_nginx().await else {
        return;
    };
    let mut browser = TestBrowser::new();
    let start = browser.open(&format!("{public_url}/")).await;
    assert_eq!(start.url.as_str(), format!("{public_url}/console/"));
    let origin = public_url.strip_suffix(PREFIX).unwrap();
    let named = |attribute: &'static str| start.text.split(attribute).skip(1);
    let files = named("src=\"").chain(named("href=\""));
    let files: Vec<&str> = files.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(files.len() >= 3, "{}", start.text);
    for file in files {
        assert!(file.starts_with("/connect/console/assets/"), "{file}");
        let file = browser.open(&format!("{origin}{file}")).await;
        assert_eq!(file.status, 200);
    }
    let config = browser
        .open(&format!("{public_url}/console/config.json"))
        .await;
    assert_eq!(config.json()["controls"], json!(null));
    let console = browser.open(&format!("{public_url}/console")).await;
    assert_eq!(console.url.as_str(), format!("{public_url}/console/"));

    let docs = browser.open(&format!("{public_url}/docs")).await;
    assert_eq!(
        (docs.status.as_u16(), docs.url.path()),
        (200, "/connect/docs/")
    );
    let setup = browser
        .open(&format!("{public_url}/docs/swagger-initializer.js"))
        .await;
    assert!(
        setup.text.contains("\"/connect/api/v1/openapi.json\""),
        "{}",
        setup.text
    );
    let document = browser
        .open(&format!("{public_url}/api/v1/openapi.json"))
        .await;
    assert_eq!(document.json()["info"]["title"], "Patchbay");

    // The doctor reports the path that a proxy does not remove.
    let unmapped = format!("{}/unmapped", app.url);
    let report = run_doctor(&app, &[("PUBLIC_URL", &unmapped)], None).await;
    let reachable = report.findings.iter().find(|one| one.check == "reachable");
    let remediation = reachable.unwrap().remediation.as_deref().unwrap();
    assert!(
        remediation.contains("remove the path /unmapped"),
        "{report}"
    );
}
