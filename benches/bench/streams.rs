//! Thousands of event streams, and the latency until an event is on all streams of its user.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Streams that are open until the value is dropped.
pub(crate) struct Streams {
    /// The arrival times of events, on any stream.
    arrivals: mpsc::UnboundedReceiver<Instant>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Streams {
    /// Opens one stream per token and returns once all have started.
    ///
    /// # Errors
    /// If a stream is refused.
    pub(crate) async fn open(url: &str, tokens: &[String]) -> Result<Self, Box<dyn Error>> {
        let address = url.trim_start_matches("http://");
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let mut readers = Vec::with_capacity(tokens.len());
        for token in tokens {
            let mut socket = TcpStream::connect(address).await?;
            let request = format!(
                "GET /api/v1/connectors/connections/events HTTP/1.1\r\nhost: bench\r\n\
                 authorization: Bearer {token}\r\n\r\n"
            );
            socket.write_all(request.as_bytes()).await?;
            let mut read = Vec::new();
            while !contains(&read, b"event: ready") {
                let mut bytes = [0; 1024];
                let n = socket.read(&mut bytes).await?;
                if n == 0 {
                    return Err(
                        format!("a stream ended: {}", String::from_utf8_lossy(&read)).into(),
                    );
                }
                read.extend_from_slice(&bytes[..n]);
            }
            readers.push(tokio::spawn(read_events(socket, arrived.clone())));
        }
        Ok(Self { arrivals, readers })
    }

    /// Returns the latencies of the next events since `since`.
    ///
    /// # Errors
    /// If they do not arrive within ten seconds.
    pub(crate) async fn delays(
        &mut self,
        since: Instant,
        events: usize,
    ) -> Result<Vec<Duration>, Box<dyn Error>> {
        let mut delays = Vec::with_capacity(events);
        while delays.len() < events {
            let next = tokio::time::timeout(Duration::from_secs(10), self.arrivals.recv()).await?;
            let arrived = next.ok_or("all streams have ended")?;
            delays.push(arrived.saturating_duration_since(since));
        }
        Ok(delays)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

async fn read_events(mut socket: TcpStream, arrived: mpsc::UnboundedSender<Instant>) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = socket.read(&mut bytes).await {
        // One event is one chunk here; heartbeats are comments.
        if contains(&bytes[..n], b"event: connection") && arrived.send(Instant::now()).is_err() {
            return;
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
