//! Tests the description of the HTTP interface against the server: every route, its methods, and the forms of answers.

use crate::client::Client;
use crate::harness::TestServer;
use http::Method;
use serde_json::Value;
use std::collections::BTreeSet;

const METHODS: [Method; 6] = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// The path with a name for each of its parameters.
fn filled(path: &str) -> String {
    path.replace("{name}", "nothing").replace("{alias}", "none").replace("{id}", &"0".repeat(32))
}

#[tokio::test]
async fn exactly_the_described_routes_are_served() {
    let server = TestServer::start().await;
    let description = server.client.get("/openapi.json").await.expect(200).json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    let paths = description["paths"].as_object().unwrap();
    assert!(paths.len() > 15, "{} paths", paths.len());
    for (path, operations) in paths.iter().filter(|(path, _)| !path.starts_with("/fn/")) {
        let operations = operations.as_object().unwrap();
        let described: BTreeSet<String> = operations.keys().map(|method| method.to_uppercase()).collect();
        for method in METHODS {
            let reply = server.client.send(method.clone(), &filled(path), &[], "").await;
            let served = reply.status != 405 && !reply.text().contains("there is nothing at");
            assert_eq!(
                served,
                described.contains(method.as_str()),
                "{method} {path}: {} {}",
                reply.status,
                reply.text()
            );
        }
        for (method, operation) in operations {
            let described = operation["summary"].as_str().is_some_and(|text| text.len() > 10);
            assert!(described, "{method} {path} says what it does");
        }
    }
    for path in ["/v1", "/v1/", "/v1/function", "/openapi.yaml", "/v2", "/v1/models/m/nothing"] {
        server.client.get(path).await.expect_error(404, "not-found", "there is nothing at");
    }
}

/// Whether a value has the form of a schema, as far as types, members and references go.
fn fits(description: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let named = description.pointer(name.trim_start_matches('#'));
        return fits(description, named.ok_or(format!("{name} is not described"))?, value, place);
    }
    for all in schema["allOf"].as_array().into_iter().flatten() {
        fits(description, all, value, place)?;
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let fits = any.iter().any(|schema| fits(description, schema, value, place).is_ok());
        return if fits { Ok(()) } else { Err(format!("{place}: {value} fits none of {any:?}")) };
    }
    let named = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let types = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    if !types[0].is_null() && !types.iter().any(named) {
        return Err(format!("{place}: {value} is no {types:?}"));
    }
    for (key, member) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(key) {
            fits(description, member, value, &format!("{place}.{key}"))?;
        }
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        let key = key.as_str().unwrap();
        value.get(key).ok_or(format!("{place} lacks {key}: {value}"))?;
    }
    for item in value.as_array().into_iter().flatten() {
        fits(description, &schema["items"], item, &format!("{place}[]"))?;
    }
    Ok(())
}

async fn check(client: &Client, description: &Value, path: &str, route: &str) {
    let answer = client.get(path).await.expect(200).json();
    let schema = format!("/paths/{}/get/responses/200/content/application~1json/schema", route.replace('/', "~1"));
    let schema = description.pointer(&schema).unwrap_or_else(|| panic!("{route} has a described answer"));
    fits(description, schema, &answer, route).unwrap();
    let members: Vec<&String> = answer.as_object().unwrap().keys().collect();
    let known = known_members(description, schema);
    for member in members {
        assert!(known.contains(member), "{route}: the member {member} is not described");
    }
}

fn known_members(description: &Value, schema: &Value) -> BTreeSet<String> {
    let named = schema["$ref"].as_str().map(|name| description.pointer(name.trim_start_matches('#')).unwrap());
    let schema = named.unwrap_or(schema);
    let mut known: BTreeSet<String> =
        schema["properties"].as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
    for all in schema["allOf"].as_array().into_iter().flatten() {
        known.extend(known_members(description, all));
    }
    known
}

#[tokio::test]
async fn answers_have_the_described_forms() {
    let server = TestServer::start().await;
    server.deploy("file-type", "file-type").await;
    server.add_model("magika").await;
    server.client.post("/fn/file-type", "x").await.expect(200);
    server.client.post("/v1/uploads", "").await.expect(201);
    server.client.put("/v1/models/magika/aliases/stable", r#"{"version": 1}"#).await.expect(200);
    let description = server.client.get("/openapi.json").await.expect(200).json();
    for (path, route) in [
        ("/v1/status", "/v1/status"),
        ("/v1/functions", "/v1/functions"),
        ("/v1/functions/file-type", "/v1/functions/{name}"),
        ("/v1/functions/file-type/versions", "/v1/functions/{name}/versions"),
        ("/v1/functions/file-type/settings", "/v1/functions/{name}/settings"),
        ("/v1/functions/file-type/logs", "/v1/functions/{name}/logs"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/magika", "/v1/models/{name}"),
        ("/v1/models/magika/versions", "/v1/models/{name}/versions"),
        ("/v1/uploads", "/v1/uploads"),
    ] {
        check(&server.client, &description, path, route).await;
    }
    assert!(fits(&description, &serde_json::json!({"type": "string"}), &Value::Null, "").is_err());
}
