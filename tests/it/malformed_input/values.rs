//! Values of attackers and of careless clients.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;

/// A text that would add a line to a log if written unescaped.
pub(super) const FORGED: &str = "\n{\"level\":\"ERROR\",\"message\":\"forged\"}\n";

const ODD_TEXTS: [&str; 24] = [
    "",
    " ",
    "\u{0}",
    "a\u{0}b",
    "'; drop table user_connector_connection; --",
    "\" or 1=1 --",
    "$1 $2 {} %s %n",
    FORGED,
    "\r\nset-cookie: a=b\r\n\r\n",
    "\u{1b}[31mred\u{1b}[0m\u{7}",
    "\u{202e}gnirts\u{202c}",
    "\u{2066}a\u{2069}",
    "\u{feff}",
    "e\u{301}\u{301}\u{301}",
    "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "\u{fffe}\u{ffff}",
    "\u{10ffff}",
    "\u{85}\u{2028}\u{2029}",
    "../../etc/passwd",
    "..%2f..%2f",
    "%00%0a%ff",
    "<script>alert(1)</script>",
    "${jndi:ldap://x/}",
    "-1",
];

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-0.0",
    "1e400",
    "-1e400",
    "1e-400",
    "1e308",
    "4.9e-324",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "01",
    "1.",
    "NaN",
    "123456789012345678901234567890123456789012345678901234567890",
];

const STRINGS: &[&str] = &[
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\ud83d\ude00""#,
    r#""\u0000""#,
    r#""a\u0000b""#,
    r#""\u001f""#,
    "\"\u{1}\"",
    r#""\x""#,
    "\"",
];

/// Generates a text, possibly too long, rarely an ordinary one.
pub(super) fn text() -> impl Strategy<Value = String> {
    let odd = proptest::sample::select(&ODD_TEXTS[..]);
    let piece = prop_oneof![
        3 => odd.prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        2 => "[a-z0-9]{1,8}",
    ];
    prop_oneof![
        8 => vec(piece.clone(), 1..5).prop_map(|pieces| pieces.concat()),
        1 => (piece, 250_usize..600).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

/// Generates JSON as text, possibly invalid or too large for any parser.
pub(super) fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        2 => proptest::sample::select(NUMBERS).prop_map(str::to_owned),
        3 => any::<f64>().prop_map(|number| number.to_string()),
        2 => any::<u64>().prop_map(|number| number.to_string()),
        1 => proptest::sample::select(STRINGS).prop_map(str::to_owned),
        4 => text().prop_map(|text| quoted(&text)),
        1 => proptest::sample::select(&["null", "true", "false"][..]).prop_map(str::to_owned),
    ];
    let tree = leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec((name(), inner), 0..5).prop_map(|fields| object(&fields)),
        ]
    });
    prop_oneof![
        8 => tree.clone(),
        1 => (tree, prop_oneof![1_usize..200, 110_usize..130]).prop_map(|(tree, deep)| format!("{}{tree}{}", "[".repeat(deep), "]".repeat(deep))),
    ]
}

/// Generates a field's name from a few, so that some are duplicated.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[abc]", 1 => text()]
}

pub(super) fn object(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}:{value}", quoted(name)))
        .collect();
    format!("{{{}}}", fields.join(","))
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Encodes every byte for a path segment or a query value.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02x}");
        }
        encoded
    })
}
