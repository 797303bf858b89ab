//! The API document says what is served, all of it and nothing else.

use std::collections::BTreeSet;

use host_api::{Problem, ProblemCode, path};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::support::{Answer, Server};

/// What hostd is to serve.
const ROUTES: [(&str, &str); 14] = [
    ("get", path::NICS),
    ("post", path::NICS),
    ("get", path::NIC),
    ("delete", path::NIC),
    ("post", path::NIC_ATTACH),
    ("post", path::NIC_DETACH),
    ("post", path::NIC_MOVE),
    ("get", path::VMS),
    ("get", path::VM),
    ("get", path::LIMITS),
    ("get", path::EVENTS),
    ("get", path::OPENAPI),
    ("get", path::HEALTH),
    ("get", path::METRICS),
];

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

async fn document(server: &Server) -> Value {
    server.get(path::OPENAPI).await.json()
}

fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(move |method| (method.clone(), path.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_document_has_every_route_and_no_other() {
    let server = Server::start().await;

    let documented = documented(&document(&server).await);

    let routes = ROUTES.map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(documented, BTreeSet::from(routes));
}

#[tokio::test]
async fn what_the_document_has_is_served_and_nothing_else_is() {
    let server = Server::start().await;
    let documented = documented(&document(&server).await);
    let paths: BTreeSet<_> = documented.iter().map(|(_, path)| path).collect();

    for path in paths.into_iter().filter(|path| *path != path::EVENTS) {
        for method in METHODS {
            let name = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = server
                .send(
                    name,
                    &path.replace("{id}", "nic-0000000000"),
                    &[],
                    Vec::new(),
                )
                .await;
            let is_served = answer.status != StatusCode::METHOD_NOT_ALLOWED;
            let is_documented = documented.contains(&(method.to_owned(), path.clone()));
            assert_eq!(is_served, is_documented, "{method} {path}: {answer:?}");
            if !is_served {
                assert_eq!(allowed(&answer), methods_of(&documented, path), "{path}");
            }
        }
    }
}

/// What a refused method is told of those that are taken; HEAD goes with GET.
fn allowed(answer: &Answer) -> BTreeSet<String> {
    let named = answer.header("allow").unwrap_or_default().split(',');
    let methods = named.map(str::to_lowercase).filter(|name| name != "head");
    methods.collect()
}

fn methods_of(documented: &BTreeSet<(String, String)>, path: &str) -> BTreeSet<String> {
    let here = documented.iter().filter(|(_, other)| other == path);
    here.map(|(method, _)| method.clone()).collect()
}

/// Every operation of the document, with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    all.collect()
}

#[tokio::test]
async fn the_document_tells_whose_it_is_and_where_it_is_served() {
    let server = Server::start().await;
    let document = document(&server).await;

    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for field in ["title", "version", "description"] {
        assert!(
            !document["info"][field].as_str().unwrap().is_empty(),
            "{field}"
        );
    }
    assert_eq!(document["info"]["license"]["identifier"], "Apache-2.0");
    assert_eq!(document["servers"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn every_operation_has_a_name_of_its_own_a_summary_a_tag_and_its_path_parameters() {
    let server = Server::start().await;
    let document = document(&server).await;
    let tags: Vec<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut names = BTreeSet::new();

    for (place, operation) in operations(&document) {
        assert!(
            names.insert(operation["operationId"].as_str().unwrap()),
            "{place}"
        );
        assert!(
            operation["summary"]
                .as_str()
                .is_some_and(|text| text.ends_with('.')),
            "{place}"
        );
        let tagged = operation["tags"].as_array().unwrap();
        assert!(
            tagged.iter().all(|tag| tags.contains(&tag)),
            "{place}: {tagged:?}"
        );
        let empty = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&empty);
        let in_path = parameters
            .iter()
            .filter(|one| one["in"] == "path" && one["required"] == true);
        assert_eq!(
            in_path.count(),
            usize::from(place.contains("{id}")),
            "{place}"
        );
    }
}

#[tokio::test]
async fn every_response_has_a_schema_and_every_refusal_is_a_problem() {
    let server = Server::start().await;
    let document = document(&server).await;

    for (place, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.contains_key("200") && responses.contains_key("default"),
            "{place}"
        );
        for (status, response) in responses {
            let content = response["content"].as_object().unwrap();
            let (media_type, body) = content.iter().next().unwrap();
            let schema = &body["schema"];
            assert!(
                !response["description"].as_str().unwrap().is_empty(),
                "{place} {status}"
            );
            assert!(schema.is_object(), "{place} {status}");
            let is_health = schema["$ref"] == "#/components/schemas/Health";
            if !status.starts_with('2') && !is_health {
                assert_eq!(media_type, Problem::MEDIA_TYPE, "{place} {status}");
                assert_eq!(
                    schema["$ref"], "#/components/schemas/Problem",
                    "{place} {status}"
                );
            }
        }
        let mutates = !place.starts_with("get ");
        assert_eq!(responses.contains_key("202"), mutates, "{place}");
        assert_eq!(responses.contains_key("409"), mutates, "{place}");
    }
}

#[tokio::test]
async fn every_body_has_an_example() {
    let server = Server::start().await;
    let document = document(&server).await;
    let schemas = &document["components"]["schemas"];

    for name in [
        "CreateNic",
        "AttachNic",
        "MoveNic",
        "Nic",
        "Vm",
        "Limit",
        "Event",
        "Problem",
        "Health",
    ] {
        let schema = &schemas[name];
        let has_one = schema.get("example").or(schema.get("examples")).is_some();
        assert!(has_one, "{name}: {schema}");
    }
}

#[tokio::test]
async fn the_document_names_every_code_and_leads_nowhere_wrong() {
    let server = Server::start().await;
    let document = document(&server).await;

    let listed = document["components"]["schemas"]["ProblemCode"]["enum"]
        .as_array()
        .unwrap();
    let codes: Vec<_> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(
        listed
            .iter()
            .map(|code| code.as_str().unwrap())
            .collect::<Vec<_>>(),
        codes
    );
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    for header in [
        path::CLIENT_TOKEN_HEADER,
        path::TENANT_HEADER,
        path::LAST_EVENT_ID_HEADER,
    ] {
        assert!(text.contains(&format!("\"name\":\"{header}\"")), "{header}");
    }
}
