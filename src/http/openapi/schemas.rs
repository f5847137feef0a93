//! Rewrites schemas so that client generators need not invent names.

use serde_json::{Map, Value, json};

/// Returns a reference to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Returns the name of the schema that a reference refers to.
pub(super) fn referenced(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// Completes the schemas that the types declare.
pub(super) fn complete(schemas: &mut Value, open_enums: &[&str]) {
    for name in open_enums {
        open_enum(schemas, name);
    }
    name_variants(schemas, "Token", "CredentialsBody");
    merge_parts(schemas, "CheckedConnection");
    merge_parts(schemas, "Account");
    if let Some(schemas) = schemas.as_object_mut() {
        schemas.remove("AccountDetails");
    }
    for schema in schemas
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
    {
        let is_closed = ["properties", "additionalProperties"];
        if schema["type"] == "object" && is_closed.iter().all(|key| schema.get(key).is_none()) {
            // Without it, some generators reject further fields.
            schema["additionalProperties"] = true.into();
        }
    }
}

/// Makes an enum any string, and moves its known values to a schema of their own.
fn open_enum(schemas: &mut Value, name: &str) {
    let known_name = format!("Known{name}");
    let known = schemas[name].take();
    let description = known["description"].as_str().unwrap_or_default();
    schemas[name] = json!({
        "description": format!("{description} An open set: accept unknown values."),
        "anyOf": [reference(&known_name), { "type": "string" }],
    });
    schemas[known_name] = known;
}

/// Gives each variant of a tagged enum, flattened into an object, a schema of its own with the object's fields. The title
/// of a variant becomes its name. The object becomes their union.
fn name_variants(schemas: &mut Value, object: &str, variants: &str) {
    const TAG: &str = "type";
    let union = schemas[object].take();
    let common = &union["allOf"][1];
    let variants = schemas.as_object_mut().and_then(|it| it.remove(variants));
    let mut references = Vec::new();
    let mut mapping = Map::new();
    for mut variant in list(variants.unwrap_or_default()["oneOf"].take()) {
        let name = variant["title"].as_str().unwrap_or_default().to_owned();
        let tag = variant["properties"][TAG]["enum"][0].take();
        variant["properties"][TAG] = json!({ "type": "string", "const": tag });
        merge(&mut variant, common);
        references.push(reference(&name));
        mapping.insert(
            tag.as_str().unwrap_or_default().to_owned(),
            format!("#/components/schemas/{name}").into(),
        );
        schemas[name] = variant;
    }
    schemas[object] = json!({
        "description": union["description"],
        "oneOf": references,
        "discriminator": { "propertyName": TAG, "mapping": mapping },
    });
}

/// Makes an object that is composed of others a plain one with all their fields.
fn merge_parts(schemas: &mut Value, name: &str) {
    let composed = schemas[name].take();
    let mut object = json!({ "type": "object", "description": composed["description"] });
    for part in list(composed["allOf"].clone()) {
        let part = match referenced(&part) {
            Some(other) => schemas[other].clone(),
            None => part,
        };
        merge(&mut object, &part);
    }
    schemas[name] = object;
}

/// Adds the fields of an object to another one.
fn merge(target: &mut Value, fields: &Value) {
    for (name, schema) in fields["properties"].as_object().into_iter().flatten() {
        target["properties"][name] = schema.clone();
    }
    let required = list(target["required"].take());
    let others = list(fields["required"].clone());
    target["required"] = required.into_iter().chain(others).collect();
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Removes `null` from the types of a parameter: a header or query parameter can be omitted, but not be null.
pub(super) fn remove_null_type(schema: &mut Value) {
    remove_null_option(schema);
    if let Value::Array(types) = &schema["type"]
        && let [one] = types.iter().filter(|it| *it != "null").collect::<Vec<_>>()[..]
    {
        schema["type"] = one.clone();
    }
}

/// Replaces a choice between null and one schema by that schema.
pub(super) fn remove_null_option(schema: &mut Value) {
    let is_null = |it: &&Value| it["type"] == "null";
    if let Value::Array(options) = &schema["oneOf"]
        && options.iter().any(|it| is_null(&it))
        && let [one] = options.iter().filter(|it| !is_null(it)).collect::<Vec<_>>()[..]
    {
        *schema = one.clone();
    }
}
