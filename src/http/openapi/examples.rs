//! Examples of requests and responses, which tests record from real responses.

use serde_json::{Value, json};

use super::schemas::referenced;

/// The bodies of a request and of its response, by operation id.
const OPERATIONS: &str = include_str!("examples.json");

/// The body of a message, by its type.
const WEBHOOKS: &str = include_str!("webhook_examples.json");

/// Adds the examples to the operations and webhooks, and to the schemas of their bodies.
pub(super) fn add(document: &mut Value) {
    let mut schemas = document["components"]["schemas"].take();
    let examples = parse(OPERATIONS);
    for (_, operation) in operations(&mut document["paths"]) {
        let example = &examples[operation["operationId"].as_str().unwrap_or_default()];
        add_to_operation(operation, example, &mut schemas);
    }
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    illustrate(&problem, &examples["problem"], &mut schemas);
    let messages = parse(WEBHOOKS);
    for (name, operation) in operations(&mut document["webhooks"]) {
        add_to_operation(
            operation,
            &json!({ "request": messages[name] }),
            &mut schemas,
        );
    }
    document["components"]["schemas"] = schemas;
}

fn parse(examples: &str) -> Value {
    serde_json::from_str(examples).expect("a test writes the file")
}

/// Returns every operation with the name of its path or webhook.
fn operations(items: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    let items = items.as_object_mut().into_iter().flatten();
    items.flat_map(|(name, item)| {
        let operations = item.as_object_mut().into_iter().flatten();
        operations.map(move |(_, operation)| (name, operation))
    })
}

fn add_to_operation(operation: &mut Value, example: &Value, schemas: &mut Value) {
    if let Some(body) = operation.get_mut("requestBody") {
        add_to_body(body, &example["request"], schemas);
    }
    let responses = operation["responses"].as_object_mut().into_iter().flatten();
    for (_, response) in responses.filter(|(status, _)| status.starts_with('2')) {
        add_to_body(response, &example["response"], schemas);
    }
}

/// Adds an example to the contents of a request or response.
fn add_to_body(body: &mut Value, example: &Value, schemas: &mut Value) {
    let contents = body.get_mut("content").and_then(Value::as_object_mut);
    for (kind, content) in contents.into_iter().flatten() {
        if !example.is_null() && kind != "text/html" {
            content["example"] = example.clone();
            illustrate(&content["schema"], example, schemas);
        }
    }
}

/// Adds an example of a schema to the schema that it refers to, and to those within, unless they have one.
fn illustrate(schema: &Value, example: &Value, schemas: &mut Value) {
    if let Some(name) = referenced(schema) {
        if example.is_object() && schemas[name].get("examples").is_none() {
            schemas[name]["examples"] = json!([example]);
        }
        let schema = schemas[name].clone();
        return illustrate(&schema, example, schemas);
    }
    match example {
        Value::Object(fields) => {
            for (name, field) in fields {
                illustrate(&schema["properties"][name], field, schemas);
            }
        }
        Value::Array(items) => {
            for item in items {
                illustrate(&schema["items"], item, schemas);
            }
        }
        _ => {}
    }
    if let Some(option) = chosen(schema, example) {
        illustrate(&option, example, schemas);
    }
}

/// Returns the schema of a union that an example belongs to.
fn chosen(schema: &Value, example: &Value) -> Option<Value> {
    let union = &schema["discriminator"];
    if let Some(tag) = union["propertyName"].as_str() {
        let reference = &union["mapping"][example[tag].as_str()?];
        return Some(json!({ "$ref": reference }));
    }
    let options = schema["oneOf"].as_array()?;
    let is_null = |option: &&Value| option["type"] == "null";
    let some = options.iter().find(|option| !is_null(option))?;
    (options.iter().any(|option| is_null(&option)) && !example.is_null()).then(|| some.clone())
}
