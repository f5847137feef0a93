//! Conversions of axum's rejections to problems.

use std::io;

use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;

use super::{Code, Problem};
use crate::http::middleware::limits::MAX_BODY;

macro_rules! body_rejections {
    ($($rejection:ty),+) => {
        $(impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                let code = match rejection.status() {
                    _ if timed_out(&rejection) => {
                        return Self::new(Code::RequestTimeout, "the body did not arrive in time");
                    }
                    StatusCode::PAYLOAD_TOO_LARGE => return Self::body_too_large(),
                    StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
                    _ => Code::InvalidRequest,
                };
                Self::new(code, rejection.body_text())
            }
        })+
    };
}

macro_rules! rejections {
    ($($rejection:ty),+) => {
        $(impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                Self::invalid(rejection.body_text())
            }
        })+
    };
}

rejections!(PathRejection, QueryRejection);
body_rejections!(BytesRejection, JsonRejection);

impl Problem {
    /// Creates the problem of a body that exceeds [`MAX_BODY`].
    pub(super) fn body_too_large() -> Self {
        let limit = MAX_BODY / 1024;
        Self::new(
            Code::PayloadTooLarge,
            format!("The body must have at most {limit} KiB. Send a smaller one."),
        )
    }
}

/// Returns `true` if the body's next piece did not arrive in time.
fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let own = error.downcast_ref::<io::Error>();
    own.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || error.source().is_some_and(timed_out)
}
