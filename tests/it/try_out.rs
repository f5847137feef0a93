//! The command that a newcomer runs first, and the README's tour of it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::house::{client, free_port};
use crate::postgres;
use crate::process::{Process, new_folder};

/// A `patchbay sandbox`, where it serves, and where its Nango is.
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

/// What runs on this machine and has to do with `folder`.
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
async fn the_readmes_tour_is_true() {
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
    // What the tour disconnected is not among what Nango holds.
    let held = client().get(format!("{nango}/sandbox/connections"));
    let held: Value = held.send().await.unwrap().json().await.unwrap();
    let integrations: Vec<_> = held
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["provider_config_key"].as_str().unwrap())
        .collect();
    assert_eq!(integrations, ["notion", "gmail"]);
    // The console finds the controls, and connections have names of accounts.
    let told = client().get(format!("{url}/console/config.json"));
    let told: Value = told.send().await.unwrap().json().await.unwrap();
    assert_eq!(told["controls"], nango);
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
    assert!(process.ended().await.success(), "{}", process.said());
}

#[tokio::test]
async fn it_starts_again_after_whatever_ended_it_and_leaves_nothing_running() {
    let folder = new_folder();
    let (mut process, url, _) = sandbox(&folder);
    process.until_ready_is(&url, StatusCode::OK).await;
    assert!(processes_of(&folder).len() > 1);
    process.signal("KILL").await;
    assert!(!process.ended().await.success());
    // The folder goes with the last process only.
    std::mem::forget(process);

    for signal in ["INT", "TERM"] {
        let (mut process, url, _) = sandbox(&folder);
        process.until_ready_is(&url, StatusCode::OK).await;
        process.signal(signal).await;
        assert!(process.ended().await.success(), "{}", process.said());
        assert_eq!(processes_of(&folder), [""; 0]);
        std::mem::forget(process);
    }
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_second_one_in_the_same_folder_is_told_so() {
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another Patchbay is using"), "{said}");
}

#[tokio::test]
async fn ports_that_it_cannot_have_are_told_in_plain_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let free = free_port().to_string();
    let cases = [
        (vec![("PORT", "65535")], "there is no port after PORT=65535"),
        (vec![("PORT", "80000")], "PORT cannot be read"),
        (
            vec![("PORT", &*taken), ("SANDBOX_PORT", &*free)],
            "PORT names another",
        ),
        (
            vec![("PORT", &*free), ("SANDBOX_PORT", &*taken)],
            "SANDBOX_PORT names another",
        ),
    ];
    for (settings, told) in cases {
        let mut process = Process::start(&["sandbox"], &settings);
        assert_eq!(process.ended().await.code(), Some(1));
        assert!(process.said().contains(told), "{}", process.said());
        assert_eq!(processes_of(process.folder()), [""; 0]);
    }
    drop(listener);
}

#[tokio::test]
async fn another_user_than_root_runs_it_too() {
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
    // The checkout may be where nobody but root can go.
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
    assert!(process.ended().await.success(), "{}", process.said());
    assert_eq!(processes_of(&folder), [""; 0]);
}

#[tokio::test]
async fn a_file_of_settings_is_somebody_elses() {
    let folder = new_folder();
    let real = "DATABASE_URL=postgres://nobody@127.0.0.1:1/none\nCONNECT_BINDING=nonsense\n";
    fs::write(folder.join(".env"), real).unwrap();
    let (mut process, url, _) = sandbox(&folder);
    process.until_ready_is(&url, StatusCode::OK).await;
}

#[tokio::test]
async fn of_given_databases_only_its_own_is_emptied() {
    let database = postgres::database().await;
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
    let told = "the database of DATABASE_URL has tables that are not the sandbox's";
    assert!(refused.said().contains(told), "{}", refused.said());
    assert_eq!(rows(&mut sql).await, 1);

    let drop = "drop table precious";
    sqlx::raw_sql(drop).execute(&mut sql).await.unwrap();
    for _ in 0..2 {
        let mut process = Process::start(&["sandbox"], &settings);
        let url = format!("http://localhost:{port}");
        process.until_ready_is(&url, StatusCode::OK).await;
        process.signal("INT").await;
        assert!(process.ended().await.success(), "{}", process.said());
        // What a sandbox has left in it is emptied by the next.
        assert_eq!(rows(&mut sql).await, -1);
        sqlx::raw_sql(make).execute(&mut sql).await.unwrap();
    }
}
