//! The CRDs, as generated from the types, with what the derive cannot say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{Portal, PortalRelease};

/// Bound of a text in the status that says nothing of its length.
const NAME_LENGTH: i64 = 63;
/// Bound of a condition's message: what the operator writes at most.
const MESSAGE_LENGTH: i64 = 2048;

/// The CRDs of every kind.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [Portal::crd(), PortalRelease::crd()].into_iter().map(completed).collect()
}

/// The CRDs with their file names under `crds/`, each as one YAML document.
///
/// # Errors
/// When a CRD cannot be written as YAML, which no input can cause.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_json::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            // Through JSON first: its maps are ordered, so the text is stable.
            let value = serde_json::to_value(&crd)?;
            let yaml = serde_saphyr::to_string(&value).map_err(<serde_json::Error as serde::ser::Error>::custom)?;
            Ok((format!("{}.yaml", crd.spec.names.plural), yaml))
        })
        .collect()
}

fn completed(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        let Some(parts) = schema.and_then(|root| root.properties.as_mut()) else { continue };
        if let Some(spec) = parts.get_mut("spec") {
            each(spec, &mut kept_as_written);
        }
        if let Some(status) = parts.get_mut("status") {
            each(status, &mut open);
            bound_conditions(status);
            never_healthy_unseen(status);
        }
    }
    crd
}

/// A default in the schema is written into every stored object, so that a later version could not distinguish it from what a user wrote.
/// What a user did not write is not stored; the operator fills it in when it reads, and the description says with what.
fn kept_as_written(schema: &mut JSONSchemaProps) {
    // A null is then the same as nothing, to the rules too.
    schema.nullable = None;
    // Rust's own name of a small number's format; the API server warns of it.
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    let Some(JSON(default)) = schema.default.take() else { return };
    let text = match &default {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Bool(_) | Value::Number(_) => default.to_string(),
        _ => return,
    };
    let description = schema.description.take().unwrap_or_default();
    schema.description = Some(format!("{description} Default: `{text}`.").trim_start().to_owned());
}

/// A status may hold a word that only a newer operator knows, and each text has a bound.
fn open(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.enum_ = None;
    if schema.type_.as_deref() == Some("string") && schema.format.is_none() {
        schema.max_length.get_or_insert(NAME_LENGTH);
    }
}

/// Conditions are Kubernetes' own type, which has no bounds.
fn bound_conditions(status: &mut JSONSchemaProps) {
    let conditions = status.properties.as_mut().and_then(|properties| properties.get_mut("conditions"));
    let Some(JSONSchemaPropsOrArray::Schema(item)) = conditions.and_then(|list| list.items.as_mut()) else { return };
    if let Some(message) = item.properties.as_mut().and_then(|properties| properties.get_mut("message")) {
        message.max_length = Some(MESSAGE_LENGTH);
    }
}

/// Tools which judge health by `observedGeneration` never take a new object for a healthy one.
fn never_healthy_unseen(status: &mut JSONSchemaProps) {
    status.default = Some(JSON(json!({ "observedGeneration": -1 })));
}

/// Applies a change to a schema and to everything below it.
fn each(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        each(property, change);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => each(item, change),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(|item| each(item, change)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        each(values, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every schema under `part` of every CRD, with its path.
    fn schemas(part: &str) -> Vec<(String, Value)> {
        fn walk(path: String, schema: &Value, found: &mut Vec<(String, Value)>) {
            found.push((path.clone(), schema.clone()));
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                walk(format!("{path}.{name}"), property, found);
            }
            for (key, below) in [("items", "[]"), ("additionalProperties", "{}")] {
                if schema[key].is_object() {
                    walk(format!("{path}{below}"), &schema[key], found);
                }
            }
        }
        let mut found = Vec::new();
        for crd in crds() {
            let crd = serde_json::to_value(crd).unwrap();
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            walk(format!("{kind}.{part}"), &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part], &mut found);
        }
        assert!(found.len() > 50, "the schemas were not found: {}", found.len());
        found
    }

    #[test]
    fn what_a_user_did_not_write_is_not_stored() {
        for (path, schema) in schemas("spec") {
            assert_eq!(schema.get("default"), None, "{path}");
            assert_eq!(schema.get("nullable"), None, "{path}");
        }
        let defaults: Vec<String> =
            schemas("status").into_iter().filter(|(_, schema)| schema.get("default").is_some()).map(|(path, _)| path).collect();
        assert_eq!(defaults, ["Portal.status", "PortalRelease.status"]);
    }

    #[test]
    fn a_default_is_described() {
        let described =
            |path: &str| schemas("spec").into_iter().find(|(at, _)| at == path).unwrap().1["description"].as_str().unwrap().to_owned();
        assert!(described("Portal.spec.database.lockTimeout").ends_with("Default: `30s`."));
        assert!(described("Portal.spec.views.createStaging").ends_with("Default: `true`."));
        assert!(described("Portal.spec.freeze.before").ends_with("Default: `FinaliseSwap`."));
    }

    #[test]
    fn each_list_says_how_owners_share_it() {
        for (path, schema) in schemas("spec").into_iter().filter(|(_, schema)| schema["type"] == "array") {
            assert!(schema["maxItems"].is_u64(), "{path} has no bound");
            let strategy = schema["x-kubernetes-list-type"].as_str();
            assert!(matches!(strategy, Some("map" | "set" | "atomic")), "{path}: {strategy:?}");
            let required = &schema["items"]["required"];
            for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
                assert!(required.as_array().unwrap().contains(key), "{path} has items without {key}");
            }
        }
    }

    #[test]
    fn a_status_takes_words_of_a_newer_version_and_is_bounded() {
        for (path, schema) in schemas("status") {
            assert_eq!(schema.get("enum"), None, "{path}");
            match schema["type"].as_str().unwrap() {
                "string" => assert!(schema["maxLength"].is_u64() || schema["format"].is_string(), "{path} has no bound"),
                "array" => {
                    assert!(schema["maxItems"].is_u64(), "{path} has no bound");
                    let merge = if path.ends_with(".conditions") { "map" } else { "atomic" };
                    assert_eq!(schema["x-kubernetes-list-type"], merge, "{path}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_field_has_a_text_of_its_own() {
        let schemas: Vec<_> = schemas("spec").into_iter().chain(schemas("status")).collect();
        for (path, schema) in schemas.iter().filter(|(path, _)| !path.ends_with("[]") && !path.ends_with("{}")) {
            let text = schema["description"].as_str().unwrap_or_else(|| panic!("{path} has no description"));
            // The type's own text would be found at every field of that type.
            let name = |path: &str| path.rsplit('.').next().map(str::to_owned);
            let twin =
                schemas.iter().find(|(at, other)| name(at) != name(path) && other["enum"].is_array() && other["description"] == text);
            assert!(schema["enum"].is_null() || twin.is_none(), "{path} has the text of {twin:?}: {text}");
        }
    }
}
