//! Requests whose client disconnects leave nothing behind.

use std::pin::pin;
use std::task::Poll;

use futures::future::poll_fn;

use crate::test_database;

/// Polls a future this many times, and then drops it.
async fn cancel_after(times: usize, future: impl Future) {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Pending if polled <= times => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

#[tokio::test]
async fn cancelled_transaction_does_not_leak_into_next_one() {
    let database = test_database::database().await;
    // With a pool size of one, the next transaction gets the same connection.
    let database = test_database::pool(database.url(), 1).await.unwrap();
    for times in (0..6).cycle().take(60) {
        cancel_after(times, database.begin_snapshot()).await;
        let mut tx = database.begin().await.unwrap();
        let kind: (String, String) = sqlx::query_as(
            "select current_setting('transaction_read_only'), current_setting('transaction_isolation')",
        )
        .fetch_one(&mut tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(kind, ("off".to_owned(), "read committed".to_owned()));
    }
}
