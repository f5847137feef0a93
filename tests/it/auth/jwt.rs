//! The requirements for a token and its claims.

use std::collections::BTreeSet;

use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patchbay::auth::{Authenticator, Config, ConfigError, Error};
use patchbay::domain::{InvalidUserId, UserId};
use serde_json::{Value, json};

use super::{
    NOW, Provider, RSA, SECRET, Signer, ada, authenticator, claims, claims_with, clock, outcome,
    pem, with_jwks, with_secret,
};

fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Returns the result of authenticating a token with these claims, under `config` and the shared secret.
async fn outcome_of_claims(config: Config, claims: &Value) -> Result<String, Error> {
    let token = Signer::secret(SECRET.as_bytes()).token(claims);
    outcome(&authenticator(config), &token).await
}

#[tokio::test]
async fn supported_algorithms_authenticate_user() {
    let (rsa, p256, ed25519) = (Signer::rsa("r"), Signer::p256("p"), Signer::ed25519("e"));
    let (provider, url) = Provider::new(&[&rsa, &p256, &ed25519]).await;
    let authenticator = authenticator(Config {
        jwks_url: Some(url),
        ..with_secret()
    });
    let shared = Signer::secret(SECRET.as_bytes());
    for signer in [&shared, &rsa, &p256, &ed25519] {
        let token = signer.token(&claims());
        let algorithm = signer.algorithm;
        assert_eq!(
            outcome(&authenticator, &token).await,
            ada(),
            "{algorithm:?}"
        );
    }
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn unsigned_token_is_rejected() {
    let (_, url) = Provider::new(&[&Signer::p256("p")]).await;
    let authenticator = authenticator(Config {
        jwks_url: Some(url),
        ..with_secret()
    });
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(&json!({"alg": name, "typ": "JWT", "kid": "p"}));
        let claims = encode(&claims());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{claims}.{signature}");
            let refused = outcome(&authenticator, &token).await;
            assert_eq!(refused, Err(Error::Unsigned), "{name:?} {signature:?}");
        }
    }
    let unsigned = format!(
        "{}.{}.",
        encode(&json!({"alg": "HS256"})),
        encode(&claims())
    );
    assert_eq!(
        outcome(&authenticator, &unsigned).await,
        Err(Error::AnotherSecret)
    );
}

#[tokio::test]
async fn public_key_is_rejected_as_hmac_secret() {
    let rsa = Signer::rsa("r");
    let (provider, url) = Provider::new(&[&rsa]).await;
    let public: Vec<u8> = RSA.public_key().as_ref().to_vec();
    let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let guesses = [
        pem("PUBLIC", &public).into_bytes(),
        public,
        URL_SAFE_NO_PAD.decode(&modulus).unwrap(),
        modulus.into_bytes(),
        rsa.jwk().to_string().into_bytes(),
    ];
    let only_jwks = authenticator(with_jwks(url.clone()));
    let both = authenticator(Config {
        jwks_url: Some(url),
        ..with_secret()
    });
    for guess in guesses {
        let mut forger = Signer::secret(&guess);
        forger.kid = Some("r");
        let token = forger.token(&claims());
        let refused = outcome(&only_jwks, &token).await;
        assert_eq!(refused, Err(Error::NoSecret));
        assert_eq!(outcome(&both, &token).await, Err(Error::AnotherSecret));
    }
    assert_eq!(provider.fetches(), 0);
}

#[tokio::test]
async fn key_verifies_only_its_own_algorithm() {
    let (rsa, p256, ed25519) = (Signer::rsa("r"), Signer::p256("p"), Signer::ed25519("e"));
    let (_, url) = Provider::new(&[&rsa, &p256, &ed25519]).await;
    let jwks = authenticator(with_jwks(url));
    // A key of the right kind, but a different one under the same id.
    let token = Signer::p256("p").token(&claims());
    assert_eq!(outcome(&jwks, &token).await, Err(Error::AnotherKey));
    // An id whose key is of another kind, or belongs to another algorithm.
    let of_another_kind = Signer::p256("r").token(&claims());
    let with_another_padding = [Algorithm::PS256, Algorithm::RS384, Algorithm::RS512];
    let with_another_padding = with_another_padding.map(|algorithm| {
        let signer = Signer::rsa("r");
        Signer {
            algorithm,
            ..signer
        }
        .token(&claims())
    });
    for token in with_another_padding.iter().chain([&of_another_kind]) {
        let refused = outcome(&jwks, token).await;
        assert_eq!(refused, Err(Error::KeyOfAnotherAlgorithm));
    }
    let secret = authenticator(with_secret());
    let token = p256.token(&claims());
    assert_eq!(outcome(&secret, &token).await, Err(Error::NoKeySet));
    let other = Signer::secret(b"another secret of sufficient length");
    let token = other.token(&claims());
    assert_eq!(outcome(&secret, &token).await, Err(Error::AnotherSecret));
}

