//! Generators of requests with unexpected content.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::values::{encoded, json, object, quoted, text};

/// The query parameters of all endpoints.
const PARAMETERS: &[&str] = &[
    "limit",
    "cursor",
    "status",
    "connector_id",
    "wait",
    "connection_id",
    "state",
    "code",
    "instance_id",
    "search",
];

/// A request with unexpected content.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Connect {
        connector: String,
        instance: String,
        body: String,
        key: Option<String>,
    },
    Update {
        body: String,
    },
    Label {
        label: String,
    },
    Get {
        id: String,
        query: String,
    },
    List {
        query: String,
    },
    History {
        query: String,
    },
    Stream {
        last: String,
    },
    Callback {
        query: String,
        page: bool,
    },
    Disconnect {
        connector: String,
        instance: String,
    },
    Authorization {
        value: String,
    },
    Token {
        user: String,
        connector: String,
        instance: String,
    },
    Erase {
        user: String,
    },
    Webhook {
        attempt: String,
        signature: String,
        body: String,
    },
    Anything {
        path: String,
        header: String,
    },
}

fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        5 => proptest::sample::select(PARAMETERS).prop_map(str::to_owned),
        1 => text().prop_map(|text| encoded(&text)),
    ];
    let value = prop_oneof![
        3 => text().prop_map(|text| encoded(&text)),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => Just("99999999999999999999999".to_owned()),
        1 => Just("%ff%fe".to_owned()),
    ];
    vec((name, value), 0..4).prop_map(|pairs| {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    })
}

/// Generates the body of a connect, whose fields may have valid or unexpected values.
fn connect_body() -> impl Strategy<Value = String> {
    let quoted = || text().prop_map(|text| quoted(&text));
    let field = |name: &'static str, value: BoxedStrategy<String>| {
        option::weighted(0.3, value)
            .prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    };
    let fields = (
        field("label", quoted().boxed()),
        field(
            "config",
            vec((text(), json()), 0..4)
                .prop_map(|fields| object(&fields))
                .boxed(),
        ),
        field(
            "scopes",
            vec(quoted(), 0..3)
                .prop_map(|scopes| format!("[{}]", scopes.join(",")))
                .boxed(),
        ),
        field("login_hint", quoted().boxed()),
        option::weighted(0.1, (text(), json())),
    );
    fields.prop_map(|(label, config, scopes, hint, other)| {
        let fields: Vec<_> = [label, config, scopes, hint, other]
            .into_iter()
            .flatten()
            .collect();
        object(&fields)
    })
}

/// Generates any input.
pub(super) fn input() -> impl Strategy<Value = Input> {
    let connector = || prop_oneof![5 => Just("gmail".to_owned()), 1 => text()];
    let instance = || prop_oneof![1 => Just(String::new()), 4 => text()];
    let changes = vec((text(), json()), 0..5)
        .prop_map(|fields| format!("{{\"config\":{}}}", object(&fields)));
    prop_oneof![
        6 => (connector(), instance(), connect_body(), option::weighted(0.3, text()))
            .prop_map(|(connector, instance, body, key)| Input::Connect { connector, instance, body, key }),
        8 => prop_oneof![5 => changes, 1 => json()].prop_map(|body| Input::Update { body }),
        3 => text().prop_map(|label| Input::Label { label }),
        1 => (text(), query()).prop_map(|(id, query)| Input::Get { id, query }),
        2 => query().prop_map(|query| Input::List { query }),
        1 => query().prop_map(|query| Input::History { query }),
        1 => text().prop_map(|last| Input::Stream { last }),
        2 => (query(), any::<bool>()).prop_map(|(query, page)| Input::Callback { query, page }),
        1 => (connector(), instance()).prop_map(|(connector, instance)| Input::Disconnect { connector, instance }),
        2 => text().prop_map(|value| Input::Authorization { value }),
        2 => (text(), connector(), instance())
            .prop_map(|(user, connector, instance)| Input::Token { user, connector, instance }),
        1 => text().prop_map(|user| Input::Erase { user }),
        2 => (text(), text(), json()).prop_map(|(attempt, signature, body)| Input::Webhook { attempt, signature, body }),
        2 => (text(), text()).prop_map(|(path, header)| Input::Anything { path, header }),
    ]
}
