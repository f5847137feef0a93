//! Conversions of axum's rejections to problems.

use std::io;

use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;

use super::{Code, Problem};

macro_rules! body_rejections {
    ($($rejection:ty),+) => {
        $(impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                let code = match rejection.status() {
                    _ if timed_out(&rejection) => {
                        return Self::new(Code::RequestTimeout, "the body did not arrive in time");
                    }
                    StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
                    StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge,
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

/// Returns `true` if the body's next piece did not arrive in time.
fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let own = error.downcast_ref::<io::Error>();
    own.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || error.source().is_some_and(timed_out)
}
