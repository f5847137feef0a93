//! The command `patchbay sandbox`, and the README's tour of it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::process::{Process, new_folder};
use crate::test_app::{client, free_port};
use crate::test_database;

/// Starts `patchbay sandbox`. Returns it with its URL and that of its Nango.
fn sandbox(folder: &Path) -> (Process, String, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
    let (port, nango_port) = (free_port().to_string(), free_port().to_string());
    let settings = [("PORT", &*port), ("SANDBOX_PORT", &*nango_port)];
    let process = Process::start_in(folder, program, &["sandbox"], &settings).unwrap();
    (
        process,
        format!("http://localhost:{port}"),
        format!("http://localhost:{nango_port}"),
    )
}

/// Returns the processes on this machine that use `folder`.
fn processes_of(folder: &Path) -> Vec<String> {
    let output = Command::new("ps").args(["-A", "-o", "args"]).output();
    let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    let of_folder = |line: &&str| line.contains(folder.to_str().unwrap());
    text.lines()
        .filter(of_folder)
        .map(ToOwned::to_owned)
        .collect()
}

#[tokio::test]
async fn readme_tour_runs() {
    let readme = include_str!("../../README.md");
    let (_, tour) = readme.split_once("\n## A tour\n").unwrap();
    let (tour, _) = tour.split_once("\n## ").unwrap();
    let blocks = tour.split("```sh\n").skip(1);
    let script: String = blocks
        .map(|block| block.split_once("```").unwrap().0)
        .collect();
    let (mut process, url, nango) = sandbox(&new_folder());
    process.until_ready_is(&url, StatusCode::OK).await;
    let script = script
        .replace("http://localhost:8000", &url)
        .replace("http://localhost:8001", &nango);
    process.follows(&script, "").await;
    // Nango no longer has the connection that the tour disconnected.
    let stored = client().get(format!("{nango}/sandbox/connections"));
    let stored: Value = stored.send().await.unwrap().json().await.unwrap();
    let integrations: Vec<_> = stored
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["provider_config_key"].as_str().unwrap())
        .collect();
    assert_eq!(integrations, ["notion", "gmail"]);
    // The console finds the controls, and connections have account names.
    let reported = client().get(format!("{url}/console/config.json"));
    let reported: Value = reported.send().await.unwrap().json().await.unwrap();
    assert_eq!(reported["controls"], nango);
    let token = || {
        let request = client().post(format!("{nango}/sandbox/token"));
        request.json(&serde_json::json!({ "user": "ada" }))
    };
    let foreign = token().header("origin", "https://evil.test").send();
    assert_eq!(foreign.await.unwrap().status(), StatusCode::FORBIDDEN);
    let token = token().header("origin", &url).send();
    let token: Value = token.await.unwrap().json().await.unwrap();
    let list = client().get(format!(
        "{url}/api/v1/connectors/connections?status=connected"
    ));
    let list = list.bearer_auth(token["token"].as_str().unwrap()).send();
    let list: Value = list.await.unwrap().json().await.unwrap();
    for connection in list["connections"].as_array().unwrap() {
        assert_eq!(connection["account"]["name"], "Ada Lovelace (work)");
    }
    process.signal("INT").await;
    assert!(process.ended().await.success(), "{}", process.output());
}

#[tokio::test]
async fn sandbox_restarts_after_kill_and_leaves_no_process() {
    let folder = new_folder();
    let (mut process, url, _) = sandbox(&folder);
    process.until_ready_is(&url, StatusCode::OK).await;
    assert!(processes_of(&folder).len() > 1);
    process.signal("KILL").await;
    assert!(!process.ended().await.success());
    // The last process removes the folder.
    std::mem::forget(process);

    for signal in ["INT", "TERM"] {
        let (mut process, url, _) = sandbox(&folder);
        process.until_ready_is(&url, StatusCode::OK).await;
        process.signal(signal).await;
        assert!(process.ended().await.success(), "{}", process.output());
        assert_eq!(processes_of(&folder), [""; 0]);
        std::mem::forget(process);
    }
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn second_sandbox_in_same_folder_is_rejected() {
    let folder = new_folder();
    let (mut first, url, _) = sandbox(&folder);
    first.until_ready_is(&url, StatusCode::OK).await;
    let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
    let output = Command::new(program)
        .arg("sandbox")
        .current_dir(&folder)
        .env("PORT", free_port().to_string())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another Patchbay is using"), "{text}");
}

#[tokio::test]
async fn unavailable_ports_are_reported_clearly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let free = free_port().to_string();
    let cases = [
        (vec![("PORT", "65535")], "PORT=65535 has no next port"),
        (vec![("PORT", "80000")], "PORT is too large"),
        (vec![("PORT", "0")], "PORT must be at least 1"),
        (
            vec![("PORT", &*taken), ("SANDBOX_PORT", &*free)],
            "set PORT to another",
        ),
        (
            vec![("PORT", &*free), ("SANDBOX_PORT", &*taken)],
            "Set SANDBOX_PORT to a free port",
        ),
    ];
    for (settings, reported) in cases {
        let mut process = Process::start(&["sandbox"], &settings);
        assert_eq!(process.ended().await.code(), Some(1));
        assert!(process.output().contains(reported), "{}", process.output());
        assert_eq!(processes_of(process.folder()), [""; 0]);
    }
    drop(listener);
}

