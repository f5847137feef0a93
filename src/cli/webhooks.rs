//! The `webhooks` command.

use std::io;

use crate::config::Config;
use crate::db::Database;
use crate::domain::{ConnectionId, MessageType};
use crate::environment::parse_http_url;
use crate::webhooks::{Delivery, DeliveryFilter, Endpoint, Webhooks};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use strum::VariantNames;
use url::Url;

use super::print::{print_line, print_note};
use super::{Failure, variable};

/// Manages webhook endpoints. Requires `DATABASE_URL`, and the service's `WEBHOOK_ALLOWED_NETWORKS` and
/// `ENCRYPTION_KEY`.
#[derive(Subcommand)]
pub(crate) enum WebhooksCommand {
    /// Add an endpoint and print its secret. It is not shown again.
    Add {
        /// The https address that receives the messages.
        #[arg(value_parser = parse_http_url)]
        url: Url,
        /// An event type to send, such as connection.connected. May be repeated. All types if omitted.
        #[arg(long = "event", value_parser = message_type)]
        events: Vec<MessageType>,
        /// Include the connection's config in each message.
        #[arg(long = "config")]
        with_config: bool,
    },
    /// List all endpoints with their state.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send a message of the type patchbay.test now, and print the response.
    Test {
        /// The endpoint's id.
        endpoint: String,
    },
    /// Create a new secret. Messages are signed with both secrets during the grace period.
    Rotate {
        /// The endpoint's id.
        endpoint: String,
        /// The grace period of the old secret, in hours.
        #[arg(long, default_value_t = 24)]
        grace_hours: u32,
    },
    /// Enable an endpoint and send its queued messages.
    Enable {
        /// The endpoint's id.
        endpoint: String,
    },
    /// Disable an endpoint. Its messages stay queued for 30 days.
    Disable {
        /// The endpoint's id.
        endpoint: String,
    },
    /// Remove an endpoint with its queued messages.
    Remove {
        /// The endpoint's id.
        endpoint: String,
    },
    /// Send the messages of past events again, with their original ids.
    Replay {
        /// The endpoint's id.
        endpoint: String,
        /// The start: a day such as 2026-11-23, or a time such as 2026-11-23T17:30:00Z.
        #[arg(long, value_parser = parse_time)]
        since: DateTime<Utc>,
        /// Only events of this connection.
        #[arg(long)]
        connection: Option<ConnectionId>,
    },
    /// Show the latest deliveries, newest first.
    Deliveries(DeliveriesArgs),
}

