//! Listing, reading and updating connections.

use chrono::TimeDelta;
use serde_json::json;

use super::{ada, user, user_with_email};
use crate::nango_contract::scenario::Scenario;

pub(super) const LISTS: &[&str] = &[
    "connections-list",
    "connections-list-filter-connection-id",
    "connections-list-filter-connection-id-none",
    "connections-list-filter-end-user",
    "connections-list-filter-end-user-misses-tags-only",
    "connections-list-filter-end-user-none",
    "connections-list-filter-integration",
    "connections-list-filter-integration-multi",
    "connections-list-filter-integration-unknown",
    "connections-list-filter-organization",
    "connections-list-filter-tags",
    "connections-list-filter-tags-encoded",
    "connections-list-filter-tags-json",
    "connections-list-filter-tags-two",
    "connections-list-limit-too-big",
    "connections-list-limit-zero",
    "connections-list-page-0",
    "connections-list-page-1",
    "connections-list-page-past-end",
    "connections-list-search",
    "connections-list-unknown-param",
    "legacy-connection-list",
    "cors-get-connections",
    "connections-list-same-end-user-two-emails",
];

#[tokio::test]
async fn connection_lists_match_recordings() {
    let mut scenario = Scenario::new(LISTS).await;
    let bob = || user_with_email("user-200", "bob@example.com");
    let tags = json!({ "tags": { "end_user_id": "user-203", "workspace": "ws-1" } });
    for (integration, id, body) in [
        ("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada()),
        ("github", "6b50b93d-69d1-44d3-b665-f714cedceb7d", bob()),
        ("github", "55e573e5-a337-4441-b5a2-7678894e7457", bob()),
        ("gmail", "fe4000e2-a090-46cf-a134-9fe756ed2528", bob()),
        (
            "github",
            "518df9c9-e42c-454f-be4c-591b842d3333",
            user("user-201"),
        ),
        (
            "github",
            "b4295093-2015-4727-98e7-b91961b6bf86",
            user("user-201"),
        ),
        (
            "github",
            "73fbda34-518c-4e3f-9b1a-72f96681a5ab",
            user("user-202"),
        ),
        ("github", "fd2f7b80-e775-46be-b6b3-25e8d243c300", tags),
    ] {
        scenario.connect(integration, id, body).await;
        scenario.advance(TimeDelta::milliseconds(137));
    }
    // A random id may contain the recorded search term, but no "@".
    scenario.substitutions.learn("search=ada", "search=ada%40");
    scenario.replay_all(&LISTS[..22]).await;
    let newest = "2e1817d6-f4cb-456b-865a-a045f964e39a";
    scenario.connect("github", newest, user("user-502")).await;
    scenario.replay("cors-get-connections").await;
    for (id, email) in [
        ("a2f4c1b0-76b9-4bc3-b472-e0a76660e74f", "first@example.com"),
        ("39c6bac2-d3d0-44b9-9dbf-62044c35b559", "second@example.com"),
    ] {
        scenario
            .connect("github", id, user_with_email("user-903", email))
            .await;
    }
    scenario
        .replay("connections-list-same-end-user-two-emails")
        .await;
    scenario.finish();
}

pub(super) const ONE: &[&str] = &[
    "connection-get",
    "connection-get-404",
    "connection-get-bad-bool",
    "connection-get-bad-connection-id",
    "connection-get-missing-provider-config-key",
    "connection-get-unknown-integration",
    "connection-get-unknown-param",
    "connection-get-wrong-integration",
    "connection-get-with-refresh-token",
    "connection-get-force-refresh",
    "legacy-connection-get",
    "legacy-connection-delete",
];

#[tokio::test]
async fn connection_reads_match_recordings() {
    let mut scenario = Scenario::new(ONE).await;
    scenario
        .connect("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada())
        .await;
    scenario.replay_all(ONE).await;
    scenario.finish();
}

pub(super) const CHANGES: &[&str] = &[
    "metadata-set",
    "metadata-patch",
    "connection-get-after-metadata",
    "metadata-set-404",
    "metadata-set-multi",
    "metadata-set-validation-error",
    "legacy-metadata-set",
    "legacy-metadata-patch",
    "connection-patch-end-user",
    "connection-get-after-patch-end-user",
    "connection-patch-tags",
    "connection-get-after-patch-tags",
    "connection-patch-tags-uppercase",
    "connection-get-after-patch-tags-uppercase",
    "connection-patch-empty",
    "connection-patch-404",
    "connection-patch-missing-provider-config-key",
    "connection-patch-tags-bad-key",
    "connection-patch-unknown-field",
    "connection-patch-unknown-integration",
    "connection-patch-webhook-url-override",
];

#[tokio::test]
async fn metadata_and_tag_updates_match_recordings() {
    let mut scenario = Scenario::new(CHANGES).await;
    scenario
        .connect(
            "github",
            "39c6bac2-d3d0-44b9-9dbf-62044c35b559",
            user("user-903"),
        )
        .await;
    scenario
        .connect("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada())
        .await;
    scenario.replay_all(CHANGES).await;
    scenario.finish();
}