#[tokio::test]
async fn token_expires_after_leeway() {
    let expiring = |exp: Value| claims_with(&json!({"exp": exp}));
    let good = [json!(NOW - 29), json!(NOW + 1), json!(NOW as f64 - 29.5)];
    for exp in good {
        assert_eq!(
            outcome_of_claims(with_secret(), &expiring(exp.clone())).await,
            ada(),
            "{exp}"
        );
    }
    let past = [json!(NOW - 30), json!(NOW - 31), json!(0), json!(-1)];
    for exp in past {
        let refused = outcome_of_claims(with_secret(), &expiring(exp.clone())).await;
        assert_eq!(refused, Err(Error::Expired), "{exp}");
    }
    let refused = outcome_of_claims(with_secret(), &expiring(Value::Null)).await;
    assert_eq!(refused, Err(Error::NoExpiry));
    for odd in [json!("1795438000"), json!([]), json!(true)] {
        let refused = outcome_of_claims(with_secret(), &expiring(odd.clone())).await;
        assert_eq!(refused, Err(Error::ExpiryNotANumber), "{odd}");
    }
}

#[tokio::test]
async fn token_expiry_uses_injected_clock() {
    let clock = clock();
    let authenticator = Authenticator::new(with_secret(), clock.clone()).unwrap();
    let token = Signer::secret(SECRET.as_bytes()).token(&claims());
    clock.advance(TimeDelta::seconds(629));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(outcome(&authenticator, &token).await, Err(Error::Expired));
}

#[tokio::test]
async fn not_before_and_issued_at_allow_leeway() {
    for (name, expected) in [
        ("nbf", Error::NotYetValid),
        ("iat", Error::IssuedInTheFuture),
    ] {
        let starting = |start: i64| claims_with(&json!({name: start}));
        assert_eq!(
            outcome_of_claims(with_secret(), &starting(NOW + 30)).await,
            ada(),
            "{name}"
        );
        let refused = outcome_of_claims(with_secret(), &starting(NOW + 31)).await;
        assert_eq!(refused, Err(expected), "{name}");
    }
}

#[tokio::test]
async fn token_with_wrong_audience_is_rejected() {
    let config = || Config {
        audiences: vec!["patchbay".to_owned()],
        ..with_secret()
    };
    for good in [json!("patchbay"), json!(["other", "patchbay"])] {
        let claims = claims_with(&json!({"aud": good}));
        assert_eq!(outcome_of_claims(config(), &claims).await, ada());
    }
    let invalid = [
        json!("other"),
        json!(["a", "b"]),
        json!([]),
        json!("patchbay2"),
    ];
    for invalid in invalid {
        let claims = claims_with(&json!({"aud": invalid}));
        let refused = outcome_of_claims(config(), &claims).await;
        assert_eq!(refused, Err(Error::WrongAudience), "{claims}");
    }
    let claims = claims_with(&json!({"aud": "anything"}));
    assert_eq!(outcome_of_claims(with_secret(), &claims).await, ada());
}

#[tokio::test]
async fn token_with_wrong_issuer_is_rejected() {
    let config = || Config {
        issuers: vec!["https://id.example.com/".to_owned()],
        ..with_secret()
    };
    let claims = claims_with(&json!({"iss": "https://id.example.com/"}));
    assert_eq!(outcome_of_claims(config(), &claims).await, ada());
    let invalid = [
        json!("https://id.example.com"),
        json!(["https://id.example.com/"]),
    ];
    for invalid in invalid {
        let claims = claims_with(&json!({"iss": invalid}));
        let refused = outcome_of_claims(config(), &claims).await;
        assert_eq!(refused, Err(Error::WrongIssuer), "{claims}");
    }
}

#[tokio::test]
async fn oversized_token_is_rejected() {
    let padded = |length: usize| claims_with(&json!({"pad": "x".repeat(length)}));
    assert_eq!(
        outcome_of_claims(with_secret(), &padded(12_000)).await,
        ada()
    );
    assert_eq!(
        outcome_of_claims(with_secret(), &padded(12_300)).await,
        Err(Error::TooLarge)
    );
}