#[tokio::test]
async fn sandbox_reports_all_invalid_variables() {
    let settings = [
        ("PORT", "eighty"),
        ("SANDBOX_PORT", "80000"),
        ("LOG_FORMAT", "xml"),
    ];
    let mut process = Process::start(&["sandbox"], &settings);
    assert_eq!(process.ended().await.code(), Some(1));
    let output = process.output();
    for (name, _) in settings {
        assert!(output.contains(&format!("  {name} ")), "{output}");
    }
}

#[tokio::test]
async fn sandbox_runs_as_non_root_user() {
    let id = |option: &[&str]| {
        let output = Command::new("id").args(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    if id(&["-u"]) != "0" {
        eprintln!("SKIPPED: only root can be another user; the other tests were not root");
        return;
    }
    let (user, group) = (id(&["-u", "nobody"]), id(&["-g", "nobody"]));
    let folder = new_folder();
    chown(
        &folder,
        Some(user.parse().unwrap()),
        Some(group.parse().unwrap()),
    )
    .unwrap();
    // The checkout may be accessible to root only.
    let program = folder.join("patchbay");
    fs::copy(env!("CARGO_BIN_EXE_patchbay"), &program).unwrap();
    let (port, nango_port) = (free_port().to_string(), free_port().to_string());
    let arguments = [
        "--reuid",
        &user,
        "--regid",
        &group,
        "--clear-groups",
        "--",
        program.to_str().unwrap(),
        "sandbox",
    ];
    let settings = [("PORT", &*port), ("SANDBOX_PORT", &*nango_port)];
    let setpriv = Path::new("setpriv");
    let mut process = Process::start_in(&folder, setpriv, &arguments, &settings).unwrap();
    let url = format!("http://localhost:{port}");
    process.until_ready_is(&url, StatusCode::OK).await;
    process.signal("INT").await;
    assert!(process.ended().await.success(), "{}", process.output());
    assert_eq!(processes_of(&folder), [""; 0]);
}

#[tokio::test]
async fn sandbox_ignores_env_file() {
    let folder = new_folder();
    let real = "DATABASE_URL=postgres://nobody@127.0.0.1:1/none\nCONNECT_BINDING=nonsense\n";
    fs::write(folder.join(".env"), real).unwrap();
    let (mut process, url, _) = sandbox(&folder);
    process.until_ready_is(&url, StatusCode::OK).await;
}

#[tokio::test]
async fn sandbox_empties_only_its_own_database() {
    let database = test_database::database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    let rows = async |sql: &mut PgConnection| {
        let rows = sqlx::query_scalar("select count(*) from precious").fetch_one(sql);
        rows.await.unwrap_or(-1_i64)
    };
    let make = "create table precious as select 1";
    sqlx::raw_sql(make).execute(&mut sql).await.unwrap();
    let (port, nango_port) = (free_port().to_string(), free_port().to_string());
    let settings = [
        ("PORT", &*port),
        ("SANDBOX_PORT", &*nango_port),
        ("DATABASE_URL", database.url()),
    ];
    let mut refused = Process::start(&["sandbox"], &settings);
    assert_eq!(refused.ended().await.code(), Some(1));
    let reported = "the database of DATABASE_URL has tables that are not the sandbox's";
    assert!(refused.output().contains(reported), "{}", refused.output());
    assert_eq!(rows(&mut sql).await, 1);

    let drop = "drop table precious";
    sqlx::raw_sql(drop).execute(&mut sql).await.unwrap();
    for _ in 0..2 {
        let mut process = Process::start(&["sandbox"], &settings);
        let url = format!("http://localhost:{port}");
        process.until_ready_is(&url, StatusCode::OK).await;
        process.signal("INT").await;
        assert!(process.ended().await.success(), "{}", process.output());
        // The next sandbox empties the database.
        assert_eq!(rows(&mut sql).await, -1);
        sqlx::raw_sql(make).execute(&mut sql).await.unwrap();
    }
}
