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

/// Returns the ids and tags of all of Nango's connections.
async fn tags_at_nango(app: &TestApp) -> Vec<(Value, Value)> {
    let (_, body) = app.nango(Method::GET, "/connections").await;
    let all = body["connections"].as_array().unwrap().iter();
    all.map(|one| (one["connection_id"].clone(), one["tags"].clone()))
        .collect()
}

#[tokio::test]
async fn released_copy_deletes_no_untagged_connection() {
    let app = app().await;
    let all = imported(&app, 4).await;
    let tagged = app.user("tagged").await;
    let other = tagged.connected("gmail").await;
    app.sweep().await;
    let production = tags_at_nango(&app).await;
    app.service()
        .await
        .core
        .brakes
        .release_copy()
        .await
        .unwrap();
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
