//! Checks the database: its version, pooler, schema, privileges and rows.

use super::Report;
use crate::clock::Clock;
use crate::db::{
    CONTRACT_PREFIX, Database, DatabaseConfig, DatabaseError, INSUFFICIENT_PRIVILEGE, SchemaStatus,
};

/// PostgreSQL's code of a full disk, and the class of all missing resources.
const DISK_FULL: &str = "53100";
const INSUFFICIENT_RESOURCES: &str = "53";

/// The clock skew of Nango, in seconds, above which the operator is warned.
pub(crate) const MAX_CLOCK_SKEW_SECONDS: i64 = 5;

/// The remediation of an error whose cause is not known.
const SEE_THE_ERROR: &str =
    "fix the cause that the error names. The log of the database server has more details";

/// The maximum number of unreadable rows in the finding.
const MAX_NAMED_ROWS: usize = 10;

pub(crate) async fn check(report: &mut Report, config: &DatabaseConfig, clock: &Clock) {
    let database = match Database::connect(config).await {
        Ok(database) => database,
        Err(error) => {
            let remediation = match &error {
                DatabaseError::AccessDenied(_) => {
                    "correct the user, password or database in DATABASE_URL"
                }
                DatabaseError::Tls(_) => {
                    "correct sslmode and sslrootcert in DATABASE_URL, or the server's certificate"
                }
                DatabaseError::ReadOnly => {
                    "promote a standby or disable default_transaction_read_only, and set DATABASE_URL to the primary"
                }
                DatabaseError::TooOld(_) => "update the server to PostgreSQL 13 or newer",
                _ => {
                    "start the database, and check firewalls and the host and port in DATABASE_URL"
                }
            };
            report.fail("database", error.to_string(), remediation);
            return;
        }
    };
    match database.schema_status().await {
        Ok(status) => {
            describe(report, &status, clock);
            check_write(report, &database, &status).await;
            // Another check reports missing tables and a damaged schema.
            if status.pending.is_empty() && status.damage.is_empty() {
                check_rows(report, &database, &status.role).await;
            }
            pooler(report, &database);
        }
        Err(DatabaseError::Damaged(damage)) => fail_damaged(report, &damage),
        Err(DatabaseError::Statement(error) | DatabaseError::Privilege(error)) => report.fail(
            "database",
            format!("the schema cannot be read: {error}"),
            remediation(
                &error,
                "grant the user of DATABASE_URL the privileges to read and create tables in its schema",
            ),
        ),
        Err(error) => report.fail(
            "database",
            format!("the schema cannot be read: {error}"),
            SEE_THE_ERROR,
        ),
    }
    database.close().await;
}

fn describe(report: &mut Report, status: &SchemaStatus, clock: &Clock) {
    // `Database::connect` rejects servers that are too old.
    report.ok(
        "database",
        format!("PostgreSQL {} responds", status.version),
    );
    let removed = status
        .newer
        .iter()
        .find(|(_, description)| description.starts_with(CONTRACT_PREFIX));
    match (status.changed.first(), removed) {
        _ if !status.damage.is_empty() => fail_damaged(report, &status.damage),
        (Some(version), _) => report.fail(
            "migrations",
            format!("the applied migration {version} differs from this program's"),
            "use the database of this installation, or restore its schema",
        ),
        (None, Some((version, _))) => report.fail(
            "migrations",
            format!("migration {version} of a newer Patchbay has removed parts of the schema that this version requires"),
            "run that version or a newer one",
        ),
        (None, None) if status.has_legacy_tables => report.warn(
            "migrations",
            "the tables of the FastAPI service are not imported yet",
            "back them up. `patchbay migrate` or the next start imports them, or reports why it cannot and changes nothing (docs/UPGRADING.md)",
        ),
        (None, None) => match (status.pending.len(), status.newer.len()) {
            (0, 0) => report.ok("migrations", "the schema is up to date"),
            (0, newer) => report.ok(
                "migrations",
                format!("the schema has {newer} migrations of a newer version, which removed nothing"),
            ),
            (pending, _) => report.warn(
                "migrations",
                format!("{pending} migrations are not applied yet"),
                "no action required: the next start or `patchbay migrate` applies them",
            ),
        },
    }
    let skew = (status.now - clock.now()).num_seconds();
    let found = format!("the database's clock differs by {skew} s from this machine's");
    let remediation = "synchronize both with NTP. A replica whose clock differs by more than a minute is not ready";
    match skew.abs() {
        0..=2 => report.ok(
            "database clock",
            "the database's clock agrees with this machine's",
        ),
        3..=60 => report.warn("database clock", found, remediation),
        _ => report.fail("database clock", found, remediation),
    }
}

