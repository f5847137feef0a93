//! Reasons for which a token is rejected.

use super::InvalidUserId;

/// The reason for which a token is rejected. The messages are safe to show to the token's bearer and may be used as the
/// `error_description` of `WWW-Authenticate` (RFC 6750, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than 16 KiB.
    #[error("the token is longer than 16 KiB")]
    TooLarge,
    /// Not three parts: an opaque token, or a part of one.
    #[error("the token is not a JWT: it does not have three parts with dots between")]
    NotAJwt,
    /// Five parts: a JWE.
    #[error("the token is encrypted: only signed tokens are accepted")]
    Encrypted,
    /// The first part is no JOSE header.
    #[error("the header of the token is not base64url-encoded JSON with an alg")]
    BadHeader,
    /// `alg` is `none`.
    #[error("the token is not signed: its alg is none")]
    Unsigned,
    /// The header has `crit`.
    #[error("the header of the token has crit, which is not supported")]
    CriticalHeader,
    /// A logout token, for example.
    #[error("the typ of the token is neither JWT nor at+jwt: it is not for APIs")]
    WrongType,
    /// An `alg` that is not implemented.
    #[error("the alg of the token is not supported")]
    UnsupportedAlgorithm,
    /// The third part is not base64url.
    #[error("the signature of the token is not base64url")]
    BadSignatureEncoding,
    /// HS256, HS384 or HS512, but no secret is configured.
    #[error("the token is signed with a shared secret, and this service has none")]
    NoSecret,
    /// No shared secret matches the signature.
    #[error("the signature of the token does not match the shared secret")]
    AnotherSecret,
    /// The signature needs a public key, but no JWKS is configured.
    #[error("the token is signed with a private key, and this service has no JWKS")]
    NoKeySet,
    /// The JWKS has no signature key with the token's `kid`.
    #[error("the JWKS has no signature key with the kid of the token")]
    UnknownKey,
    /// The JWKS has the key, for another algorithm.
    #[error("the key with the kid of the token is for another alg")]
    KeyOfAnotherAlgorithm,
    /// The token has no `kid`, and the JWKS has no key for its algorithm.
    #[error("the token has no kid, and the JWKS no key for its alg")]
    NoKeyOfAlgorithm,
    /// The token has no `kid`, and the JWKS has too many keys for its algorithm.
    #[error("the token has no kid, and the JWKS too many keys for its alg")]
    TooManyKeys,
    /// The key of the JWKS does not match the signature.
    #[error("the signature of the token does not match the key of the JWKS")]
    AnotherKey,
    /// The second part is not a JSON object.
    #[error("the claims of the token are not a base64url-encoded JSON object")]
    BadClaims,
    /// No `exp`: the token would never expire.
    #[error("the token has no exp")]
    NoExpiry,
    /// `exp` is text, for example.
    #[error("the exp of the token is not a number")]
    ExpiryNotANumber,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is text, for example.
    #[error("the nbf of the token is not a number")]
    StartNotANumber,
    /// `nbf` is in the future.
    #[error("the token is not valid yet: its nbf is in the future")]
    NotYetValid,
    /// `iat` is text, for example.
    #[error("the iat of the token is not a number")]
    IssueTimeNotANumber,
    /// `iat` is in the future.
    #[error("the token is not valid yet: its iat is in the future")]
    IssuedInTheFuture,
    /// No `iss`, but issuers are configured.
    #[error("the token has no iss")]
    NoIssuer,
    /// `iss` is not an accepted issuer.
    #[error("the iss of the token is not an accepted issuer")]
    WrongIssuer,
    /// Neither `aud` nor `client_id`, but audiences are configured.
    #[error("the token has no aud")]
    NoAudience,
    /// `aud` names no accepted audience.
    #[error("the aud of the token is not an accepted audience")]
    WrongAudience,
    /// No claim names the user.
    #[error("the token has no claim that names its user")]
    NoUser,
    /// The claim that names the user is a list, a fraction, or a number that JSON parsers round.
    #[error(
        "the claim of the token that names its user is neither text nor a whole number of 64 bits"
    )]
    UserNotText,
    /// The claim that names the user is not a valid [`UserId`](crate::domain::UserId).
    #[error("the token names a user whose id is not accepted: {0}")]
    InvalidUser(InvalidUserId),
    /// The JWKS could not be fetched, so the token could not be verified.
    #[error("the keys to verify the token with cannot be fetched at the moment")]
    KeysUnavailable,
}
