//! Temporarily false responses, with too little data to recognize them.

use patchbay::domain::{Integration, NangoConnectionRef};
use patchbay::service::orphans::Orphan;
use sqlx::AssertSqlSafe;

use super::*;

#[tokio::test]
async fn hidden_connections_of_a_moment_are_not_missing() {
    let app = app().await;
    let all = connected(&app, 5).await;
    let before = app.nango_connections().await;
    // One user is in the popup when Nango starts to return empty lists.
    let late = app.user("late").await;
    let started = late.connect("gmail").await;
    app.faults(json!({ "hide_connections": ["*"], "consent": "allow" }))
        .await;
    app.popup(text(&started, "oauth_url")).await;
    let (service, stop) = (app.service().await, CancellationToken::new());
    for _ in 0..5 {
        assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
        service.deletions.delete_due().await.unwrap();
        for (user, connection) in &all {
            let path = format!("/connections/{}/check", text(connection, "id"));
            let (status, body) = user.call(Method::POST, &path, None).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        }
        let (code, _) = token(&app, 0, &all[0].1).await;
        assert!(code == 200 || code == 503, "{code}");
        app.advance(TimeDelta::seconds(5));
    }
    assert_eq!(statuses(&all).await, ["connected"; 5]);
    app.faults(json!({})).await;
    app.sweep().await;
    assert_eq!(statuses(&all).await, ["connected"; 5]);
    late.wait_until(text(&started, "connection_id"), "connected")
        .await;
    let after = app.nango_connections().await;
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|id| after.contains(id)));
}

#[tokio::test]
async fn two_absent_connections_do_not_doubt_the_environment() {
    let app = app().await;
    let all = connected(&app, 2).await;
    for (_, connection) in &all {
        delete_at_nango(&app, connection).await;
    }
    // A disconnect finds its own connection missing, and a sweep the other one.
    let (_, ended) = all[0].0.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.sweep_until_missing().await, 1);
    assert_eq!(engaged(&app).await, []);
    assert_eq!(statuses(&all).await, ["disconnected", "error"]);
    let again = all[0].0.connected("gmail").await;
    assert_eq!(again["status"], "connected");
}

#[tokio::test]
async fn unknown_environment_stays_unknown_with_fewer_connections() {
    let app = app().await;
    let all = connected(&app, 3).await;
    app.faults(json!({ "environment": "staging" })).await;
    let (service, stop) = (app.service().await, CancellationToken::new());
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    let (user, _) = &all[0];
    let path = format!("/connections/{}/check", text(&all[0].1, "id"));
    assert_eq!(user.call(Method::POST, &path, None).await.0, 503);
    // After the users' disconnects too few connections are left to recognize the environment, so a missing one proves
    // nothing.
    for (user, _) in &all[..2] {
        let (_, ended) = user.disconnect("gmail", "").await;
        assert_eq!(ended["upstream_deleted"], false);
    }
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    app.faults(json!({})).await;
    app.sweep().await;
    assert_eq!(statuses(&all[2..]).await, ["connected"]);
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await.len(), 1);
}

#[tokio::test]
async fn refusals_of_a_part_for_half_a_minute_change_no_status() {
    let app = app().await;
    let all = connected(&app, 8).await;
    let hers = |numbers: [usize; 4]| numbers.map(|number| &all[number].1);
    for part in [[0, 1, 2, 3], [2, 3, 4, 5], [0, 2, 4, 6]] {
        refuse_refresh(&app, &hers(part)).await;
        for number in part {
            let (user, connection) = &all[number];
            let checked = check(user, text(connection, "id")).await;
            assert_eq!(checked["status"], "connected", "{checked}");
            let expire = json!({ "connection_id": connection["nango_connection_id"] });
            app.control("expire", Method::POST, expire).await;
            assert_eq!(token(&app, number, connection).await.0, 503);
        }
        app.sweep().await;
        app.advance(TimeDelta::seconds(10));
    }
    assert_eq!(statuses(&all).await, ["connected"; 8]);
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(2));
    app.sweep().await;
    for (number, (user, connection)) in all.iter().enumerate() {
        let now = user.connection(text(connection, "id")).await;
        assert_eq!(
            (&now["status"], &now["failing_since"]),
            (&json!("connected"), &Value::Null)
        );
        assert_eq!(token(&app, number, connection).await.0, 200);
    }
}

