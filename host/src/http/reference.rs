//! `docs/http.md`, written from the OpenAPI description; it describes nothing itself.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The page in Markdown. `description` is the JSON of OpenAPI.
fn reference(description: &str) -> String {
    let description: Value = serde_json::from_str(description).unwrap_or_default();
    let mut page = String::from(
        "# HTTP reference\n\n<!-- Written from the OpenAPI description by its test: HEARTH_WRITE_DOCS=1 cargo test --workspace \
         --lib reference -->\n\nA running server has this description at `/openapi.json`. Everything here is also below \
         `/t/{tenant}`, for that tenant; without it, the tenant is `default`. Errors of every route have the form of \
         [ErrorBody](#errorbody).\n",
    );
    let mut by_tag: BTreeMap<&str, Vec<(&str, &str, &Value)>> = BTreeMap::new();
    for (path, operations) in description["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let tag = operation["tags"][0].as_str().unwrap_or_default();
            by_tag.entry(tag).or_default().push((path, method, operation));
        }
    }
    for tag in description["tags"].as_array().into_iter().flatten() {
        let name = text(&tag["name"]);
        let _ = write!(page, "\n## {name}\n\n{}\n", text(&tag["description"]));
        for (path, method, operation) in by_tag.get(name).into_iter().flatten() {
            write_operation(&mut page, path, method, operation);
        }
    }
    page.push_str("\n## Types\n");
    for (name, schema) in description["components"]["schemas"].as_object().into_iter().flatten() {
        write_type(&mut page, name, schema);
    }
    page
}

fn write_operation(page: &mut String, path: &str, method: &str, operation: &Value) {
    let _ = write!(page, "\n### {} {path}\n\n{}\n", method.to_uppercase(), text(&operation["summary"]));
    if let Some(more) = operation["description"].as_str() {
        let _ = write!(page, "\n{more}\n");
    }
    let parameters = operation["parameters"].as_array().filter(|all| !all.is_empty());
    for (number, parameter) in parameters.into_iter().flatten().enumerate() {
        if number == 0 {
            page.push_str("\n| parameter | in | meaning |\n|---|---|---|\n");
        }
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let _ = writeln!(page, "| `{name}` | {place} | {} |", line(&parameter["description"]));
    }
    for (content_type, media) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let _ = write!(page, "\nBody: `{content_type}`{}\n", described(&media["schema"]));
    }
    page.push_str("\n| status | answer |\n|---|---|\n");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let forms = response["content"].as_object().into_iter().flatten();
        let forms: Vec<String> =
            forms.map(|(kind, media)| format!("`{kind}`{}", described(&media["schema"]))).collect();
        let mut said = line(&response["description"]);
        if !said.is_empty() && !forms.is_empty() {
            said.push_str(": ");
        }
        let _ = writeln!(page, "| {status} | {said}{} |", forms.join(", "));
    }
}

fn write_type(page: &mut String, name: &str, schema: &Value) {
    let _ = write!(page, "\n### {name}\n");
    if let Some(about) = schema["description"].as_str() {
        let _ = write!(page, "\n{about}\n");
    }
    let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    for part in parts.iter().filter(|part| !part["$ref"].is_null()) {
        let _ = write!(page, "\nHas every member of {}.\n", form(part));
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{}`", text(word))).collect();
        let _ = write!(page, "\nOne of {}.\n", words.join(", "));
    }
    let members = parts.iter().filter_map(|part| part["properties"].as_object()).flatten();
    for (number, (key, member)) in members.enumerate() {
        if number == 0 {
            page.push_str("\n| member | form | meaning |\n|---|---|---|\n");
        }
        let _ = writeln!(page, "| `{key}` | {} | {} |", form(member), line(&member["description"]));
    }
}

/// ` of FORM`, for a schema that says more than that there are bytes.
fn described(schema: &Value) -> String {
    let form = form(schema);
    if schema.is_null() || form == "string" || form == "list of integer" { String::new() } else { format!(", {form}") }
}

/// A schema in words.
fn form(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        return any.iter().map(form).collect::<Vec<_>>().join(" or ");
    }
    let one = |name: &str| match name {
        "array" => format!("list of {}", form(&schema["items"])),
        "object" if !schema["additionalProperties"].is_null() => {
            format!("map to {}", form(&schema["additionalProperties"]))
        }
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::Array(names) => names.iter().map(|name| one(text(name))).collect::<Vec<_>>().join(" or "),
        Value::String(name) => one(name),
        _ => "any".to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The text of a description on one line of a table.
fn line(value: &Value) -> String {
    text(value).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_reference_page_is_that_of_the_description() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
        let page = reference(&super::super::routes::description());
        assert!(page.contains("### PUT /v1/functions/{name}\n") && page.contains("### FunctionPut\n"), "{page}");
        if std::env::var_os("HEARTH_WRITE_DOCS").is_some_and(|value| value == "1") {
            std::fs::write(&path, &page).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == page,
            "docs/http.md is old; write it with HEARTH_WRITE_DOCS=1 cargo test --workspace --lib reference"
        );
    }
}
