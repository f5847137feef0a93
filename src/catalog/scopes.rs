//! Compares the scopes that a provider granted with the requested ones.

use serde_json::Value;

/// Scopes that providers return under another name, and the name used in the comparison.
const ALIASES: [(&str, &str); 2] = [
    ("https://www.googleapis.com/auth/userinfo.email", "email"),
    (
        "https://www.googleapis.com/auth/userinfo.profile",
        "profile",
    ),
];

/// Prefixes that a provider's response may omit: Microsoft returns Graph's scopes without their resource.
const RESOURCES: [&str; 2] = [
    "https://graph.microsoft.com/",
    "https://outlook.office.com/",
];

/// Scopes that no response contains: Microsoft returns a refresh token instead of the first, and the scopes that it
/// stands for instead of the second.
const NEVER_ANSWERED: [&str; 2] = ["offline_access", ".default"];

/// Scopes of GitHub that include others. GitHub's response then contains only the first.
const INCLUDED: [(&str, &[&str]); 10] = [
    (
        "repo",
        &[
            "repo:status",
            "repo_deployment",
            "public_repo",
            "repo:invite",
            "security_events",
        ],
    ),
    ("user", &["read:user", "user:email", "user:follow"]),
    (
        "admin:org",
        &["write:org", "read:org", "manage_runners:org"],
    ),
    ("write:org", &["read:org"]),
    ("admin:public_key", &["write:public_key", "read:public_key"]),
    ("write:public_key", &["read:public_key"]),
    ("admin:repo_hook", &["write:repo_hook", "read:repo_hook"]),
    ("write:repo_hook", &["read:repo_hook"]),
    ("write:packages", &["read:packages"]),
    ("project", &["read:project"]),
];

/// Parses scopes from a text separated by spaces or commas, or from a list. `None` for anything else.
pub fn read(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(split(text)),
        Value::Array(items) => {
            let texts = items.iter().filter_map(Value::as_str);
            let texts = texts.filter(|scope| !scope.contains(char::is_control));
            Some(texts.map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// Splits scopes at spaces (RFC 6749, 3.3) and commas, which some providers use. No scope contains either, or a control
/// character.
pub fn split(text: &str) -> Vec<String> {
    text.split([' ', ','])
        .filter(|scope| !scope.is_empty() && !scope.contains(char::is_control))
        .map(str::to_owned)
        .collect()
}

/// Returns the requested scopes that were not granted, as they were requested.
pub fn missing(asked: &[String], granted: &[String]) -> Vec<String> {
    let granted: Vec<String> = granted.iter().map(|scope| comparable(scope)).collect();
    let is_granted = |asked: &String| {
        let asked = comparable(asked);
        granted.contains(&asked)
            || INCLUDED
                .iter()
                .any(|(all, parts)| parts.contains(&&*asked) && granted.iter().any(|it| it == all))
    };
    let mut missing: Vec<String> = Vec::new();
    for scope in asked {
        let never_answered = NEVER_ANSWERED.contains(&&*comparable(scope));
        if !never_answered && !is_granted(scope) && !missing.contains(scope) {
            missing.push(scope.clone());
        }
    }
    missing
}

fn comparable(scope: &str) -> String {
    if let Some((_, alias)) = ALIASES.iter().find(|(name, _)| *name == scope) {
        return (*alias).to_owned();
    }
    let resource = RESOURCES
        .iter()
        .find_map(|resource| scope.strip_prefix(resource));
    // Microsoft's scopes are case-insensitive, and Google's are lower case anyway.
    match resource {
        Some(name) => name.to_lowercase(),
        None => scope.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn missing_of(asked: &str, granted: &str) -> String {
        missing(&split(asked), &split(granted)).join(" ")
    }

    #[test]
    fn scopes_with_control_characters_are_left_out() {
        let granted = ["a".to_owned()];
        assert_eq!(split("a b\0 \u{7}"), granted);
        assert_eq!(read(&json!(["a", "b\n"])), Some(granted.to_vec()));
    }

    #[test]
    fn missing_scopes_ignore_order_and_aliases() {
        let granted = "https://www.googleapis.com/auth/userinfo.email openid calendar";
        assert_eq!(missing_of("openid email calendar", granted), "");
        assert_eq!(missing_of("openid email drive", granted), "drive");
        assert_eq!(
            missing_of(
                "offline_access https://graph.microsoft.com/Mail.Read",
                "mail.read"
            ),
            ""
        );
        assert_eq!(missing_of(".default", "User.Read"), "");
    }

    #[test]
    fn github_scope_includes_its_parts() {
        assert_eq!(missing_of("repo,public_repo,gist", "repo"), "gist");
        assert_eq!(missing_of("user:email", "user"), "");
    }

    #[test]
    fn scopes_are_read_from_text_and_list() {
        assert_eq!(read(&json!("a,b c")), Some(split("a b c")));
        assert_eq!(read(&json!(["a", "b"])), Some(split("a b")));
        assert_eq!(read(&json!(7)), None);
    }
}
