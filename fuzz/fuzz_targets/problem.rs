//! Error responses of every kind, with arbitrary request ids and details.
//! The first byte is the kind, the first line the request id, the rest the detail.
#![no_main]

#[path = "../rendered.rs"]
mod rendered;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use patchbay::service;
use patchbay::http::{Code, Problem, with_middleware};
use patchbay::{auth, nango};
use rendered::{check_problem, check_response, runtime};
use tower::ServiceExt;

fn problem(kind: u8, text: &str) -> Problem {
    let text = text.to_owned();
    match kind % 16 {
        0 => Problem::new(Code::Internal, text),
        1 => Problem::new(Code::PayloadTooLarge, text),
        2 => Problem::new(Code::NotFound, text),
        3 => Problem::new(Code::Overloaded, text),
        4 => service::Error::ConnectorNotFound(text).into(),
        5 => service::Error::ConnectorUnavailable(text).into(),
        6 => service::Error::Invalid(text).into(),
        7 => service::Error::NotConnected {
            connector: "gmail".to_owned(),
            detail: text,
        }
        .into(),
        8 => service::Error::ConnectorNotConfigured {
            connector: "Gmail".to_owned(),
            integration_key: text,
        }
        .into(),
        9 => service::Error::AmbiguousConnection(Vec::new()).into(),
        10 => service::Error::Nango(nango::Error::Timeout).into(),
        11 => service::Error::Nango(nango::Error::UnknownIntegration).into(),
        12 => service::Error::NangoDisabled.into(),
        13 => auth::Error::KeysUnavailable.into(),
        14 => Problem::new(Code::Unauthenticated, text),
        _ => Problem::new(Code::InvalidRequest, text),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let end = rest
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(rest.len());
    let (id, text) = rest.split_at(end);
    let problem = problem(*kind, &format!("it is {}", String::from_utf8_lossy(text)));
    check_problem(problem.clone());

    let answer = move || {
        let problem = problem.clone();
        async move { problem }
    };
    let router = with_middleware(Router::new().fallback(answer));
    let mut request = Request::new(Body::empty());
    if let Ok(id) = HeaderValue::from_bytes(id) {
        request.headers_mut().insert("x-request-id", id);
    }
    let response = runtime(async { router.oneshot(request).await.unwrap() });
    let request_id = response.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!((1..=128).contains(&request_id.len()));
    assert_eq!(check_response(response)["request_id"], request_id);
});
