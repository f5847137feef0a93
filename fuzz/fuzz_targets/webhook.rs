//! Nango's webhooks: the signature in the first line, the body after it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay::nango::webhook::{Event, SignatureError, SigningKeys, parse};
use serde::de::IgnoredAny;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (signature, body) = end.map_or((&[][..], data), |end| (&data[..end], &data[end + 1..]));
    let keys = SigningKeys::new(&["the new key".into(), "the old key".into()]).unwrap();

    let genuine = keys.sign(body);
    assert_eq!(keys.verify(body, Some(&genuine)), Ok(()));
    assert_eq!(keys.verify(body, None), Err(SignatureError::Missing));
    let mut changed = body.to_vec();
    changed.push(b' ');
    let verified = keys.verify(&changed, Some(&genuine));
    assert_eq!(verified, Err(SignatureError::Mismatch));
    if let Ok(given) = std::str::from_utf8(signature)
        && keys.verify(body, Some(given)).is_ok()
    {
        assert!(given.eq_ignore_ascii_case(&genuine));
    }

    match parse(body) {
        Ok(Event::Auth(_)) => assert!(serde_json::from_slice::<IgnoredAny>(body).is_ok()),
        Ok(Event::Other(kind)) => assert_ne!(kind, "auth"),
        // The error must not include the body, because it appears in responses and logs.
        Err(error) => assert!(error.to_string().len() < 120),
    }
});