/// The filters of deliveries.
#[derive(Args)]
pub(crate) struct DeliveriesArgs {
    /// Only deliveries to this endpoint.
    endpoint: Option<String>,
    /// Only deliveries of this connection's events.
    #[arg(long)]
    connection: Option<ConnectionId>,
    /// Only deliveries that failed and did not succeed later.
    #[arg(long)]
    failed: bool,
    /// The maximum number of deliveries.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

pub(crate) async fn run(command: WebhooksCommand) -> Result<(), Failure> {
    let (config, networks, encryption) = Config::read_webhooks(&variable)?;
    let database = Database::connect(&config).await?;
    database.migrate().await?;
    let clock = database.clock().await?;
    let webhooks = Webhooks::new(database, clock, &networks, encryption)?;
    match command {
        WebhooksCommand::Add {
            url,
            events,
            with_config,
        } => {
            let (id, secret) = webhooks.add(&url, &events, with_config).await?;
            print_line(id)?;
            print_secret(&secret)?;
        }
        WebhooksCommand::List { json } => print_endpoints(&webhooks.list().await?, json)?,
        WebhooksCommand::Test { endpoint } => send_test_event(&webhooks, &endpoint).await?,
        WebhooksCommand::Rotate {
            endpoint,
            grace_hours,
        } => {
            let grace = TimeDelta::hours(grace_hours.into());
            print_secret(&webhooks.rotate(&endpoint, grace).await?)?;
            print_note(format_args!(
                "Messages are signed with both secrets for {grace_hours} hours."
            ));
        }
        WebhooksCommand::Enable { endpoint } => {
            webhooks.enable(&endpoint).await?;
            print_line(format_args!(
                "{endpoint} is enabled, and its queued messages are sent"
            ))?;
        }
        WebhooksCommand::Disable { endpoint } => {
            webhooks.disable(&endpoint).await?;
            print_line(format_args!(
                "{endpoint} is disabled; its messages stay queued"
            ))?;
        }
        WebhooksCommand::Remove { endpoint } => {
            webhooks.remove(&endpoint).await?;
            print_line(format_args!("{endpoint} is removed"))?;
        }
        WebhooksCommand::Replay {
            endpoint,
            since,
            connection,
        } => {
            let count = webhooks.replay(&endpoint, since, connection).await?;
            print_line(format_args!("{count} messages are sent again"))?;
        }
        WebhooksCommand::Deliveries(args) => print_deliveries(&webhooks, args).await?,
    }
    Ok(())
}

async fn print_deliveries(webhooks: &Webhooks, args: DeliveriesArgs) -> Result<(), Failure> {
    let filter = DeliveryFilter {
        endpoint: args.endpoint,
        connection: args.connection,
        failed: args.failed,
        limit: args.limit,
    };
    for delivery in webhooks.deliveries(&filter).await? {
        print_delivery(&delivery)?;
    }
    Ok(())
}

async fn send_test_event(webhooks: &Webhooks, endpoint: &str) -> Result<(), Failure> {
    match webhooks.test(endpoint).await? {
        Ok(status) if (200..300).contains(&status) => {
            print_line(format_args!("the endpoint returned {status}"))?;
            Ok(())
        }
        Ok(status) => Err(format!("the endpoint returned {status}, which is not 2xx").into()),
        Err(error) => Err(error.into()),
    }
}

fn print_secret(secret: &SecretString) -> io::Result<()> {
    print_line(secret.expose_secret())?;
    print_note("This is the only time that the secret is shown.");
    Ok(())
}

fn print_endpoints(endpoints: &[Endpoint], json: bool) -> Result<(), Failure> {
    if json {
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint_json).collect();
        print_line(serde_json::to_string_pretty(&endpoints)?)?;
    } else {
        endpoints.iter().try_for_each(print_endpoint)?;
    }
    Ok(())
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let state = match (&endpoint.off, endpoint.failing_since) {
        (Some(_), _) => "disabled",
        (None, Some(_)) => "failing",
        (None, None) => "enabled",
    };
    let (disabled_at, disabled_reason) = endpoint.off.clone().unzip();
    let events: Vec<&str> = endpoint.events.iter().map(|kind| kind.as_str()).collect();
    json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "events": events,
        "with_config": endpoint.with_config,
        "state": state,
        "failing_since": endpoint.failing_since,
        "disabled_at": disabled_at,
        "disabled_reason": disabled_reason,
        "waiting": endpoint.waiting,
        "created_at": endpoint.created_at,
    })
}

fn print_endpoint(endpoint: &Endpoint) -> io::Result<()> {
    let events: Vec<&str> = endpoint.events.iter().map(|kind| kind.as_str()).collect();
    let events = match events.as_slice() {
        [] => "all".to_owned(),
        events => events.join(" "),
    };
    let config = if endpoint.with_config {
        ", with config"
    } else {
        ""
    };
    let state = match (&endpoint.off, endpoint.failing_since) {
        (Some((since, reason)), _) => format!("off since {}: {reason}", since.format("%F %T")),
        (None, Some(since)) => format!("failing since {}", since.format("%F %T")),
        (None, None) => "on".to_owned(),
    };
    print_line(format_args!(
        "{}  {}  {events}{config}  {state}  {} waiting",
        endpoint.id, endpoint.url, endpoint.waiting
    ))
}

fn print_delivery(delivery: &Delivery) -> io::Result<()> {
    let state = delivery.outcome.as_deref().unwrap_or("waiting");
    let last = match (&delivery.last_error, delivery.last_status) {
        (Some(error), _) => format!("  {error}"),
        (None, Some(status)) => format!("  {status}"),
        (None, None) => String::new(),
    };
    let at = delivery.last_attempt_at.unwrap_or(delivery.created_at);
    print_line(format_args!(
        "{}  {}  {}  {}  {state}  {} attempts{last}",
        at.format("%F %T"),
        delivery.endpoint,
        delivery.message,
        delivery.kind,
        delivery.attempts
    ))
}

/// Parses a day or a time.
fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    text.parse().map_err(|error| {
        format!("{error}: use a day such as 2026-11-23, or a time such as 2026-11-23T17:30:00Z")
    })
}

fn message_type(text: &str) -> Result<MessageType, String> {
    let types = MessageType::VARIANTS.join(", ");
    (text.parse()).map_err(|_unknown| format!("unknown message type. Use one of {types}"))
}
