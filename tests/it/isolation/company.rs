//! Users whose reads share a statement.

use reqwest::Method;
use serde_json::json;

use crate::house::{House, User};

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_error_for_its_own_user_only() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    ada.connect("gmail").await;
    bob.connect("gmail").await;
    house.faults(json!({ "only": "tags", "status": 500 })).await;
    sqlx::query(
        "update user_connector_connection set status = 'error', status_reason = 'of another version' \
         where user_id = 'ada'",
    )
    .execute(&mut house.sql().await)
    .await
    .unwrap();
    // At the same time, so that they share statements.
    let list = async |user: &User<'_>| user.call(Method::GET, "/connections", None).await.0;
    let all = futures::future::join_all((0..40).map(async |_| {
        let (adas, bobs) = tokio::join!(list(&ada), list(&bob));
        (adas.as_u16(), bobs.as_u16())
    }))
    .await;
    assert!(all.iter().all(|both| *both == (500, 200)), "{all:?}");
}