fn fail_damaged(report: &mut Report, damage: &[String]) {
    report.fail(
        "migrations",
        format!("the schema is damaged: {}", damage.join("; ")),
        "restore the database from a backup",
    );
}

/// Returns how to fix an error of a statement; `grant` if the role lacks a privilege.
fn remediation(error: &sqlx::Error, grant: &str) -> String {
    let code = (error.as_database_error()).and_then(sqlx::error::DatabaseError::code);
    match code.as_deref().unwrap_or_default() {
        INSUFFICIENT_PRIVILEGE => grant,
        DISK_FULL => "free disk space on the database server",
        code if code.starts_with(INSUFFICIENT_RESOURCES) => {
            "give the database server the resource that the error names, or stop other programs that use it"
        }
        _ => SEE_THE_ERROR,
    }
    .to_owned()
}

/// Checks that the role has the privileges for the migration and the service.
async fn check_write(report: &mut Report, database: &Database, status: &SchemaStatus) {
    let (role, path) = (&status.role, &status.search_path);
    let Some(schema) = &status.schema else {
        report.fail(
            "database write",
            format!(
                "no schema of the search_path {path} exists, or the role {role} may not use it"
            ),
            "create the schema, or set another one with the parameter `schema` of DATABASE_URL",
        );
        return;
    };
    let tested = async {
        database.test_write().await?;
        database.missing_privileges().await
    };
    let grant = format!(
        "grant it the missing privileges: usage and create on the schema {schema}, and select, insert, update and delete \
         on its tables"
    );
    match tested.await {
        Ok(missing) if missing.is_empty() => report.ok(
            "database write",
            format!("the role {role} can write to the schema {schema}"),
        ),
        Ok(missing) => report.fail(
            "database write",
            format!(
                "the role {role} lacks privileges in the schema {schema}: {}",
                missing.join("; ")
            ),
            grant,
        ),
        Err(error) => report.fail(
            "database write",
            format!("the role {role} cannot write to the schema {schema}: {error}"),
            remediation(&error, &grant),
        ),
    }
}

/// Checks that all rows can be read. The service skips unreadable rows.
async fn check_rows(report: &mut Report, database: &Database, role: &str) {
    let search = match database.find_unreadable_rows().await {
        Ok(search) => search,
        Err(error) => {
            let grant = format!("grant the role {role} select on the table");
            report.fail(
                "rows",
                format!("the rows cannot be read: {error}"),
                remediation(&error, &grant),
            );
            return;
        }
    };
    let Some(first) = search.unreadable.first() else {
        let extent = if search.is_partial {
            "the first"
        } else {
            "all"
        };
        report.ok("rows", format!("{extent} {} rows can be read", search.rows));
        return;
    };
    let named = search.unreadable.iter().take(MAX_NAMED_ROWS);
    let named: Vec<String> = named
        .map(|row| format!("{} {}", row.table, row.id))
        .collect();
    let count = search.unreadable.len();
    report.fail(
        "rows",
        format!(
            "{count} rows cannot be read: {}; the first: {}",
            named.join(", "),
            first.error
        ),
        "correct or delete them. The service skips them, and requests for them fail",
    );
}

fn pooler(report: &mut Report, database: &Database) {
    if database.is_transaction_pooled() {
        report.warn(
            "pooler",
            "the database is behind a pooler in transaction mode: changes are polled twice a second, and statements are prepared each time",
            "no action required: a direct connection or a pooler in session mode (Supabase's port 5432) is faster",
        );
    } else {
        report.ok(
            "pooler",
            "no pooler, or one in session mode: changes are notified immediately",
        );
    }
}
