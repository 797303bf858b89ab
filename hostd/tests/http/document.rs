//! The API document says what is served, all of it and nothing else.

use std::collections::BTreeSet;

use host_api::{ProblemCode, path};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::support::Server;

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
        }
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
