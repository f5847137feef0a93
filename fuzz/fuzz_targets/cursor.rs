//! Query parameters, including cursors, and `Last-Event-ID`. The first byte selects the endpoint.
#![no_main]

#[path = "../rendered.rs"]
mod rendered;

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use patchbay::http::{CatalogQuery, ConnectBody, ConnectQuery, DisconnectQuery, GetQuery, HistoryQuery, ListQuery, Problem, UpdateBody, last_event_id};
use rendered::check_problem;

fn query<T>(uri: &Uri)
where
    Query<T>: Sized,
    T: serde::de::DeserializeOwned,
{
    if let Err(rejection) = Query::<T>::try_from_uri(uri) {
        check_problem(Problem::from(rejection));
    }
}

fn body<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
    if let Err(rejection) = axum::Json::<T>::from_bytes(bytes) {
        check_problem(Problem::from(rejection));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    match which % 9 {
        0 => body::<ConnectBody>(rest),
        1 => body::<UpdateBody>(rest),
        2 => {
            if let Ok(value) = HeaderValue::from_bytes(rest) {
                let headers = HeaderMap::from_iter([("last-event-id".parse().unwrap(), value)]);
                match last_event_id(&headers) {
                    Ok(Some(id)) => {
                        assert_eq!(std::str::from_utf8(rest).unwrap().parse(), Ok(id));
                    }
                    Ok(None) => assert!(rest.is_empty()),
                    Err(problem) => check_problem(problem),
                }
            }
        }
        which => {
            let mut target = b"/?".to_vec();
            target.extend_from_slice(rest);
            let Ok(uri) = Uri::try_from(target) else {
                return;
            };
            match which {
                3 => query::<CatalogQuery>(&uri),
                4 => query::<ConnectQuery>(&uri),
                5 => query::<DisconnectQuery>(&uri),
                6 => query::<GetQuery>(&uri),
                7 => query::<HistoryQuery>(&uri),
                _ => query::<ListQuery>(&uri),
            }
        }
    }
});
