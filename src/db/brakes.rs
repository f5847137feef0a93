//! Brakes that limit automatic changes, and the identity of the database and its installation.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgExecutor};

use super::{Transaction, connection_count};
use crate::domain::{Brake, InstallationId, UserId};

/// The number of users with a change of a kind within an hour that are allowed, regardless of the share.
const MIN_LIMIT: i64 = 10;

/// The divisor for the share of users, of the number of connections, that may have a change within an hour: 2 %.
const SHARE: i64 = 50;

/// The state of a brake.
#[derive(Clone, Copy, Debug, FromRow)]
struct BrakeState {
    is_engaged: bool,
    /// `true` for an hour after an operator released the brake, which then does not engage again.
    is_released: bool,
    is_hour_over: bool,
    /// The users with a change within the hour.
    count: i64,
}

/// An engaged brake.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct EngagedBrake {
    pub(crate) kind: String,
    pub(crate) engaged_at: DateTime<Utc>,
}

/// Counts an automatic change of a user's connection. Returns whether the change may be made. If not, engages the brake
/// when the transaction commits. An hour begins with the first change after the previous hour has ended.
///
/// Counts users, because one user may have many connections. `pending` is the number of users whose connections would
/// change as well. Until this transaction ends, no other one counts changes of the kind.
pub(crate) async fn admit_change(
    db: &mut Transaction,
    brake: Brake,
    user: &UserId,
    pending: i64,
) -> sqlx::Result<bool> {
    let state: BrakeState = sqlx::query_as(
        "select engaged_at is not null as is_engaged, coalesce(released_until > now(), false) as is_released, \
           counted_since <= now() - interval '1 hour' as is_hour_over, count from brake where kind = $1 for update",
    )
    .bind(brake.as_str())
    .fetch_one(&mut *db)
    .await?;
    if state.is_engaged {
        return Ok(false);
    }
    let counted = count_user(db, brake, user, &state).await?;
    let wanted = counted + pending;
    if state.is_released || wanted <= MIN_LIMIT {
        return Ok(true);
    }
    let total = connection_count(db).await?;
    if wanted <= total / SHARE {
        return Ok(true);
    }
    sqlx::query("update brake set engaged_at = now() where kind = $1")
        .bind(brake.as_str())
        .execute(db)
        .await?;
    tracing::error!(
        brake = brake.as_str(),
        users = wanted,
        connections = total,
        "connections of too many users would change within an hour without their doing: nothing more of the kind is \
         done. Run `patchbay brake`"
    );
    Ok(false)
}

/// Counts a user once an hour. Returns the number of counted users.
async fn count_user(
    db: &mut Transaction,
    brake: Brake,
    user: &UserId,
    state: &BrakeState,
) -> sqlx::Result<i64> {
    if state.is_hour_over {
        forget_users(db, brake).await?;
    }
    let inserted = sqlx::query(
        "insert into brake_user (kind, user_hash) values ($1, sha256(convert_to($2, 'UTF8'))) on conflict do nothing",
    )
    .bind(brake.as_str())
    .bind(user.as_str())
    .execute(&mut *db)
    .await?;
    let is_new = i64::from(inserted.rows_affected() > 0);
    let before = if state.is_hour_over { 0 } else { state.count };
    sqlx::query(
        "update brake set count = $2, counted_since = case when $3 then now() else counted_since end where kind = $1",
    )
    .bind(brake.as_str())
    .bind(before + is_new)
    .bind(state.is_hour_over)
    .execute(db)
    .await?;
    Ok(before + is_new)
}

