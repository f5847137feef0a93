//! The resources of a replica.

use std::fs;

use reqwest::Client;

use crate::service::Service;

/// The allowed growth of memory after the warm-up, in MiB: caches may not have been full, and the allocator retains
/// freed memory.
const GROWTH: f64 = 24.0;

/// The resources of all replicas.
pub(crate) struct Measurements(Vec<Metric>);

struct Metric {
    memory: f64,
    handles: usize,
    threads: usize,
    tasks: f64,
    clients: f64,
    streams: f64,
    /// Connections to PostgreSQL, of all replicas.
    database: i64,
}

impl Measurements {
    /// # Errors
    /// Panics if a replica is not reachable, because it has failed.
    pub(crate) async fn of(
        replicas: &[Service],
        client: &Client,
        token: &str,
        database: i64,
    ) -> Self {
        let mut figures = Vec::new();
        for replica in replicas {
            let process = format!("/proc/{}", replica.child.id());
            let metrics = client
                .get(format!("{}/metrics", replica.url))
                .bearer_auth(token);
            let metrics = metrics
                .header("connection", "close")
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            let gauge = |name: &str| -> f64 {
                let value = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                value
                    .unwrap_or_else(|| panic!("no {name} in {metrics}"))
                    .parse()
                    .unwrap()
            };
            figures.push(Metric {
                memory: replica.memory().unwrap().0,
                handles: fs::read_dir(format!("{process}/fd")).unwrap().count(),
                threads: fs::read_dir(format!("{process}/task")).unwrap().count(),
                tasks: gauge("patchbay_runtime_tasks"),
                clients: gauge("patchbay_http_connections"),
                streams: gauge("patchbay_event_streams"),
                database,
            });
        }
        Self(figures)
    }

    pub(crate) fn print(&self, when: &str) {
        for (number, now) in self.0.iter().enumerate() {
            println!(
                "replica {number} {when}: {:.1} MiB, {} handles, {} threads, {} tasks, {} clients, {} streams, {} \
                 connections to the database from all",
                now.memory,
                now.handles,
                now.threads,
                now.tasks,
                now.clients,
                now.streams,
                now.database
            );
        }
    }

    /// Returns the resources that exceed their earlier levels.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        let mut failures = Vec::new();
        for (number, (now, before)) in self.0.iter().zip(&before.0).enumerate() {
            let mut check = |what: &str, now: f64, most: f64| {
                if now > most {
                    failures.push(format!(
                        "replica {number} has {now} {what}, at most {most} are right"
                    ));
                }
            };
            check("MiB", now.memory, before.memory + GROWTH);
            check("handles", now.handles as f64, before.handles as f64);
            check("threads", now.threads as f64, before.threads as f64);
            check("tasks", now.tasks, before.tasks);
            // The client of this request.
            check("clients", now.clients, 1.0);
            check("event streams", now.streams, 0.0);
            check(
                "connections to the database",
                now.database as f64,
                before.database as f64,
            );
        }
        failures
    }
}
