//! Invalid HTTP/2 frames, written by hand.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::raw_http::{TIMEOUT, app, assert_other_clients_are_served, connect, exchange};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the header block of `GET /` with host `x`, encoded with HPACK's static table.
fn get() -> Vec<u8> {
    vec![0x82, 0x86, 0x84, 0x41, 1, b'x']
}

fn opened(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()
}

/// Returns this many stream ids of a client.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// Returns the kinds of the received frames, and the number of streams with a response.
fn answered(mut bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut kinds, mut heads) = (Vec::new(), 0);
    while let [a, b, c, kind, ..] = *bytes {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        kinds.push(kind);
        heads += usize::from(kind == HEADERS);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    (kinds, heads)
}

#[tokio::test]
async fn rapid_reset_closes_connection() {
    let app = app().await;
    let reset = |stream| {
        [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &get()),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
    };
    let frames: Vec<u8> = streams(20_000).flat_map(reset).flatten().collect();
    let frames = opened(&frames);
    let (answer, ()) = tokio::join!(
        exchange(&app, &frames),
        assert_other_clients_are_served(&app)
    );
    let (kinds, heads) = answered(&answer);
    assert!(kinds.contains(&GOAWAY) || kinds.is_empty(), "{kinds:?}");
    assert!(heads < 1_000, "{heads} of 20000 were answered");
    assert_other_clients_are_served(&app).await;
}

#[tokio::test]
async fn excess_streams_are_rejected() {
    let app = app().await;
    // Heads without their bodies, so that each stream would stay open.
    let frames: Vec<u8> = streams(2_000)
        .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &get()))
        .collect();
    let frames = opened(&frames);
    let (answer, ()) = tokio::join!(
        exchange(&app, &frames),
        assert_other_clients_are_served(&app)
    );
    let (kinds, _) = answered(&answer);
    assert!(
        kinds.contains(&RST_STREAM) || kinds.contains(&GOAWAY) || kinds.is_empty(),
        "{kinds:?}"
    );
    assert_other_clients_are_served(&app).await;
}

/// Returns `GET /healthz` of a client whose windows have no room for the response's body.
fn get_without_reading() -> Vec<u8> {
    let path = b"/healthz";
    let head = [&[0x82, 0x86, 0x04, 8][..], path, &[0x41, 1, b'x']].concat();
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head);
    [PREFACE, &no_window, &request].concat()
}

#[tokio::test]
async fn connection_closes_when_client_opens_no_window() {
    let app = app().await;
    let answer = exchange(&app, &get_without_reading()).await;
    let (kinds, heads) = answered(&answer);
    assert_eq!(heads, 1);
    assert!(!kinds.contains(&DATA), "{kinds:?}");

    // Continuous pings do not extend the timeout.
    let (mut reading, mut writing) = connect(&app).await.into_split();
    writing.write_all(&get_without_reading()).await.unwrap();
    let pinging = async {
        while writing.write_all(&frame(PING, 0, 0, &[7; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = pinging => unreachable!("it waits for the end of the answer"),
        read = timeout(TIMEOUT, reading.read_to_end(&mut answer)) => {
            let _ = read.expect("the connection stays open");
        }
    }
    let (kinds, _) = answered(&answer);
    assert!(kinds.contains(&PING), "{kinds:?}");
    assert_other_clients_are_served(&app).await;
}

#[tokio::test]
async fn idle_event_stream_stays_open() {
    let app = app().await;
    let ada = app.user("ada").await;
    let client = reqwest::Client::builder().http2_prior_knowledge();
    let url = format!("{}/api/v1/connectors/connections/events", app.url);
    let request = client.build().unwrap().get(url).bearer_auth(&ada.token);
    let stream = request.send().await.unwrap();
    assert_eq!(stream.version(), reqwest::Version::HTTP_2);
    let mut pieces = stream.bytes_stream();
    let ready = pieces.next().await.unwrap().unwrap();
    assert!(ready.starts_with(b"event: ready"), "{ready:?}");
    // Longer than the keep-alive timeout.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (status, _) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(status, 200);
    let news = timeout(TIMEOUT, pieces.next()).await.expect("news in time");
    let news = news.expect("the stream goes on").unwrap();
    assert!(news.starts_with(b"event: connection"), "{news:?}");
}

/// Returns invalid frames after the preface, with their descriptions.
fn odd_frames() -> Vec<(&'static str, Vec<u8>)> {
    let whole = END_STREAM | END_HEADERS;
    let start = frame(HEADERS, END_STREAM, 1, &get());
    let filler = frame(CONTINUATION, 0, 1, &[0x0f; 1_000]);
    // One name of 4 KB in the table, and then only references to it.
    let literal = [&[0x40, 0x7f, 0x81, 0x1f][..], &[b'a'; 4_000], &[1, b'b']].concat();
    let packed = [get(), literal, vec![0xbe; 12_000]].concat();
    let opening = frame(HEADERS, END_HEADERS, 1, &get());
    let data = frame(DATA, 0, 1, &[]).repeat(100_000);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(50_000);
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(3);
    let huge = [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100_000]].concat();
    vec![
        ("a head without end", [start, filler.repeat(4_000)].concat()),
        ("a head that unpacks", frame(HEADERS, whole, 1, &packed)),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(100_000)),
        ("settings", settings),
        ("empty data", [opening, data].concat()),
        ("a window of no size", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window beyond numbers", windows),
        ("a frame larger than any", huge),
        ("a stream of the server's", frame(HEADERS, whole, 2, &get())),
        ("data of no stream", frame(DATA, 0, 7, b"x")),
        (
            "bytes that are no head",
            frame(HEADERS, whole, 1, &[0xff; 100]),
        ),
        ("a preface twice", PREFACE.to_vec()),
    ]
}

#[tokio::test]
async fn abusive_frames_are_tolerated_or_rejected() {
    let app = app().await;
    let mut attacks = odd_frames();
    for (_, bytes) in &mut attacks {
        *bytes = opened(bytes);
    }
    attacks.push(("half a preface", PREFACE[..20].to_vec()));
    let sent = attacks.iter().map(|(what, bytes)| {
        let app = &app;
        async move { (what, exchange(app, bytes).await) }
    });
    let (answers, ()) = tokio::join!(
        futures::future::join_all(sent),
        assert_other_clients_are_served(&app)
    );
    for (what, answer) in answers {
        let (_, heads) = answered(&answer);
        assert!(heads <= 1, "{what}: {heads} answers");
    }
    assert_other_clients_are_served(&app).await;
    let count = attacks.len();
    println!("{count} connections of frames, each borne or cut off");
}