async fn forget_users(db: &mut Transaction, brake: Brake) -> sqlx::Result<()> {
    sqlx::query("delete from brake_user where kind = $1")
        .bind(brake.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Releases an engaged brake. For an hour, it does not limit changes of its kind. Returns `false` if it is not engaged.
pub(crate) async fn release_brake(db: &mut Transaction, brake: Brake) -> sqlx::Result<bool> {
    let released = sqlx::query(
        "update brake set engaged_at = null, count = 0, counted_since = now(), \
           released_until = now() + interval '1 hour' where kind = $1 and engaged_at is not null",
    )
    .bind(brake.as_str())
    .execute(&mut *db)
    .await?;
    let was_engaged = released.rows_affected() > 0;
    if was_engaged {
        forget_users(db, brake).await?;
    }
    Ok(was_engaged)
}

/// Removes an erased user from those that the brakes have counted. Their counts stay.
pub(crate) async fn forget_user(db: &mut Transaction, user: &UserId) -> sqlx::Result<()> {
    sqlx::query("delete from brake_user where user_hash = sha256(convert_to($1, 'UTF8'))")
        .bind(user.as_str())
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn engaged_brakes(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<EngagedBrake>> {
    sqlx::query_as("select kind, engaged_at from brake where engaged_at is not null order by kind")
        .fetch_all(db)
        .await
}

/// Returns the kinds of brakes that an operator released less than an hour ago, and the times until which they do not
/// limit changes.
pub(crate) async fn released_brakes(
    db: impl PgExecutor<'_>,
) -> sqlx::Result<Vec<(String, DateTime<Utc>)>> {
    sqlx::query_as("select kind, released_until from brake where released_until > now()")
        .fetch_all(db)
        .await
}

/// The identity of a database and the address at which it is served. A restored or copied database differs in at least
/// one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct Identity {
    /// The database cluster; `None` if the server does not permit reading it.
    pub(crate) system_identifier: Option<i64>,
    pub(crate) database_oid: Option<i64>,
    pub(crate) database_name: Option<String>,
    /// The object identifier of the table `installation`: restoring a dump recreates the table.
    pub(crate) table_oid: Option<i64>,
    pub(crate) public_url: Option<String>,
}

impl Identity {
    /// Returns a description of the difference from `recorded`; `None` if there is none.
    pub(crate) fn differs_from(&self, recorded: &Self) -> Option<String> {
        let show = |value: Option<i64>| value.map_or("unknown".to_owned(), |it| it.to_string());
        let mut differences = Vec::new();
        let mut compare = |what: &str, before: String, now: String| {
            if before != now {
                differences.push(format!("{what} was {before} and is {now}"));
            }
        };
        compare(
            "the system identifier",
            show(recorded.system_identifier),
            show(self.system_identifier),
        );
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (before, now) = (&recorded.database_name, &self.database_name);
        compare("the database", text(before), text(now));
        let oids = |of: &Self| format!("{}/{}", show(of.database_oid), show(of.table_oid));
        compare("the object identifier", oids(recorded), oids(self));
        compare(
            "PUBLIC_URL",
            text(&recorded.public_url),
            text(&self.public_url),
        );
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// Returns the last recorded identity; `None` before the first start.
pub(crate) async fn recorded_identity(db: &mut Transaction) -> sqlx::Result<Option<Identity>> {
    let recorded: Identity = sqlx::query_as(
        "select system_identifier, database_oid, database_name, table_oid, public_url from installation",
    )
    .fetch_one(db)
    .await?;
    Ok(recorded.public_url.is_some().then_some(recorded))
}

/// Returns the current identity of this database at this address.
pub(crate) async fn actual_identity(
    db: &mut Transaction,
    public_url: &str,
) -> sqlx::Result<Identity> {
    let is_readable: bool =
        sqlx::query_scalar("select has_function_privilege('pg_control_system()', 'execute')")
            .fetch_one(&mut *db)
            .await?;
    let system_identifier = if is_readable {
        sqlx::query_scalar("select system_identifier from pg_control_system()")
            .fetch_one(&mut *db)
            .await?
    } else {
        None
    };
    let (database_oid, database_name, table_oid) = sqlx::query_as(
        "select oid::bigint, datname::text, 'installation'::regclass::oid::bigint \
         from pg_database where datname = current_database()",
    )
    .fetch_one(db)
    .await?;
    Ok(Identity {
        system_identifier,
        database_oid,
        database_name,
        table_oid,
        public_url: Some(public_url.to_owned()),
    })
}

pub(crate) async fn record_identity(db: &mut Transaction, identity: &Identity) -> sqlx::Result<()> {
    sqlx::query(
        "update installation set system_identifier = $1, database_oid = $2, database_name = $3, \
           table_oid = $4, public_url = $5",
    )
    .bind(identity.system_identifier)
    .bind(identity.database_oid)
    .bind(&identity.database_name)
    .bind(identity.table_oid)
    .bind(&identity.public_url)
    .execute(db)
    .await?;
    Ok(())
}

/// Makes this database another installation, which sends no webhooks and owns no connection at Nango.
pub(crate) async fn become_copy(db: &mut Transaction) -> sqlx::Result<InstallationId> {
    sqlx::query("delete from webhook_endpoint")
        .execute(&mut *db)
        .await?;
    sqlx::query_scalar(
        "update installation set id = gen_random_uuid(), is_copy = true, orphans = 0 returning id",
    )
    .fetch_one(db)
    .await
}

/// Records that an operator confirmed the Nango environment. Older connections are then no evidence against it.
pub(crate) async fn confirm_environment(
    db: &mut Transaction,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("update installation set nango_confirmed_at = $1, nango_integrations = null")
        .bind(now)
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the integrations of the installation's Nango environment, with when each was created; `None` if none were
/// recorded.
pub(crate) async fn nango_integrations(
    db: impl PgExecutor<'_>,
) -> sqlx::Result<Option<BTreeMap<String, String>>> {
    let recorded: Option<Json<_>> =
        sqlx::query_scalar("select nango_integrations from installation")
            .fetch_one(db)
            .await?;
    Ok(recorded.map(|Json(integrations)| integrations))
}

/// Records the integrations of the installation's Nango environment. Earlier ones are replaced only if `replaces`.
pub(crate) async fn record_integrations(
    db: impl PgExecutor<'_>,
    integrations: &BTreeMap<String, String>,
    replaces: bool,
) -> sqlx::Result<()> {
    sqlx::query(
        "update installation set nango_integrations = $1 \
         where nango_integrations is distinct from $1 and ($2 or nango_integrations is null)",
    )
    .bind(Json(integrations))
    .bind(replaces)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns Nango's ids of the most recently connected connections, except `except`.
pub(crate) async fn confirmed_lately(
    db: &mut Transaction,
    except: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select c.nango_connection_id from user_connector_connection c \
         where c.status = 'connected' and c.nango_connection_id is distinct from $1 \
           and c.connected_at > coalesce((select nango_confirmed_at from installation), '-infinity') \
         order by c.connected_at desc limit $2",
    )
    .bind(except)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Records how many of this installation's connections at Nango have no row. Returns whether the number has changed.
pub(crate) async fn record_orphans(db: impl PgExecutor<'_>, count: i64) -> sqlx::Result<bool> {
    let done = sqlx::query("update installation set orphans = $1 where orphans <> $1")
        .bind(count)
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(crate) async fn orphan_count(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar("select orphans from installation")
        .fetch_one(db)
        .await
}