#[tokio::test]
async fn token_without_valid_user_is_rejected() {
    use InvalidUserId::{Control, DotSegment, Length, WhiteSpace};
    let invalid = [
        ("", Length),
        ("a\0b", Control),
        ("a\nb", Control),
        ("a\u{85}b", Control),
        ("ada\t", Control),
        (" ada", WhiteSpace),
        ("ada ", WhiteSpace),
        ("\u{a0}ada", WhiteSpace),
        ("ada\u{2003}", WhiteSpace),
        ("ada\u{3000}", WhiteSpace),
        ("\u{feff}ada", WhiteSpace),
        (".", DotSegment),
        ("..", DotSegment),
    ];
    for (sub, why) in invalid {
        let refused = outcome_of_claims(with_secret(), &claims_with(&json!({"sub": sub}))).await;
        assert_eq!(refused, Err(Error::InvalidUser(why)), "{sub:?}");
    }
    // Nango counts an emoji as two characters.
    for longer in ["x".repeat(256), "\u{1f431}".repeat(128)] {
        let refused = outcome_of_claims(with_secret(), &claims_with(&json!({"sub": longer}))).await;
        assert_eq!(refused, Err(Error::InvalidUser(Length)));
    }
    let refused = outcome_of_claims(with_secret(), &claims_with(&json!({"sub": null}))).await;
    assert_eq!(refused, Err(Error::NoUser));
    for inner in [
        "a d a",
        "a\u{a0}b",
        "...",
        "adÃ¨le",
        "adèle",
        "ade\u{300}le",
    ] {
        let accepted = outcome_of_claims(with_secret(), &claims_with(&json!({"sub": inner}))).await;
        assert_eq!(accepted.as_deref(), Ok(inner));
    }
    for longest in ["ü".repeat(255), "\u{1f431}".repeat(127)] {
        let accepted =
            outcome_of_claims(with_secret(), &claims_with(&json!({"sub": longest}))).await;
        assert_eq!(accepted, Ok(longest));
    }
    let by_email = Config {
        user_claim: "email".to_owned(),
        ..with_secret()
    };
    let claims = claims_with(&json!({"sub": "ada", "email": "ada@example.com"}));
    assert_eq!(
        outcome_of_claims(by_email, &claims).await,
        Ok("ada@example.com".to_owned())
    );
    assert_eq!(UserId::try_from("ada".to_owned()).unwrap().as_str(), "ada");
}

#[tokio::test]
async fn malformed_or_tampered_token_is_rejected() {
    let authenticator = authenticator(with_secret());
    let token = Signer::secret(SECRET.as_bytes()).token(&claims());
    let parts: Vec<_> = token.split('.').collect();
    let forged = encode(&claims_with(&json!({"sub": "eve"})));
    let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
    assert_eq!(
        outcome(&authenticator, &forged).await,
        Err(Error::AnotherSecret)
    );

    let two = format!("{}.{}", parts[0], parts[1]);
    let four = format!("{token}.{}", parts[2]);
    let dots = ".".repeat(10_000);
    for garbage in ["", ".", "...", ".....", "ü", "{}", &two, &four, &dots] {
        let refused = outcome(&authenticator, garbage).await;
        assert_eq!(refused, Err(Error::NotAJwt), "{garbage:?}");
    }
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let critical = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    assert_eq!(
        outcome(&authenticator, &critical).await,
        Err(Error::CriticalHeader)
    );
}

#[test]
fn invalid_configuration_is_rejected() {
    let new = |config| Authenticator::new(config, clock()).err();
    assert!(matches!(new(Config::default()), Some(ConfigError::NoKeys)));
    let short = Config {
        hmac_secrets: vec![SECRET.into(), "thirty-one bytes are too few...".into()],
        ..Config::default()
    };
    assert!(matches!(new(short), Some(ConfigError::ShortSecret)));
    let file = with_jwks("file:///etc/jwks.json".parse().unwrap());
    assert!(matches!(new(file), Some(ConfigError::JwksUrl(_))));
}

#[test]
fn error_messages_fit_www_authenticate_header() {
    let errors = [
        Error::TooLarge,
        Error::NotAJwt,
        Error::Encrypted,
        Error::BadHeader,
        Error::Unsigned,
        Error::CriticalHeader,
        Error::WrongType,
        Error::UnsupportedAlgorithm,
        Error::BadSignatureEncoding,
        Error::NoSecret,
        Error::AnotherSecret,
        Error::NoKeySet,
        Error::UnknownKey,
        Error::KeyOfAnotherAlgorithm,
        Error::NoKeyOfAlgorithm,
        Error::TooManyKeys,
        Error::AnotherKey,
        Error::BadClaims,
        Error::NoExpiry,
        Error::ExpiryNotANumber,
        Error::Expired,
        Error::StartNotANumber,
        Error::NotYetValid,
        Error::IssueTimeNotANumber,
        Error::IssuedInTheFuture,
        Error::NoIssuer,
        Error::WrongIssuer,
        Error::NoAudience,
        Error::WrongAudience,
        Error::NoUser,
        Error::UserNotText,
        Error::InvalidUser(InvalidUserId::Length),
        Error::InvalidUser(InvalidUserId::Control),
        Error::InvalidUser(InvalidUserId::WhiteSpace),
        Error::InvalidUser(InvalidUserId::DotSegment),
        Error::KeysUnavailable,
    ];
    let texts: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), errors.len(), "two causes share a message");
    for error in errors {
        let text = error.to_string();
        let plain = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
        assert!(text.chars().all(plain), "{text}");
    }
}
