//! Imported connections: Nango did not generate their ids, and they have no tags. Another environment may have the same
//! ids.

use super::*;
use crate::eventually::eventually_value;

/// Imports a connection into the current Nango environment, with this id and without tags.
async fn import_with_id(app: &TestApp, id: &str) {
    app.import(json!({
        "provider_config_key": "gmail",
        "connection_id": id,
        "credentials": { "type": "OAUTH2", "access_token": "imported" },
    }))
    .await;
}

/// Creates users with an imported connection to Gmail, whose creation time is an estimate.
async fn imported(app: &TestApp, count: usize) -> Vec<(User<'_>, Value)> {
    let mut all = connected(app, count).await;
    for (number, (user, connection)) in all.iter_mut().enumerate() {
        delete_at_nango(app, connection).await;
        let nango_id = format!("user-{number}_gmail_default");
        import_with_id(app, &nango_id).await;
        let id: uuid::Uuid = text(connection, "id").parse().unwrap();
        sqlx::query(
            "update user_connector_connection set nango_connection_id = $1, nango_serial = null, \
               nango_created_at = nango_created_at - interval '1 day' where id = $2",
        )
        .bind(&nango_id)
        .bind(id)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
        *connection = user.connection(text(connection, "id")).await;
    }
    all
}

/// Returns the times at which Nango created the users' connections, as far as their rows say.
async fn creation_times(app: &TestApp) -> Vec<chrono::DateTime<chrono::Utc>> {
    sqlx::query_scalar("select nango_created_at from user_connector_connection order by user_id")
        .fetch_all(&mut app.sql().await)
        .await
        .unwrap()
}

/// Starts a replica that cannot verify its Nango environment at the start.
async fn start_unverified(app: &TestApp, environment: &str) -> crate::test_app::Replica {
    app.faults(json!({ "environment": environment, "hang_up": true }))
        .await;
    let replica = app.replica(&[]).await;
    app.faults(json!({ "environment": environment })).await;
    replica
}

/// Returns the ids and tags of all of Nango's connections.
async fn tags_at_nango(app: &TestApp) -> Vec<(Value, Value)> {
    let (_, body) = app.nango(Method::GET, "/connections").await;
    let all = body["connections"].as_array().unwrap().iter();
    all.map(|one| (one["connection_id"].clone(), one["tags"].clone()))
        .collect()
}

#[tokio::test]
async fn nothing_is_deleted_before_environment_is_verified() {
    // With one connection, none is left after its disconnect. The integrations identify the environment.
    for count in [1, 4] {
        let app = app().await;
        let all = imported(&app, count).await;
        app.sweep().await;
        let before = app.nango_connections().await;
        let replica = start_unverified(&app, "staging").await;
        let id = "user-0_gmail_default";
        import_with_id(&app, id).await;
        let (status, ended) = all[0].0.at(&replica).disconnect("gmail", "").await;
        assert_eq!(
            (status.as_u16(), &ended["upstream_deleted"]),
            (200, &json!(false))
        );
        app.service().await.deletions.delete_due().await.unwrap();
        assert_eq!(app.nango_connections().await, [id]);

        app.faults(json!({})).await;
        assert_eq!(app.nango_connections().await, before);
        app.advance(TimeDelta::minutes(11));
        app.service().await.deletions.delete_due().await.unwrap();
        let left = eventually_value(
            async || app.nango_connections().await,
            |left| left.len() < count,
        )
        .await;
        assert!(!left.contains(&id.to_owned()), "{left:?}");
    }
}

