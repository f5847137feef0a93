//! Answers that are kept for a request's Idempotency-Key.

use serde_json::Value;

use crate::auth::UserId;
use crate::connections::Transaction;

/// What is known of a key.
#[derive(Debug)]
pub(in crate::connections) enum KeyUse {
    /// Nobody has used it: it is this request's now.
    New,
    /// Another request with it is under way.
    UnderWay,
    /// It was used for something else.
    Other,
    /// It was answered with this.
    Answered(Value),
}

/// Takes a key, or says who has it. One that has been under way for longer than `lease` seconds was lost with its process.
pub(in crate::connections) async fn take_key(
    db: &mut Transaction,
    user: &UserId,
    key: &str,
    fingerprint: &[u8],
    lease: f64,
) -> sqlx::Result<KeyUse> {
    let taken = sqlx::query(
        "insert into idempotency_key (user_id, key, fingerprint) values ($1, $2, $3) \
         on conflict (user_id, key) do update set created_at = now() \
         where idempotency_key.answer is null and idempotency_key.fingerprint = $3 \
           and idempotency_key.created_at < now() - make_interval(secs => $4)",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(fingerprint)
    .bind(lease)
    .execute(&mut *db)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(KeyUse::New);
    }
    let (whose, same, answer): (String, bool, Option<Value>) = sqlx::query_as(
        "select user_id, fingerprint = $3, answer from idempotency_key where user_id = $1 and key = $2",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(fingerprint)
    .fetch_one(db)
    .await?;
    Ok(match answer {
        _ if !same || whose != user.as_str() => KeyUse::Other,
        Some(answer) => KeyUse::Answered(answer),
        None => KeyUse::UnderWay,
    })
}

/// Keeps the answer for a key.
pub(in crate::connections) async fn keep_answer(
    db: &mut Transaction,
    user: &UserId,
    key: &str,
    answer: &Value,
) -> sqlx::Result<()> {
    sqlx::query("update idempotency_key set answer = $3 where user_id = $1 and key = $2")
        .bind(user.as_str())
        .bind(key)
        .bind(answer)
        .execute(db)
        .await?;
    Ok(())
}

/// Lets a key go whose request came to nothing: the same may be tried again.
pub(in crate::connections) async fn drop_key(
    db: &mut Transaction,
    user: &UserId,
    key: &str,
) -> sqlx::Result<()> {
    sqlx::query("delete from idempotency_key where user_id = $1 and key = $2 and answer is null")
        .bind(user.as_str())
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets a user's keys.
pub(in crate::connections) async fn forget_keys_of(
    db: &mut Transaction,
    user: &UserId,
) -> sqlx::Result<()> {
    sqlx::query("delete from idempotency_key where user_id = $1")
        .bind(user.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets keys older than this many seconds, some at a time.
pub(in crate::connections) async fn forget_keys(
    db: &mut Transaction,
    age: f64,
    limit: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from idempotency_key where ctid = any(array( \
           select ctid from idempotency_key where created_at < now() - make_interval(secs => $1) \
           order by created_at limit $2))",
    )
    .bind(age)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