#[tokio::test]
async fn grant_beyond_a_lagging_snapshot_is_kept_and_applied() {
    let app = app().await;
    let all = connected(&app, 3).await;
    let late = app.user("late").await;
    let started = late.connect("gmail").await;
    // The standby has not replicated the attempt yet.
    let mut sql = app.sql().await;
    for statement in [
        "create table later_attempt as select * from connect_attempt where user_id = 'late'",
        "create table later_owner as select * from attempt_owner where user_id = 'late'",
        "delete from attempt_owner where user_id = 'late'",
        "delete from connect_attempt where user_id = 'late'",
    ] {
        sqlx::query(statement).execute(&mut sql).await.unwrap();
    }
    app.faults(json!({ "consent": "allow" })).await;
    app.popup(text(&started, "oauth_url")).await;
    let service = app.service().await;
    assert_eq!(app.sweep().await.orphans, 1);
    service.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await.len(), 4);
    let queued: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(queued, 0);
    for statement in [
        "insert into connect_attempt select * from later_attempt",
        "insert into attempt_owner select * from later_owner",
    ] {
        sqlx::query(statement).execute(&mut sql).await.unwrap();
    }
    let report = app.sweep().await;
    assert_eq!((report.orphans, report.found), (0, 1));
    let connection = late.connection(text(&started, "connection_id")).await;
    assert_eq!(connection["status"], "connected");
    assert_eq!(statuses(&all).await, ["connected"; 3]);
}

#[tokio::test]
async fn row_older_than_its_grant_is_not_missing() {
    let app = app().await;
    let all = connected(&app, 3).await;
    let (user, old) = &all[0];
    user.disconnect("gmail", "").await;
    let new = user.connected("gmail").await;
    assert_eq!(new["id"], old["id"]);
    // The backup precedes the disconnect and the second connect.
    for statement in [
        "delete from attempt_owner where attempt_id = (select max(id::text)::uuid from connect_attempt where user_id = 'user-0')",
        "delete from connect_attempt where id = (select max(id::text)::uuid from connect_attempt where user_id = 'user-0')",
        "update user_connector_connection c set attempt_id = a.id, attempt_created_at = a.created_at \
         from connect_attempt a where a.user_id = c.user_id and c.user_id = 'user-0'",
    ] {
        sqlx::query(statement)
            .execute(&mut app.sql().await)
            .await
            .unwrap();
    }
    let restore = "update user_connector_connection set nango_connection_id = $1, nango_serial = nango_serial - 1, \
         nango_created_at = nango_created_at - interval '1 hour' where user_id = 'user-0'";
    sqlx::query(restore)
        .bind(text(old, "nango_connection_id"))
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(5));
    let report = app.sweep().await;
    assert_eq!((report.missing, report.orphans), (0, 1));
    let path = format!("/connections/{}/check", text(old, "id"));
    let odd = json!({
        "connection_id": new["nango_connection_id"], "provider_config_key": "gmail", "created": "yesterday",
    });
    // The second time, Nango's entry of the grant cannot be read.
    for faults in [json!({}), json!({ "odd_list_entries": [odd] })] {
        app.faults(faults).await;
        let (status, checked) = user.call(Method::POST, &path, None).await;
        assert_eq!(
            (status.as_u16(), &checked["code"]),
            (503, &json!("provider_unavailable"))
        );
    }
    app.faults(json!({})).await;
    assert_eq!(
        token(&app, 0, old).await,
        (503, "provider_unavailable".to_owned())
    );
    let service = app.service().await;
    let orphans = Orphans::new(service.core.clone()).list().await.unwrap();
    Orphans::new(service.core.clone())
        .restore(&orphans[0])
        .await
        .unwrap();
    let restored = user.connection(text(old, "id")).await;
    assert_eq!(restored["nango_connection_id"], new["nango_connection_id"]);
    assert_eq!(token(&app, 0, old).await.0, 200);
    assert_eq!(statuses(&all).await, ["connected"; 3]);
}

#[tokio::test]
async fn older_orphan_does_not_replace_newer_usable_grant() {
    let app = app().await;
    let all = connected(&app, 1).await;
    let (_, connection) = &all[0];
    let orphan = Orphan {
        nango: NangoConnectionRef {
            id: "older".to_owned(),
            created_at: app.clock.now() - TimeDelta::days(1),
            serial: Some(0),
            integration: Integration {
                key: "gmail".to_owned(),
                provider: None,
            },
        },
        user: Some("user-0".to_owned().try_into().unwrap()),
        connection: Some(text(connection, "id").parse().unwrap()),
        connector: Some("gmail".to_owned()),
        instance_id: String::new(),
    };
    let service = app.service().await;
    let orphans = Orphans::new(service.core.clone());
    for (state, is_refused) in [
        (
            "status_reason = 'account_mismatch', pending_account_id = 'ben'",
            true,
        ),
        (
            "status_reason = 'attempt_expired', pending_account_id = null",
            true,
        ),
        ("status_reason = 'needs_reauthorization'", false),
    ] {
        let change = format!("update user_connector_connection set status = 'error', {state}");
        sqlx::query(AssertSqlSafe(change))
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        let restored = orphans.restore(&orphan).await;
        assert_eq!(restored.is_err(), is_refused, "{state}: {restored:?}");
    }
}