#[tokio::test]
async fn same_imported_id_in_another_environment_proves_nothing() {
    let app = app().await;
    let all = imported(&app, 4).await;
    // The first sweep recognizes the environment by the ids, and corrects the creation times.
    let estimated = creation_times(&app).await;
    app.sweep().await;
    let corrected = creation_times(&app).await;
    assert!(estimated.iter().zip(&corrected).all(|(a, b)| a != b));

    app.faults(json!({ "environment": "staging" })).await;
    app.advance(TimeDelta::minutes(1));
    import_with_id(&app, "user-0_gmail_default").await;
    let (service, stop) = (app.service().await, CancellationToken::new());
    for _ in 0..6 {
        assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
        app.advance(TimeDelta::minutes(1));
    }
    let engaged = service.core.brakes.engaged().await.unwrap();
    assert_eq!(engaged[0].brake, Brake::Nango);
    assert_eq!(creation_times(&app).await, corrected);
    assert_eq!(statuses(&all).await, ["connected"; 4]);
    app.faults(json!({})).await;
    assert_eq!(app.sweep().await.missing, 0);
}

#[tokio::test]
async fn few_imported_ids_do_not_identify_an_environment() {
    let app = app().await;
    imported(&app, 5).await;
    // Nothing was recorded yet, and a staging environment has two of the ids.
    sqlx::query("update installation set nango_integrations = null")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let estimated = creation_times(&app).await;
    app.faults(json!({ "environment": "staging" })).await;
    for id in ["user-0_gmail_default", "user-1_gmail_default"] {
        import_with_id(&app, id).await;
    }
    let (service, stop) = (app.service().await, CancellationToken::new());
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    assert_eq!(creation_times(&app).await, estimated);
    app.faults(json!({})).await;
    assert_eq!(app.sweep().await.listed, 5);
    assert_ne!(creation_times(&app).await, estimated);
}

#[tokio::test]
async fn released_copy_deletes_no_untagged_connection() {
    let app = app().await;
    let all = imported(&app, 4).await;
    let tagged = app.user("tagged").await;
    let other = tagged.connected("gmail").await;
    app.sweep().await;
    let production = tags_at_nango(&app).await;
    let moved = "update installation set public_url = 'https://original.example.com/'";
    sqlx::query(moved)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let service = app.service().await;
    assert!(service.core.brakes.release_copy().await.unwrap());
    let copy = app.replica(&[]).await;
    // A disconnect, a removal and an erasure.
    assert_eq!(all[0].0.at(&copy).disconnect("gmail", "").await.0, 200);
    sqlx::query(
        "update user_connector_connection set status = 'error', status_reason = 'needs_reauthorization' \
         where user_id = 'user-1'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let path = format!("/connections/{}", text(&all[1].1, "id"));
    let (status, removed) = all[1].0.at(&copy).call(Method::DELETE, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{removed}");
    let service = app.service().await;
    let erased = "user-2".to_owned().try_into().unwrap();
    assert_eq!(service.erasure.erase(&erased).await.unwrap().connections, 1);
    service.deletions.delete_due().await.unwrap();
    assert_eq!(tags_at_nango(&app).await, production);
    // A reconnect creates another connection at Nango, which the next disconnect deletes.
    app.faults(json!({ "consent": "allow" })).await;
    for (user, connection) in [&all[3], &(tagged, other)] {
        let (user, id) = (user.at(&copy), text(connection, "id"));
        let path = format!("/connections/{id}/reconnect");
        let (status, started) = user.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{started}");
        app.popup(text(&started, "oauth_url")).await;
        let nango_id = &connection["nango_connection_id"];
        eventually_value(
            async || user.connection(id).await,
            |now| now["nango_connection_id"] != *nango_id,
        )
        .await;
        let now = tags_at_nango(&app).await;
        assert_eq!((now.len(), &now[1..]), (6, &production[..]));
        // A reconnect of the copy's own connection keeps it.
        let (_, started) = user.call(Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        assert_eq!(tags_at_nango(&app).await.len(), 6);
        assert_eq!(user.disconnect("gmail", "").await.0, 200);
        service.deletions.delete_due().await.unwrap();
        let ids: Vec<&str> = production
            .iter()
            .map(|(id, _)| id.as_str().unwrap())
            .collect();
        app.wait_for_nango_connections(&ids).await;
        assert_eq!(tags_at_nango(&app).await, production);
    }
}
